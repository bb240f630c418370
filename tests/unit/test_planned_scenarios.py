"""Scenarios in TOML: the same everywhere, told one device at a time, and taken or rejected as they say."""

import re
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from device_sim.scenario import Story
from device_sim.scenarios import bundled
from device_sim.scenarios.payloads import PAYLOADS
from device_sim.scenarios.plan_file import read_plan
from device_sim.scenarios.planned import PlannedScenario
from pisync.clock import from_ms, to_ms
from pisync.domain import topics
from pisync.domain.decoding import decode
from pisync.domain.device_state import project
from pisync.domain.directory import Entry, Kind, as_json, read_members
from pisync.domain.events import Reason, SyncEvent
from pisync.errors import ConfigurationError

NOW = datetime(2026, 5, 8, 12, 30, tzinfo=UTC)
NAMES = bundled.names()

# What a scenario tells with seed 1 as of `NOW`. Where one changes, a seed no longer repeats what it did: only
# a change of its file, or of what that means, may change it.
DIGESTS: dict[str, str] = {
    "bad-sd-card": "6c200f017c97a552",
    "duplicate-senders": "554097b373121287",
    "firmware-bug": "5f8ca02d82d3d63b",
    "flaky-line": "722060ca0ff7e68c",
    "gateway": "71ae0ceb42caf6e8",
    "habits": "310231aec0b13e31",
    "monsoon-week": "4bfa1dec615e2160",
    "reconnect-storm": "f86bd32bd9b23837",
    "school-day": "42facb5dbe85ea29",
    "site-loses-its-line": "a3908cb6666a2420",
    "stuck-device": "13a92e9f9ee0d11f",
    "wrong-clocks": "6774868251e6100a",
    "year": "a42bedfcc949c5cf",
}


def planned(name: str, *, seed: int = 1, devices: int | None = None, now: datetime = NOW) -> PlannedScenario:
    return PlannedScenario(bundled.load(name), seed=seed, now_ms=to_ms(now), devices=devices)


def small(name: str) -> PlannedScenario:
    return planned(name, devices=12)


@cache
def stories(name: str) -> list[Story]:
    made = small(name)
    return [made.story(place) for place in range(made.devices)]


def digest(made: PlannedScenario) -> str:
    found = sha256()
    for place in range(made.devices):
        story = made.story(place)
        found.update(msgspec.json.encode([story.device_id, story.name, story.site, story.periods]))
        found.update(msgspec.json.encode(as_json(made.device(place).entry)))
    for site in made.sites:
        found.update(msgspec.json.encode(as_json(site.entry)))
    return found.hexdigest()[:16]


def events(story: Story) -> list[SyncEvent]:
    return [event for period in story.periods for event in (*period.backlog, *period.live)]


def test_all_that_were_promised_are_bundled() -> None:
    assert set(NAMES) >= {"school-day", "monsoon-week", "flaky-line", "bad-sd-card", "stuck-device"}
    assert set(NAMES) >= {"wrong-clocks", "reconnect-storm", "firmware-bug", "duplicate-senders", "habits"}
    assert set(NAMES) >= {"site-loses-its-line", "gateway", "year"}


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_tells_the_same_on_any_machine(name: str) -> None:
    assert digest(small(name)) == DIGESTS[name]
    assert digest(planned(name, seed=2, devices=12)) != DIGESTS[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_story_depends_on_no_other(name: str) -> None:
    assert small(name).story(7) == stories(name)[7]


@pytest.mark.parametrize("name", NAMES)
def test_a_bridge_takes_every_event_but_those_of_wrong_clocks(name: str) -> None:
    """Now, or hours later: what it does may not depend on how long the run takes."""
    for story in stories(name):
        kept = [
            event
            for period in story.periods
            for event in (*period.backlog[: story.spool_events_max], *period.live)
        ]
        for received in (NOW, NOW + timedelta(hours=5)):
            payloads = [msgspec.json.encode(event) for event in kept]
            found = [decode(payload, story.device_id, received) for payload in payloads]
            reasons = {rejection.reason for each in found for rejection in each.rejections}
            assert reasons <= {Reason.CLOCK_UNSET, Reason.CLOCK_AHEAD}
            assert sum(len(each.rejections) for each in found) == story.rejected
            assert bool(reasons) <= (name == "wrong-clocks")


@pytest.mark.parametrize("name", NAMES)
def test_failures_and_streaks_are_told_as_they_are(name: str) -> None:
    for story in stories(name):
        if story.spool_events_max is not None:
            continue
        taken = [
            event for event in events(story) if datetime(2015, 1, 1, tzinfo=UTC) < event.timestamp <= NOW
        ]
        if taken:
            state = project(taken)[story.device_id]
            assert (story.failures, story.streak) == (state.failures, state.streak)


@pytest.mark.parametrize("name", NAMES)
def test_no_two_events_of_a_device_have_one_time(name: str) -> None:
    for story in stories(name):
        distinct = {event.timestamp: event for event in events(story)}
        assert all(distinct[event.timestamp] == event for event in events(story))
        replayed = sum(period.replayed for period in story.periods)
        assert len(distinct) == len(events(story)) - replayed
        connects = [period.connects_ms for period in story.periods]
        assert all(each is not None for each in connects)
        assert connects == sorted(connects, key=lambda each: each or 0)


def test_a_clock_that_says_the_same_time_twice_makes_two_events_all_the_same() -> None:
    """Without a battery, and syncing at the same minute of every day."""
    plan = read_plan(
        'about="x"\nfleet=1\nspan="365d"\n[habits.h]\nat=["08:00/08:01"]\nsyncs=15\ndays="all"\n'
        "[clocks.c]\nboots_at=2024-01-01T00:00:00Z\n"
        '[[devices]]\nname="d"\nshare=1\nhabit="h"\nclock="c"\n',
        name="x",
        file="x.toml",
    )
    stamps = [event.timestamp for event in events(PlannedScenario(plan, seed=1, now_ms=to_ms(NOW)).story(0))]
    assert len(stamps) == len(set(stamps)) > 5000


@pytest.mark.parametrize("name", NAMES)
def test_the_directory_takes_every_entry(name: str) -> None:
    made = small(name)
    site_ids = {site.site_id for site in made.sites}
    devices = list(made.entries())
    assert len({entry.device_id for entry in devices}) == len(devices)
    entries: list[tuple[Kind, Entry]] = [(Kind.DEVICES, entry) for entry in devices]
    entries += [(Kind.SITES, site.entry) for site in made.sites]
    for kind, entry in entries:
        assert read_members(kind, msgspec.to_builtins(as_json(entry)))[1] == []
    assert all(entry.site in site_ids or (entry.site is None and not site_ids) for entry in devices)
    assert all(topics.is_device_id(story.device_id) for story in stories(name))


def test_every_reason_that_a_device_can_cause_is_among_the_bugs() -> None:
    not_of_a_payload = {Reason.REFUSED, Reason.SEVERAL, Reason.RATE_EXCEEDED, Reason.UNKNOWN_DEVICE}
    assert {kind.reason for kind in PAYLOADS.values()} == set(Reason) - not_of_a_payload
    sent = {
        reason
        for story in stories("firmware-bug")
        for period in story.periods
        for reason in (*period.raw_reasons, *(stray.reason for stray in period.strays))
    }
    assert sent == set(Reason) - not_of_a_payload


@pytest.mark.parametrize("name", [name for name, kind in PAYLOADS.items() if not kind.topic])
def test_a_bug_is_rejected_for_its_reason(name: str) -> None:
    event = next(iter(events(stories("school-day")[0])))
    made = PAYLOADS[name].of(event)
    decoded = decode(made.payload, event.device_id, NOW)
    if PAYLOADS[name].contradicts:
        assert decoded.events[0].timestamp == event.timestamp
        assert decoded.events[0].total_files_synced != event.total_files_synced
    else:
        assert [each.reason for each in decoded.rejections] == [made.reason]
        assert decoded.events == []


def test_a_conflict_comes_after_what_it_contradicts() -> None:
    for story in stories("firmware-bug"):
        stored: set[datetime] = set()
        for period in story.periods:
            for reason, raw in zip(period.raw_reasons, period.raw, strict=True):
                if reason == Reason.CONFLICT:
                    assert decode(raw, story.device_id, NOW).events[0].timestamp in stored
            stored |= {event.timestamp for event in (*period.backlog, *period.live)}


def test_nothing_connects_while_a_line_or_the_power_is_away() -> None:
    made = planned("monsoon-week")
    waited = 0
    for place in range(made.devices):
        device = made.device(place)
        for period in made.story(place).periods:
            assert period.connects_ms is not None
            assert device.place.line_away.back_ms(period.connects_ms) is None
            assert device.place.power_away.back_ms(period.connects_ms) is None
            waited += len(period.backlog) > 1
    assert waited


def test_a_storm_comes_back_within_a_second() -> None:
    made = planned("reconnect-storm")
    ends_ms = made.end_ms - 3_600_000
    storming = [
        place
        for place in range(100)
        for period in made.story(place).periods
        if period.connects_ms is not None and 0 <= period.connects_ms - ends_ms < 1000
    ]
    assert len(set(storming)) > 95


def test_a_gateways_devices_come_at_one_moment() -> None:
    connects = [
        period.connects_ms // 1000
        for story in stories("gateway")
        for period in story.periods
        if period.connects_ms is not None
    ]
    assert len(set(connects)) <= 6 < len(connects)


def test_one_line_away_is_one_cause_of_one_site() -> None:
    made = planned("site-loses-its-line")
    failing: dict[str | None, int] = {}
    for place in range(made.devices):
        story = made.story(place)
        failing[story.site] = failing.get(story.site, 0) + (story.streak >= 3)
    assert failing["CUT"] >= 8
    assert sum(failing.values()) == failing["CUT"]


def test_every_scenario_and_word_is_in_the_documents() -> None:
    root = Path(__file__).parents[2]
    readme, guide = (root / "README.md").read_text(), (root / "docs/scenarios.md").read_text()
    assert [name for name in NAMES if f"simulate --scenario {name} " not in readme] == []
    assert [name for name in NAMES if f"| `{name}` |" not in guide] == []
    source = (root / "device_sim/scenarios/plan_file.py").read_text()
    words = set(re.findall(r'(?:take|tables|named)\(\s*"(\w+)"', source)) - {"causes", "lines", "habits"}
    words -= {"clocks", "sites", "devices"}
    assert len(words) > 30
    assert [word for word in sorted(words) if not re.search(rf"\b{word}\b", guide)] == []


def test_shares_and_counts_make_the_fleet() -> None:
    for devices in (7, 8, 50, 1000):
        made = planned("habits", devices=devices)
        kinds = [made.device(place).group.name for place in range(devices)]
        assert len(set(kinds)) == len(made.plan.groups)
    with pytest.raises(ConfigurationError, match="takes 7 devices at least"):
        planned("habits", devices=6)


def test_another_now_is_the_same_fleet_at_other_times() -> None:
    one, other = planned("flaky-line"), planned("flaky-line", now=NOW + timedelta(days=7))
    assert one.story(0).device_id == other.story(0).device_id
    shift = from_ms(other.end_ms) - from_ms(one.end_ms)
    assert shift == timedelta(days=7)


def test_a_plan_that_ends_in_the_future_is_refused() -> None:
    plan = read_plan(
        'about="x"\nfleet=1\nspan="1d"\nend=2030-01-01T00:00:00Z\n[habits.h]\n'
        '[[devices]]\nname="d"\nshare=1\nhabit="h"\n',
        name="x",
        file="x.toml",
    )
    with pytest.raises(ConfigurationError, match="ends in the future"):
        PlannedScenario(plan, seed=1, now_ms=to_ms(NOW))
