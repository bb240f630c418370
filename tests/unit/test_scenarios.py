"""A year of a fleet that is made up: the same every time, acceptable to a bridge, and eventful."""

from datetime import UTC, datetime
from hashlib import sha256

import msgspec
import pytest

from device_sim.scenarios.schools import DEVICES_OF_SCHOOL, Rhythm
from device_sim.scenarios.year import Story, Year
from pisync.clock import from_ms, to_ms
from pisync.domain.decoding import decode
from pisync.domain.directory import Entry, Kind, as_json, read_members

UNTIL = datetime(2026, 5, 12, 9, 30, tzinfo=UTC)
DAY_MS = 86_400_000


def year(seed: int = 4, devices: int = 60, days: int = 90) -> Year:
    return Year(seed=seed, until=UNTIL, devices=devices, days=days)


@pytest.fixture(scope="module")
def stories() -> list[Story]:
    return list(year().stories())


def digest(made: Year) -> str:
    """Of every byte of it."""
    told = [
        [(each.received_ms, each.event) for each in story.deliveries] + list(story.spool)
        for story in made.stories()
    ]
    entries = [as_json(school.entry) for school in made.schools]
    entries += [as_json(story.profile.entry) for story in made.stories()]
    return sha256(msgspec.json.encode([told, entries, [str(each) for each in made.listening()]])).hexdigest()


def test_the_same_seed_is_the_same_year_byte_for_byte() -> None:
    assert digest(year()) == digest(year())
    assert digest(year(seed=7)) != digest(year())


def test_a_story_depends_on_nobody_elses(stories: list[Story]) -> None:
    assert year().story(17) == stories[17]


def test_a_bridge_accepts_every_event_when_it_receives_it(stories: list[Story]) -> None:
    for story in stories:
        for delivery in story.deliveries:
            payload = msgspec.json.encode(delivery.event)
            decoded = decode(payload, story.profile.device_id, from_ms(delivery.received_ms))
            assert decoded.events == [delivery.event]
        if story.spool:
            decoded = decode(msgspec.json.encode(story.spool[:50]), story.profile.device_id, UNTIL)
            assert decoded.events == list(story.spool[:50])


def test_a_directory_takes_every_entry(stories: list[Story]) -> None:
    entries: list[tuple[Kind, Entry]] = [(Kind.SITES, school.entry) for school in year().schools]
    for kind, entry in [*entries, *((Kind.DEVICES, story.profile.entry) for story in stories)]:
        members, faults = read_members(kind, msgspec.to_builtins(as_json(entry)))
        assert faults == []
        assert all(getattr(entry, name) == value for name, value in members.items())


def test_nothing_is_received_while_a_line_is_down_or_nobody_listens(stories: list[Story]) -> None:
    made = year()
    intervals = [(each.start_ms, each.until_ms) for each in made.listening()]
    for story in stories:
        for delivery in story.deliveries:
            moment_ms = delivery.received_ms
            assert any(start <= moment_ms <= end for start, end in intervals)
            assert not any(start <= moment_ms < end for start, end in story.profile.school.outages_ms)


def test_it_is_as_eventful_as_promised(stories: list[Story]) -> None:
    deliveries = [delivery for story in stories for delivery in story.deliveries]
    keys = [(each.event.device_id, each.event.timestamp) for each in deliveries]
    assert len(keys) > len(set(keys)) > 2000
    late_ms = [each.received_ms - to_ms(each.event.timestamp) for each in deliveries]
    assert max(late_ms) > 5 * DAY_MS
    assert min(late_ms) < -120_000
    assert any(story.spool for story in stories)
    moments = [[each.event.timestamp for each in story.deliveries] for story in stories]
    assert any(each != sorted(each) for each in moments)
    assert {story.profile.rhythm for story in stories} == set(Rhythm)
    assert not all(story.profile.in_directory for story in stories)
    assert not all(school.in_directory for school in year(devices=600, days=40).schools)


def test_schools_have_from_5_to_60_devices() -> None:
    made = year(devices=2000)
    smallest, largest = DEVICES_OF_SCHOOL
    sizes = [sum(made.profile(place).school is school for place in range(300)) for school in made.schools[:4]]
    assert all(smallest <= size <= largest for size in sizes)
    assert made.devices == 2000


def test_a_year_has_about_300_events_a_device() -> None:
    made = year(devices=40, days=365)
    events = sum(len(story.deliveries) for story in made.stories())
    assert 200 * 40 < events < 500 * 40


@pytest.mark.parametrize(("devices", "days"), [(0, 365), (10, 39)])
def test_an_impossible_year_is_refused(devices: int, days: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        year(devices=devices, days=days)
