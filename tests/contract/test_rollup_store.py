"""Rollups and the counts that they are made of: the same in memory and in MongoDB."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
import pytest
import pytest_asyncio

from pisync import limits
from pisync.clock import to_ms
from pisync.domain.events import ErrorDetail, SyncEvent
from pisync.domain.rollups import MINUTE_MS, NO_EVENTS, Figures, Progress, Span, Unit
from pisync.errors import LeaseLost
from pisync.stores.interfaces.events import EventStore
from pisync.stores.interfaces.rollups import FailuresByCode, KnownCodes, Part, ReceivedEvents, RollupStore
from pisync.stores.memory.events import MemoryEventStore
from pisync.stores.memory.rollups import MemoryReceivedEvents, MemoryRollupStore
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.events import MongoEventStore
from pisync.stores.mongodb.received import MongoReceivedEvents
from pisync.stores.mongodb.rollups import MongoRollupStore
from tests.support.rollups import plainly
from tests.support.samples import NOW, event_at

NOW_MS = to_ms(NOW)
HOUR = Span(NOW_MS, NOW_MS + Unit.HOUR.ms)


@dataclass
class Stores:
    events: EventStore
    received: ReceivedEvents
    rollups: RollupStore


@pytest_asyncio.fixture
async def stores(event_store_url: str | None) -> AsyncIterator[Stores]:
    if event_store_url is None:
        events = MemoryEventStore()
        yield Stores(events, MemoryReceivedEvents(events), MemoryRollupStore())
        return
    connection = MongoConnection(event_store_url)
    store = MongoEventStore(connection)
    await store.prepare()
    yield Stores(store, MongoReceivedEvents(connection), MongoRollupStore(connection))
    await store.close()


def an_event(number: int, received: datetime) -> SyncEvent:
    """Events that differ in all that is counted, and lie on every bound."""
    seconds = (-60, 0, 60, 61, 3600, 3601, 86_400, 86_401, 604_800, 604_801)[number % 10]
    details = [ErrorDetail(code=("E_NET", "a.b$c", "")[number % 3], message="x")] if number % 4 else None
    return SyncEvent(
        device_id=f"PB-{number}",
        timestamp=received - timedelta(seconds=seconds),
        total_files_synced=number % 3,
        total_errors=(0, 2, 1)[number % 3] if number % 5 else 0,
        internet_speed=(0, 0.25, 0.3, 1, 50, 51)[number % 6],
        device_type=(None, "PiBook", "PiBox")[number % 3],
        errors=details,
    )


async def test_what_devices_had_received_just_then_is_found(stores: Stores) -> None:
    def minutes_ago(device: int, *minutes: int) -> list[SyncEvent]:
        return [event_at(NOW_MS - minute * MINUTE_MS, f"PB-{device}") for minute in minutes]

    await stores.events.insert([*minutes_ago(1, 5, 9, 7), *minutes_ago(2, 3), *minutes_ago(3, 1)], NOW)
    await stores.events.insert([*minutes_ago(1, 2, 5), *minutes_ago(4, 1)], NOW + timedelta(milliseconds=1))
    found = await stores.received.received_then(["PB-1", "PB-2", "PB-4", "PB-5"], NOW_MS)
    assert found == {"PB-1": NOW_MS - 5 * MINUTE_MS, "PB-2": NOW_MS - 3 * MINUTE_MS}
    found = await stores.received.received_then(["PB-1"], NOW_MS + 1)
    assert found == {"PB-1": NOW_MS - 2 * MINUTE_MS}, "a duplicate was received when it came first"


async def test_events_are_counted_as_plainly_as_by_hand(stores: Stores) -> None:
    batches = {NOW + timedelta(seconds=20 * batch): range(30 * batch, 30 * batch + 30) for batch in range(8)}
    entries = [(an_event(number, moment), moment) for moment, some in batches.items() for number in some]
    for moment, some in batches.items():
        await stores.events.insert([an_event(number, moment) for number in some], moment)
    counted = await stores.received.counted(HOUR)
    assert counted.span == HOUR
    for minute, figures in counted.minutes.items():
        mine = [entry for entry in entries if minute <= to_ms(entry[1]) < minute + MINUTE_MS]
        assert msgspec.structs.asdict(figures) == plainly(mine)
    assert sorted(counted.minutes) == [NOW_MS, NOW_MS + MINUTE_MS, NOW_MS + 2 * MINUTE_MS]
    assert await stores.received.count(HOUR) == len(entries)
    # Within a minute there is only that one.
    second = await stores.received.counted(Span(NOW_MS + 20_000, NOW_MS + 40_001))
    assert {minute: figures.events for minute, figures in second.minutes.items()} == {NOW_MS: 60}


async def test_a_count_is_bounded_and_goes_on_behind_it(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ROLLUP_EVENTS_AT_ONCE", 5)
    for batch in range(4):
        moment = NOW + timedelta(milliseconds=batch)
        await stores.events.insert([an_event(batch * 10 + number, moment) for number in range(4)], moment)
    at_once = NOW + timedelta(milliseconds=9)
    await stores.events.insert([an_event(100 + number, at_once) for number in range(7)], at_once)
    steps, begin = [], HOUR.start_ms
    while begin < HOUR.end_ms:
        counted = await stores.received.counted(Span(begin, HOUR.end_ms))
        steps.append((counted.span.end_ms - NOW_MS, sum(part.events for part in counted.minutes.values())))
        begin = counted.span.end_ms
    assert steps == [(1, 4), (2, 4), (3, 4), (9, 4), (10, 7), (Unit.HOUR.ms, 0)]


async def test_the_newest_event_before_a_moment(stores: Stores) -> None:
    assert await stores.received.newest_before(NOW_MS) is None
    await stores.events.insert([an_event(1, NOW)], NOW)
    assert await stores.received.newest_before(NOW_MS) is None
    assert await stores.received.newest_before(NOW_MS + 1) == NOW_MS


async def test_minutes_whose_events_were_added_to_are_found_by_when_that_was(stores: Stores) -> None:
    bare = msgspec.structs.replace(an_event(1, NOW), device_type=None, errors=None)
    await stores.events.insert([bare, an_event(2, NOW)], NOW)
    later = NOW + timedelta(hours=2)
    await stores.events.insert([an_event(1, NOW)], later)
    later_ms = to_ms(later)
    assert await stores.received.enriched_minutes(Span(later_ms, later_ms + 1)) == [NOW_MS]
    assert await stores.received.enriched_minutes(Span(NOW_MS, later_ms)) == []


FIGURES = Figures(
    events=3,
    failures=2,
    partial=1,
    files=2**53 - 1,
    device_types={"PiBox": 3},
    lateness=(1, 0, 0, 0, 2),
    speeds=(0, 0, 0, 0, 0, 0, 0, 3),
    codes={"a.b$c": 1, "": 1},
)


async def test_what_is_kept_comes_back_and_what_is_unknown_is_told(stores: Stores) -> None:
    rollups = stores.rollups
    assert await rollups.begin(1) == Progress()
    assert {found.figures for found in await rollups.read(Unit.MINUTE, HOUR)} == {None}
    span = Span(NOW_MS, NOW_MS + 3 * MINUTE_MS)
    await rollups.replace([Part(Unit.MINUTE, span, {NOW_MS: FIGURES})], 1)
    assert {found.figures for found in await rollups.read(Unit.MINUTE, HOUR)} == {None}
    progress = Progress(covered=(span,), closed_ms=NOW_MS + MINUTE_MS, confirmed_ms=5, enriched_ms=7)
    await rollups.save(progress, 1)
    assert await rollups.progress() == await rollups.begin(1) == progress
    found = await rollups.read(Unit.MINUTE, HOUR)
    assert [(one.figures, one.closed) for one in found[:4]] == [
        (FIGURES, True),
        (NO_EVENTS, False),
        (NO_EVENTS, False),
        (None, False),
    ]
    assert len(found) == 60
    with pytest.raises(ValueError, match="at most"):
        await rollups.read(Unit.MINUTE, Span(0, NOW_MS))


async def test_a_replacement_leaves_nothing_of_what_was_there(stores: Stores) -> None:
    rollups = stores.rollups
    await rollups.begin(1)
    minutes = {NOW_MS + number * MINUTE_MS: FIGURES for number in range(4)}
    await rollups.replace([Part(Unit.MINUTE, HOUR, minutes), Part(Unit.HOUR, HOUR, {NOW_MS: FIGURES})], 1)
    other = msgspec.structs.replace(FIGURES, events=4)
    inner = Span(NOW_MS + MINUTE_MS, NOW_MS + 3 * MINUTE_MS)
    await rollups.replace([Part(Unit.MINUTE, inner, {NOW_MS + MINUTE_MS: other})], 1)
    expected = {**minutes, NOW_MS + MINUTE_MS: other}
    del expected[NOW_MS + 2 * MINUTE_MS]
    assert await rollups.figures(Unit.MINUTE, HOUR) == expected
    assert await rollups.figures(Unit.HOUR, HOUR) == {NOW_MS: FIGURES}


async def test_who_was_followed_by_another_replaces_nothing(stores: Stores) -> None:
    rollups = stores.rollups
    await rollups.begin(1)
    await rollups.begin(2)
    await rollups.replace([Part(Unit.MINUTE, HOUR, {NOW_MS: FIGURES})], 2)
    with pytest.raises(LeaseLost):
        await rollups.begin(1)
    with pytest.raises(LeaseLost):
        await rollups.save(Progress(closed_ms=1), 1)
    with pytest.raises(LeaseLost):
        await rollups.replace([Part(Unit.MINUTE, HOUR, {NOW_MS: NO_EVENTS})], 1)
    await rollups.replace([Part(Unit.MINUTE, HOUR, {})], 1)
    assert await rollups.figures(Unit.MINUTE, HOUR) == {NOW_MS: FIGURES}


async def test_after_a_reset_nothing_is_known_and_who_counts_has_to_begin_anew(stores: Stores) -> None:
    rollups = stores.rollups
    await rollups.begin(1)
    await rollups.save(Progress(covered=(HOUR,)), 1)
    await rollups.add_codes({"E_NET": Span(NOW_MS, NOW_MS)})
    await rollups.reset()
    with pytest.raises(LeaseLost):
        await rollups.save(Progress(covered=(HOUR,)), 1)
    assert await rollups.begin(1) == await rollups.progress() == Progress()
    assert await rollups.codes(10) == {}
    await rollups.save(Progress(covered=(HOUR,)), 1)


async def test_a_code_has_its_first_and_its_last_minute(stores: Stores) -> None:
    await stores.rollups.add_codes({"E_A": Span(20, 30), "$b.c": Span(40, 40)})
    await stores.rollups.add_codes({"E_A": Span(25, 50)})
    await stores.rollups.add_codes({"E_A": Span(10, 20)})
    assert list((await stores.rollups.codes(10)).items()) == [("E_A", Span(10, 50)), ("$b.c", Span(40, 40))]
    assert list(await stores.rollups.codes(1)) == ["E_A"]


async def test_of_codes_the_first_and_last_minute_is_known_and_for_which_times(stores: Stores) -> None:
    """Codes have any name: also that of what is written down of the rollups."""
    rollups = stores.rollups
    assert await rollups.known(["E_A"]) == KnownCodes({}, Progress())
    await rollups.begin(1)
    await rollups.save(Progress(covered=(HOUR,)), 1)
    await rollups.add_codes({"E_A": Span(20, 30), "rollups": Span(40, 50), "E_B": Span(60, 70)})
    asked = ["E_A", "rollups", "E_C"]
    expected = KnownCodes({"E_A": Span(20, 30), "rollups": Span(40, 50)}, Progress(covered=(HOUR,)))
    assert await rollups.known(asked) == expected


async def test_failures_by_code_of_several_units_at_once(stores: Stores) -> None:
    rollups = stores.rollups
    await rollups.begin(1)
    hour = msgspec.structs.replace(FIGURES, codes={"E_A": 4}, other_codes=2)
    day = Span(Unit.DAY.floor(NOW_MS), Unit.DAY.floor(NOW_MS) + Unit.DAY.ms)
    next_hour = Span(HOUR.end_ms, HOUR.end_ms + Unit.HOUR.ms)
    parts = [
        Part(Unit.HOUR, HOUR, {NOW_MS: hour}),
        Part(Unit.HOUR, next_hour, {HOUR.end_ms: FIGURES}),
        Part(Unit.DAY, day, {day.start_ms: FIGURES}),
    ]
    await rollups.replace(parts, 1)
    found = await rollups.failures([(Unit.DAY, day), (Unit.HOUR, HOUR)])
    assert found == [
        {day.start_ms: FailuresByCode({"a.b$c": 1, "": 1}, 0)},
        {NOW_MS: FailuresByCode({"E_A": 4}, 2)},
    ]


async def test_rollups_are_read_without_a_breakdown_where_nobody_asks_for_it(stores: Stores) -> None:
    await stores.rollups.begin(1)
    await stores.rollups.replace([Part(Unit.MINUTE, HOUR, {NOW_MS: FIGURES})], 1)
    await stores.rollups.save(Progress(covered=(HOUR,)), 1)
    [first, second, *_] = await stores.rollups.read(Unit.MINUTE, HOUR, with_breakdown=False)
    plain = Figures(events=3, failures=2, partial=1, files=2**53 - 1, lateness=(1, 0, 0, 0, 2))
    assert (first.start_ms, first.figures, second.figures) == (NOW_MS, plain, NO_EVENTS)
