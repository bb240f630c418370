"""The fleet in memory answers as plain Python does over the same devices, whatever changed in which order."""

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import date, datetime
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet import order, selection, summaries
from fleet.index import Fleet
from fleet.query import FleetCursor, FleetDevice, FleetFilter, FleetSort, device, page
from fleet.sites import calendar_of
from fleet.summaries import CauseCursor, SiteCursor, SiteSort
from pisync.clock import from_ms, to_ms
from pisync.domain.calendars import EVERY_DAY, Calendar, Holiday, Weekday
from pisync.domain.days import DAY_MS, Days
from pisync.domain.device_state import LastEvent
from pisync.domain.device_status import Status, status_of
from pisync.domain.directory import DirectoryDevice, Site
from pisync.domain.habits import HABIT_DAYS, habit_days
from pisync.stores.interfaces.feed import StateSummary

NOW_MS: Final = 1_780_000_000_000
NOTHING: Final = FleetFilter(retired=None)
IDS: Final = ["PB-1", "PB-10", "PB-2", "pb-1", "A", "a.b", "PB-1234567890", "Z_9", "Z-9", "1"]
NAMES: Final = ["", "", "Ärmel", "armel", "ARMEL", "Lab", "lab 2", "\U0010ffff"]
SITES: Final = [None, "s1", "s2", "unknown"]
LABELS: Final = ["north", "loan", "new"]


def summary(
    received: int | None, seen: int, streak: int, failures: int, code: str, days: int, kind: str | None
) -> StateSummary:
    heard = Days(20_600 + seen % 3, days | 1)
    moment_ms = NOW_MS - seen * 3_600_000
    return StateSummary(
        last_success_ms=None if streak == failures else moment_ms - 1,
        last_failure_ms=moment_ms if failures else None,
        failures=failures,
        streak=min(streak, failures),
        received_ms=None if received is None else NOW_MS - received * 7_200_000,
        code=code if failures else "",
        ok=Days(20_600, days),
        bad=Days(20_599, days >> 1),
        heard=heard,
        last_event=LastEvent(moment_ms, days % 50, failures % 3, 0.5 * seen, kind, seen * 9 or None),
    )


summaries_of_devices = st.builds(
    summary,
    st.one_of(st.none(), st.integers(0, 13), st.integers(0, 300)),
    st.integers(0, 5),
    st.integers(0, 5),
    st.integers(0, 6),
    st.sampled_from(["", "E_NET", "E_DISK"]),
    st.sampled_from([1, 0b1111111, 0x8000000000000001, 0b1000000100000010000001, 2**64 - 1]),
    st.sampled_from([None, "PiBook", "PiBox"]),
)
entries_of_devices = st.builds(
    lambda device_id, name, site, labels, habit, muted, retired: DirectoryDevice(
        device_id=device_id,
        name=name,
        site=site,
        labels=tuple(sorted(labels)),
        habit_days=habit,
        muted_until=None if muted is None else from_ms(NOW_MS + muted),
        retired=retired,
    ),
    st.sampled_from(IDS),
    st.sampled_from(NAMES),
    st.sampled_from(SITES),
    st.sets(st.sampled_from(LABELS), max_size=2),
    st.sampled_from([None, None, 3, 365]),
    st.sampled_from([None, -1, 0, 1]),
    st.sampled_from([False, False, True]),
)
entries_of_sites = st.builds(
    lambda site, zone, days_off: Site(
        site_id=site, name=f"School {site}", time_zone=zone, days_off=days_off, holidays=("2026-05-01",)
    ),
    st.sampled_from(["s1", "s2", "s3"]),
    st.sampled_from(["UTC", "Africa/Kampala", "Pacific/Auckland"]),
    st.sampled_from([(), ("saturday", "sunday")]),
)
steps = st.one_of(
    st.tuples(st.just("apply"), st.lists(st.tuples(st.sampled_from(IDS), summaries_of_devices), max_size=6)),
    st.tuples(st.just("set_devices"), st.lists(entries_of_devices, max_size=5)),
    st.tuples(st.just("remove_devices"), st.lists(st.sampled_from(IDS), max_size=3)),
    st.tuples(st.just("set_sites"), st.lists(entries_of_sites, max_size=2)),
    st.tuples(st.just("remove_sites"), st.lists(st.sampled_from(["s1", "s2"]), max_size=1)),
    st.tuples(st.just("set_limits"), st.integers(-5, 5)),
    st.tuples(st.just("settle"), st.none()),
    st.tuples(st.just("without_facts"), st.none()),
)


class Plain:
    """The same in dictionaries."""

    def __init__(self) -> None:
        self.facts: dict[str, StateSummary] = {}
        self.entries: dict[str, DirectoryDevice] = {}
        self.sites: dict[str, Site] = {}
        self.limits: dict[tuple[Calendar, int], int] = {}

    def do(self, what: str, how: Any) -> None:
        match what:
            case "apply":
                self.facts |= dict(how)
            case "set_devices":
                self.entries |= {entry.device_id: entry for entry in how}
            case "remove_devices":
                for device_id in how:
                    self.entries.pop(device_id, None)
            case "set_sites":
                self.sites |= {site.site_id: site for site in how}
            case "remove_sites":
                for site_id in how:
                    self.sites.pop(site_id, None)
            case "without_facts":
                self.facts = {}

    def calendar(self, entry: DirectoryDevice) -> Calendar:
        site = self.sites.get(entry.site or "")
        return EVERY_DAY if site is None else calendar_of(site)

    def devices(self) -> list[FleetDevice]:
        return [self.device(device_id) for device_id in sorted({*self.facts, *self.entries})]

    def device(self, device_id: str) -> FleetDevice:
        facts, kept = self.facts.get(device_id), self.entries.get(device_id)
        entry = kept or DirectoryDevice(device_id=device_id)
        habit = entry.habit_days or (None if facts is None else habit_days(facts.heard))
        state = status_of(
            is_heard=facts is not None,
            streak=0 if facts is None else facts.streak,
            received_ms=None if facts is None else facts.received_ms,
            silence_limit_ms=None if habit is None else self.limits.get((self.calendar(entry), habit)),
        )
        event = None if facts is None else facts.last_event
        return FleetDevice(
            device_id=device_id,
            name=entry.name,
            state=state,
            streak=0 if facts is None else facts.streak,
            failures=0 if facts is None else facts.failures,
            cause=facts.code if facts is not None and facts.streak else None,
            site=entry.site,
            labels=entry.labels,
            device_type=None if event is None else event.device_type,
            last_received_ms=None if facts is None else facts.received_ms,
            last_seen_ms=None if event is None else event.timestamp_ms,
            last_success_ms=None if facts is None else facts.last_success_ms,
            last_failure_ms=None if facts is None else facts.last_failure_ms,
            last_files=None if event is None else event.total_files_synced,
            last_errors=None if event is None else event.total_errors,
            last_speed=None if event is None else event.internet_speed,
            last_duration_ms=None if event is None else event.sync_duration_ms,
            ok=Days() if facts is None else facts.ok,
            bad=Days() if facts is None else facts.bad,
            heard=Days() if facts is None else facts.heard,
            habit_days=habit,
            habit_is_set=entry.habit_days is not None,
            muted_until_ms=None if entry.muted_until is None else to_ms(entry.muted_until),
            retired=entry.retired,
            in_directory=kept is not None,
        )


def both(done: list[tuple[str, Any]]) -> tuple[Fleet, Plain]:
    fleet, plain = Fleet(), Plain()
    for what, how in done:
        plain.do(what, how)
        if what == "set_limits":
            limits = {
                (calendar, days): NOW_MS - days * DAY_MS - how * 3_600_000
                for calendar, days in fleet.habits() | {(EVERY_DAY, 3)}
                if days not in {4, 365}
            }
            plain.limits = limits
            fleet.set_limits(limits)
        elif how is None:
            fleet = getattr(fleet, what)() or fleet
        else:
            getattr(fleet, what)(how)
    fleet.settle()
    return fleet, plain


HEARD_MS: Final = st.sampled_from([NOW_MS - 5 * 7_200_000, NOW_MS - 50 * 7_200_000, -(10**13)])
MEMBERS: Final[dict[str, st.SearchStrategy[Any]]] = {
    "states": st.frozensets(st.sampled_from(list(Status)), max_size=2),
    "sites": st.frozensets(st.sampled_from(["", "s1", "s2", "none"]), max_size=2),
    "labels": st.frozensets(st.sampled_from([*LABELS, "none"]), max_size=2),
    "types": st.frozensets(st.sampled_from(["", "PiBook", "other"]), max_size=1),
    "causes": st.frozensets(st.sampled_from(["", "E_NET", "E_NONE"]), max_size=1),
    "prefix": st.sampled_from(["P", "PB-1", "pb-1", "ar", "LAB", "ä", "PB-1234567890123456", "zz"]),
    "heard_before_ms": HEARD_MS,
    "heard_after_ms": HEARD_MS,
    "muted": st.booleans(),
    "retired": st.sampled_from([None, True]),
}
# Few at once, or hardly any device passes.
filters = st.sets(st.sampled_from(sorted(MEMBERS)), max_size=2).flatmap(
    lambda names: st.builds(FleetFilter, **{name: MEMBERS[name] for name in names})
)


def passes(which: FleetFilter, one: FleetDevice) -> bool:
    received_ms = one.last_received_ms
    return (
        (not which.states or one.state in which.states)
        and (not which.sites or (one.site or "") in which.sites)
        and which.labels <= set(one.labels)
        and (not which.types or (one.device_type or "") in which.types)
        and (not which.causes or one.cause in which.causes)
        and (
            one.device_id.startswith(which.prefix)
            or bool(one.name and one.name.casefold().startswith(which.prefix.casefold()))
        )
        and (
            which.heard_before_ms is None or (received_ms is not None and received_ms < which.heard_before_ms)
        )
        and (
            which.heard_after_ms is None or (received_ms is not None and received_ms >= which.heard_after_ms)
        )
        and (which.muted is None or ((one.muted_until_ms or 0) > NOW_MS) == which.muted)
        and (which.retired is None or one.retired == which.retired)
    )


VALUES: Final[dict[FleetSort, Callable[[FleetDevice], Any]]] = {
    FleetSort.DEVICE_ID: lambda one: one.device_id,
    FleetSort.NAME: lambda one: one.name.casefold() or None,
    FleetSort.LAST_RECEIVED: lambda one: one.last_received_ms,
    FleetSort.LAST_SEEN: lambda one: one.last_seen_ms,
    FleetSort.STREAK: lambda one: one.streak,
    FleetSort.FAILURES: lambda one: one.failures,
    FleetSort.STATE: lambda one: (list(Status).index(one.state), -one.streak, one.last_received_ms or 0),
}


def in_order(devices: Iterable[FleetDevice], sort: FleetSort, *, descending: bool) -> list[str]:
    by_id = sorted(devices, key=lambda one: one.device_id)
    value = VALUES[sort]
    known = [one for one in by_id if value(one) is not None]
    # Python's sort keeps ties in their order, also when it is reversed.
    known.sort(key=value, reverse=descending)
    return [one.device_id for one in [*known, *(one for one in by_id if value(one) is None)]]


def walk(fleet: Fleet, which: FleetFilter, sort: FleetSort, limit: int, *, descending: bool) -> list[str]:
    found: list[str] = []
    after: FleetCursor | None = None
    while True:
        part = page(fleet, which, sort=sort, descending=descending, limit=limit, after=after, now_ms=NOW_MS)
        found += [one.device_id for one in part.devices]
        assert len(found) == len(set(found))
        after = part.next
        if after is None:
            assert part.total == len(found)
            return found
        assert len(part.devices) == limit


@settings(deadline=None, max_examples=150)
@given(done=st.lists(steps, max_size=12), which=filters)
def test_every_fact_and_filter_is_as_in_plain_python(done: list[tuple[str, Any]], which: FleetFilter) -> None:
    fleet, plain = both(done)
    everyone = page(fleet, NOTHING, sort=FleetSort.DEVICE_ID, limit=100, now_ms=NOW_MS)
    assert everyone.devices == plain.devices()
    found = page(fleet, which, sort=FleetSort.DEVICE_ID, limit=100, now_ms=NOW_MS)
    assert found.devices == [one for one in plain.devices() if passes(which, one)]
    assert found.total == len(found.devices)
    for device_id in IDS:
        assert device(fleet, device_id) == ({one.device_id: one for one in plain.devices()}.get(device_id))


@settings(deadline=None, max_examples=60)
@given(done=st.lists(steps, max_size=12), limit=st.integers(1, 4), descending=st.booleans())
def test_pages_give_each_device_once_in_every_order(
    done: list[tuple[str, Any]], limit: int, descending: bool
) -> None:
    fleet, plain = both(done)
    for sort in FleetSort:
        expected = in_order(plain.devices(), sort, descending=descending)
        assert walk(fleet, NOTHING, sort, limit, descending=descending) == expected, sort


@settings(deadline=None, max_examples=60)
@given(
    done=st.lists(steps, min_size=3, max_size=8),
    more=st.lists(steps, max_size=4).filter(lambda steps: all(what != "without_facts" for what, _ in steps)),
    descending=st.booleans(),
)
def test_a_page_goes_on_behind_its_end_whatever_changed_and_whoever_answers(
    done: list[tuple[str, Any]], more: list[tuple[str, Any]], descending: bool
) -> None:
    """On another replica, which holds its rows in another order; what did not move is there once."""
    for sort in FleetSort:
        fleet, before = both(done)
        first = page(fleet, NOTHING, sort=sort, descending=descending, limit=2, now_ms=NOW_MS)
        if first.next is None:
            continue
        other, after = both([*done, ("settle", None), *more])
        rest = page(
            other, NOTHING, sort=sort, descending=descending, limit=99, after=first.next, now_ms=NOW_MS
        )
        still = {one.device_id for one in after.devices()} & {
            one.device_id for one in before.devices() if one == after.device(one.device_id)
        }
        shown = [one.device_id for one in first.devices]
        ids = in_order(before.devices(), sort, descending=descending)
        expected = [each for each in ids if each in still and each not in shown]
        assert [one.device_id for one in rest.devices if one.device_id in still] == expected


@settings(deadline=None, max_examples=100)
@given(done=st.lists(steps, max_size=12), which=filters)
def test_counts_are_those_of_plain_python(done: list[tuple[str, Any]], which: FleetFilter) -> None:
    fleet, plain = both(done)
    devices = [one for one in plain.devices() if passes(which, one)]
    found = summaries.counts(fleet, which, now_ms=NOW_MS, limit=2)
    assert found.total == len(devices)
    assert found.states == {status: sum(one.state is status for one in devices) for status in Status}
    for told, texts in (
        (found.sites, [one.site or "" for one in devices]),
        (found.types, [one.device_type or "" for one in devices]),
        (found.causes, [one.cause for one in devices if one.cause is not None]),
    ):
        counted = Counter(texts)
        assert list(told.items()) == sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:2]


@pytest.mark.parametrize("sparse", [10**9, 0])
@settings(deadline=None, max_examples=60)
@given(done=st.lists(steps, max_size=12), limit=st.integers(1, 3))
def test_causes_are_those_of_plain_python(sparse: int, done: list[tuple[str, Any]], limit: int) -> None:
    fleet, plain = both(done)
    devices = plain.devices()
    failing = [one for one in devices if one.cause is not None]
    codes = Counter(one.cause for one in failing)
    found: list[summaries.Cause] = []
    after: CauseCursor | None = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summaries, "_SPARSE", sparse)
        while True:
            part = summaries.causes(fleet, NOTHING, now_ms=NOW_MS, limit=limit, sites_max=2, after=after)
            assert part.of == len(devices)
            assert part.other == len(failing) - sum(each.devices for each in part.causes)
            found += part.causes
            after = part.next
            if after is None:
                break
    assert [cause.code for cause in found] == sorted(codes, key=lambda code: (-codes[code], code))
    of_site = Counter(one.site or "" for one in devices)
    for cause in found:
        those = [one for one in failing if one.cause == cause.code]
        assert cause.failing == sum(one.state is Status.FAILING for one in those)
        assert cause.devices == len(those)
        sites = Counter(one.site or "" for one in those)
        most = sorted(sites, key=lambda site: (-sites[site], site))[:2]
        assert [(at.site, at.devices, at.of) for at in cause.at] == [
            (site, sites[site], of_site[site]) for site in most
        ]
        assert cause.sites == len(set(sites) - {""})


@settings(deadline=None, max_examples=60)
@given(done=st.lists(steps, max_size=12), code=st.sampled_from(["", "E_NET", "E_NONE"]))
def test_one_cause_leaves_out_retired_devices_and_knows_who_failed_last(
    done: list[tuple[str, Any]], code: str
) -> None:
    fleet, plain = both(done)
    devices = [one for one in plain.devices() if not one.retired]
    those = [one for one in devices if one.cause == code]
    found = summaries.cause(fleet, code, now_ms=NOW_MS, sites_max=99)
    assert (found.code, found.devices) == (code, len(those))
    assert {at.site: at.devices for at in found.at} == Counter(one.site or "" for one in those)
    assert all(at.of == sum((one.site or "") == at.site for one in devices) for at in found.at)
    last = sorted(those, key=lambda one: (-(one.last_failure_ms or 0), one.device_id))[:2]
    assert summaries.newest_failures(fleet, code, now_ms=NOW_MS, limit=2) == [
        (one.device_id, one.last_failure_ms) for one in last
    ]


def test_a_code_that_says_nothing_is_none() -> None:
    fleet = Fleet()
    fleet.apply([("PB-1", summary(1, 1, 1, 1, "-", 1, None)), ("PB-2", summary(1, 1, 1, 1, "", 1, None))])
    fleet.settle()
    found = summaries.causes(fleet, NOTHING, now_ms=NOW_MS, limit=9, sites_max=9)
    assert [(cause.code, cause.devices) for cause in found.causes] == [("", 2)]


@settings(deadline=None, max_examples=60)
@given(done=st.lists(steps, max_size=12), which=st.one_of(st.just(FleetFilter()), filters), data=st.data())
def test_sites_are_those_of_plain_python(
    done: list[tuple[str, Any]], which: FleetFilter, data: st.DataObject
) -> None:
    fleet, plain = both(done)
    sort, descending = data.draw(st.sampled_from(SiteSort)), data.draw(st.booleans())
    devices = [one for one in plain.devices() if passes(which, one)]
    of_site = Counter(one.site or "" for one in devices)
    names = set(of_site) | (set(plain.sites) if which == FleetFilter() else set())
    found: list[summaries.SiteCounts] = []
    after: SiteCursor | None = None
    while True:
        part = summaries.sites(
            fleet, which, sort=sort, descending=descending, limit=2, after=after, now_ms=NOW_MS
        )
        found += part.sites
        after = part.next
        if after is None:
            break
    assert part.total == len(found)
    by_site = {each.site: each for each in found}
    assert set(by_site) == names
    for name, each in by_site.items():
        those = [one for one in devices if (one.site or "") == name]
        assert each.devices == len(those)
        assert each.states == {status: sum(one.state is status for one in those) for status in Status}
        site = plain.sites.get(name)
        assert (each.in_directory, each.name) == (site is not None, "" if site is None else site.name)
        zone_hours = {"UTC": 0, "Africa/Kampala": 3, "Pacific/Auckland": 12}
        offset_ms = zone_hours["UTC" if site is None else site.time_zone] * 3_600_000
        today_ms = (NOW_MS + offset_ms) // DAY_MS * DAY_MS - offset_ms
        assert each.heard_today == sum((one.last_received_ms or 0) >= today_ms for one in those)
        assert each.time_zone == ("UTC" if site is None else site.time_zone)
        causes = Counter(one.cause for one in those if one.cause is not None)
        worst = sorted(causes, key=lambda code: (-causes[code], code))
        assert each.worst_cause == (worst[0] if worst else None)
    keys: dict[SiteSort, Callable[[summaries.SiteCounts], Any]] = {
        SiteSort.SITE_ID: lambda each: each.site,
        SiteSort.DEVICES: lambda each: each.devices,
        SiteSort.FAILING: lambda each: each.states[Status.FAILING],
        SiteSort.UNHEARD: lambda each: each.devices - each.heard_today,
    }
    expected = sorted(sorted(found, key=lambda each: each.site), key=keys[sort], reverse=descending)
    without = [each.site for each in expected if not each.site]
    assert [each.site for each in found] == [each.site for each in expected if each.site] + without


@settings(deadline=None, max_examples=60)
@given(done=st.lists(steps, max_size=12), site=st.sampled_from(["", "s1", "s2", "s3", "s4"]))
def test_one_site_is_as_in_the_list_and_unknown_where_nobody_names_it(
    done: list[tuple[str, Any]], site: str
) -> None:
    fleet, plain = both(done)
    listed = summaries.sites(fleet, FleetFilter(), sort=SiteSort.SITE_ID, limit=99, now_ms=NOW_MS).sites
    found = summaries.site(fleet, site, now_ms=NOW_MS)
    if found is not None and not found.devices and not found.in_directory:
        assert site == "" or any(one.site == site and one.retired for one in plain.devices())
    else:
        assert found == next((each for each in listed if each.site == site), None)


@settings(deadline=None, max_examples=100)
@given(
    spread=st.sampled_from([1, 3, 1000, 10**15]),
    size=st.integers(0, 60),
    count=st.integers(1, 70),
    seed=st.integers(0, 2**32 - 1),
    sample=st.sampled_from([1, 4, 4096]),
)
def test_the_first_of_many_are_those_that_sorting_finds(
    spread: int, size: int, count: int, seed: int, sample: int
) -> None:
    """Whether a bound is guessed or not, where the guess is bad, and behind any of them."""
    random = np.random.default_rng(seed)
    keys = random.integers(-spread, spread, size).astype(np.int64)
    ties = random.permutation(size).astype(np.int32)
    ordered = sorted(range(size), key=lambda n: (keys[n], ties[n]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_SAMPLE", sample)
        patch.setattr(selection, "_MARGIN", 0)
        assert selection.first_places(keys, ties.__getitem__, count).tolist() == ordered[:count]
        for place in range(0, size, 7):
            end = (int(keys[ordered[place]]), int(ties[ordered[place]]))
            found = selection.first_places(keys, ties.__getitem__, count, end)
            assert found.tolist() == ordered[place + 1 : place + 1 + count]


@pytest.mark.parametrize("many", [0, 10**9], ids=["all sorted anew", "each put into its place"])
@settings(deadline=None, max_examples=100)
@given(
    done=st.lists(
        st.dictionaries(st.integers(0, 9), st.sampled_from(NAMES), max_size=4), min_size=1, max_size=8
    )
)
def test_names_are_in_their_order_however_they_came(many: float, done: list[dict[int, str]]) -> None:
    names, plain = order.NameOrder(), [""] * 10
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "_MANY", many)
        for renamed in done:
            names.rename(list(renamed), list(renamed.values()))
            names.settle(10)
            for row, name in renamed.items():
                plain[row] = name
            texts = sorted(name.casefold() for name in plain if name)
            assert [names.name_of(row) for row in range(10)] == plain
            assert names.first_places.tolist() == [
                texts.index(name.casefold()) if name else order.NO_ROW for name in plain
            ]
            for name in NAMES[2:]:
                count = texts.count(name.casefold())
                low = sum(text < name.casefold() for text in texts)
                assert names.place(name) == (low, low + count)
                assert names.begins_with(name[:2]).tolist() == [
                    bool(plain[row]) and plain[row].casefold().startswith(name[:2].casefold())
                    for row in range(10)
                ]


def test_a_calendar_is_what_there_can_be_of_it() -> None:
    """The directory keeps what operators wrote; one site must not stop the fleet."""
    site = Site(
        site_id="s",
        time_zone="Nowhere/Land",
        days_off=("sunday",),
        holidays=("2026-05-08", "2026-04-01/2026-04-20", "2026-04-10/2026-04-12", "2026-04-15/2026-05-01"),
    )
    assert calendar_of(site) == Calendar(
        time_zone="UTC",
        days_off=frozenset({Weekday.SUNDAY}),
        holidays=(
            Holiday(date(2026, 4, 1), date(2026, 5, 1)),
            Holiday(date(2026, 5, 8), date(2026, 5, 8)),
        ),
    )


def test_habits_that_limits_are_asked_for() -> None:
    fleet = Fleet()
    fleet.set_sites([Site(site_id="s", days_off=("friday",))])
    fleet.set_devices([DirectoryDevice(device_id="PB-1", habit_days=5)])
    fleet.settle()
    friday = Calendar(days_off=frozenset({Weekday.FRIDAY}))
    assert fleet.habits() == {
        (calendar, days) for calendar in (EVERY_DAY, friday) for days in (*HABIT_DAYS, 5)
    }


def test_of_several_labels_a_device_has_each_and_of_anything_else_one() -> None:
    fleet = Fleet()
    fleet.set_devices(
        [
            DirectoryDevice(device_id="PB-1", labels=("loan", "north"), site="s"),
            DirectoryDevice(device_id="PB-2", labels=("north",), site="t"),
            DirectoryDevice(device_id="PB-3", site="u"),
        ]
    )
    fleet.settle()
    for which, ids in (
        (FleetFilter(labels=frozenset({"north"})), ["PB-1", "PB-2"]),
        (FleetFilter(labels=frozenset({"north", "loan"})), ["PB-1"]),
        (FleetFilter(labels=frozenset({"north", "none"})), []),
        (FleetFilter(sites=frozenset({"s", "t", "none"})), ["PB-1", "PB-2"]),
        (FleetFilter(sites=frozenset({"s", "t"}), labels=frozenset({"loan"})), ["PB-1"]),
    ):
        found = page(fleet, which, sort=FleetSort.DEVICE_ID, limit=9, now_ms=NOW_MS)
        assert [one.device_id for one in found.devices] == ids


def test_a_cause_is_that_of_devices_that_fail_now() -> None:
    fleet = Fleet()
    fleet.apply(
        [("PB-1", summary(1, 1, 0, 2, "E_NET", 1, None)), ("PB-2", summary(1, 1, 1, 2, "E_NET", 1, None))]
    )
    fleet.settle()
    which = FleetFilter(causes=frozenset({"E_NET"}))
    found = page(fleet, which, sort=FleetSort.DEVICE_ID, limit=9, now_ms=NOW_MS)
    assert [(one.device_id, one.cause) for one in found.devices] == [("PB-2", "E_NET")]
    assert [
        cause.devices
        for cause in summaries.causes(fleet, NOTHING, now_ms=NOW_MS, limit=9, sites_max=9).causes
    ] == [1]


def test_who_was_heard_today_goes_by_the_date_at_the_site() -> None:
    """It is 20:26 in UTC, and 8:26 of the next day in Auckland."""
    fleet = Fleet()
    fleet.set_sites([Site(site_id="s", time_zone="Pacific/Auckland"), Site(site_id="t")])
    for device_id, site, hours in (("PB-1", "s", 8), ("PB-2", "s", 10), ("PB-3", "t", 20), ("PB-4", "t", 22)):
        fleet.set_devices([DirectoryDevice(device_id=device_id, site=site)])
        fleet.apply([(device_id, summary(hours // 2, 0, 0, 0, "", 1, None))])
    fleet.settle()
    found = summaries.sites(fleet, FleetFilter(), sort=SiteSort.SITE_ID, limit=9, now_ms=NOW_MS)
    assert [(each.heard_today, each.devices) for each in found.sites] == [(1, 2), (1, 2)]


@pytest.mark.parametrize("descending", [False, True])
def test_a_page_goes_on_between_others_where_its_last_name_is_gone(descending: bool) -> None:
    """The device was renamed, and others have names before and behind, with ids before and behind its own."""
    fleet = Fleet()
    names = {"PB-1": "a", "PB-9": "a", "PB-5": "b", "PB-0": "c", "PB-8": "c"}
    fleet.set_devices([DirectoryDevice(device_id=each, name=name) for each, name in names.items()])
    fleet.settle()
    first = page(fleet, FleetFilter(), sort=FleetSort.NAME, descending=descending, limit=3, now_ms=NOW_MS)
    assert first.next == FleetCursor("b", "PB-5")
    fleet.set_devices([DirectoryDevice(device_id="PB-5", name="a" if not descending else "c")])
    fleet.settle()
    rest = page(
        fleet,
        FleetFilter(),
        sort=FleetSort.NAME,
        descending=descending,
        limit=9,
        after=first.next,
        now_ms=NOW_MS,
    )
    expected = ["PB-1", "PB-9"] if descending else ["PB-0", "PB-8"]
    assert [one.device_id for one in rest.devices] == expected


def test_a_page_goes_on_behind_an_id_that_this_replica_does_not_know() -> None:
    fleet = Fleet()
    fleet.set_devices([DirectoryDevice(device_id=each) for each in ("PB-1", "PB-3")])
    fleet.settle()
    for descending, expected in ((False, ["PB-3"]), (True, ["PB-1"])):
        for unknown in ("PB-2", "PB-2-which-is-longer"):
            rest = page(
                fleet,
                FleetFilter(),
                sort=FleetSort.DEVICE_ID,
                descending=descending,
                limit=9,
                after=FleetCursor("", unknown),
                now_ms=NOW_MS,
            )
            assert [one.device_id for one in rest.devices] == expected


def test_a_device_is_seen_once_it_is_settled_and_another_fleet_goes_its_own_way() -> None:
    fleet = Fleet()
    facts = summary(1, 1, 0, 0, "", 1, None)
    fleet.set_devices([DirectoryDevice(device_id="PB-2", name="Two", site="s")])
    fleet.apply([("PB-1", facts), ("PB-2", facts)])
    assert (fleet.unsettled, page_ids(fleet)) == (3, [])  # two devices and a name
    fleet.settle()
    assert page_ids(fleet) == ["PB-1", "PB-2"]
    other = fleet.without_facts()
    assert page_ids(other) == ["PB-2"]
    other.apply([("PB-3", facts)])
    other.set_devices([DirectoryDevice(device_id="PB-2", name="Zwei", site="t", retired=True)])
    other.settle()
    assert page_ids(other) == ["PB-3"]
    assert page_ids(fleet) == ["PB-1", "PB-2"]
    assert device(fleet, "PB-3") is None
    two = device(fleet, "PB-2")
    assert two is not None
    assert (two.name, two.site, two.last_seen_ms) == ("Two", "s", NOW_MS - 3_600_000)


def page_ids(fleet: Fleet) -> list[str]:
    found = page(fleet, FleetFilter(), sort=FleetSort.DEVICE_ID, limit=100, now_ms=NOW_MS)
    return [one.device_id for one in found.devices]


def test_now_is_a_moment_at_which_every_zone_of_these_tests_has_whole_hours() -> None:
    """Or the plain count of who was heard today would be wrong."""
    assert from_ms(NOW_MS) == datetime.fromisoformat("2026-05-28T20:26:40Z")
