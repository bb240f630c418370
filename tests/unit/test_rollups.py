"""Rollups are a plain count of the events, whoever counts them, in what pieces, wherever it is killed."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pisync import limits
from pisync.clock import from_ms, to_ms
from pisync.domain.events import ErrorDetail, SyncEvent
from pisync.domain.rollups import (
    MINUTE_MS,
    NO_EVENTS,
    Figures,
    Progress,
    Span,
    Unit,
    rollups,
    total,
    with_codes,
)
from pisync.errors import LeaseLost
from pisync.stores.interfaces.rollups import Part
from pisync.stores.memory.bridges import MemoryBridgeRegistry
from pisync.stores.memory.events import MemoryEventStore
from pisync.stores.memory.rollups import MemoryReceivedEvents, MemoryRollupStore
from tests.support.rollups import plainly
from tests.support.samples import NOW
from tests.support.virtual_time import run
from worker.check import check_rollups
from worker.horizon import Horizon
from worker.rollups import Rolling

CLOSE_MS = round(limits.ROLLUP_CLOSE_AFTER_S * 1000)
NOW_MS = to_ms(NOW)


class Killed(BaseException):
    """A worker is no more, in the middle of what it did."""


class Mortal:
    """A store that kills who uses it, before or after one of its calls takes effect."""

    def __init__(self, store: object) -> None:
        self._store = store
        self.calls_left: int | None = None

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        async def call(*args: Any) -> Any:
            self._count()
            result = await method(*args)
            self._count()
            return result

        return call

    def _count(self) -> None:
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise Killed


class Registry(MemoryBridgeRegistry):
    """With a clock of its own."""

    now = NOW

    async def server_time(self) -> datetime:
        return self.now


@dataclass
class World:
    """Events, bridges, and workers that come and go."""

    events: MemoryEventStore = field(default_factory=MemoryEventStore)
    registry: Registry = field(default_factory=Registry)
    rollups: MemoryRollupStore = field(default_factory=MemoryRollupStore)
    terms: int = 0
    mark: datetime = NOW

    def __post_init__(self) -> None:
        self.workers: list[Rolling] = []
        self.mortal = Mortal(self.rollups)
        self.received = Mortal(MemoryReceivedEvents(self.events))

    @property
    def now_ms(self) -> int:
        return to_ms(self.registry.now)

    def pass_time(self, span: timedelta) -> None:
        self.registry.now += span

    async def bridge(self, stored_until: datetime, bridge_id: str = "bridge-0") -> None:
        """A bridge says how far it is; it may say so for the first time."""
        if bridge_id not in await self.registry.bridges():
            await self.registry.claim(bridge_id, "a", stored_until)
        await self.registry.raise_floor(bridge_id, "a", stored_until, stored_until)
        self.mark = stored_until

    async def worker(self) -> Rolling:
        """A worker in a new term."""
        self.terms += 1
        rolling = Rolling(
            received=self.received,
            rollups=self.mortal,
            registry=self.registry,
            term=self.terms,
        )
        self.workers.append(rolling)
        await rolling.begin()
        return rolling

    @property
    def lateness(self) -> tuple[int, ...]:
        """Events by how late they were received, as all workers that there ever were told it together."""
        return tuple(map(sum, zip(*(rolling.lateness for rolling in self.workers), strict=True)))

    async def settle(self, rolling: Rolling | None = None) -> Rolling:
        """Have all that is there counted and closed."""
        self.pass_time(timedelta(milliseconds=CLOSE_MS + 2 * MINUTE_MS))
        for bridge_id in await self.registry.stored_until():
            await self.bridge(self.registry.now, bridge_id)
        rolling = rolling or await self.worker()
        await rolling.follow()
        while await rolling.fill():
            pass
        await rolling.follow()
        return rolling

    async def agree(self, *, until_ms: int | None = None) -> None:
        """Every rollup that is known is a plain count of the events, and everything is known."""
        until_ms = until_ms or self.now_ms - CLOSE_MS - MINUTE_MS
        entries = [(entry.event, entry.received_at) for entry in self.events.events.values()]
        first_ms = min([to_ms(moment) for _, moment in entries], default=until_ms)
        for unit in Unit:
            span = Span(unit.floor(first_ms) - unit.ms, until_ms)
            for rollup in await self.rollups.read(unit, span):
                end_ms = rollup.start_ms + unit.ms
                mine = [entry for entry in entries if rollup.start_ms <= to_ms(entry[1]) < end_ms]
                assert rollup.figures is not None, (unit, rollup.start_ms)
                assert msgspec.structs.asdict(rollup.figures) == plainly(mine), (unit, rollup.start_ms)
                assert rollup.closed == (end_ms <= (await self.rollups.progress()).closed_ms)
        codes: dict[str, list[int]] = {}
        for event, moment in entries:
            if event.total_errors and event.errors:
                codes.setdefault(event.errors[0].code, []).append(Unit.MINUTE.floor(to_ms(moment)))
        assert await self.rollups.codes(100) == {
            code: Span(min(minutes), max(minutes)) for code, minutes in codes.items()
        }


def an_event(number: int, code: str = "E_NET", *, late_s: int = 30, at: datetime = NOW) -> SyncEvent:
    return SyncEvent(
        device_id=f"PB-{number}",
        timestamp=at - timedelta(seconds=late_s),
        total_files_synced=number % 4,
        total_errors=number % 3,
        internet_speed=number % 7,
        device_type="PiBox" if number % 2 else None,
        errors=[ErrorDetail(code=code, message="")] if number % 3 else None,
    )


def bare(event: SyncEvent) -> SyncEvent:
    return msgspec.structs.replace(event, errors=None, device_type=None)


# What may happen: events come in, or what is stored is added to, now or by a bridge that had been held up
# since its mark; time passes, a worker looks or fills a gap, another one takes over, and one is killed at any
# call.
HAPPENINGS = st.lists(
    st.one_of(
        st.tuples(st.just("store"), st.integers(0, 8), st.integers(0, 200)),
        st.tuples(st.just("store late"), st.integers(0, 8), st.integers(0, 200)),
        st.tuples(st.just("add"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("add late"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("time"), st.sampled_from([1, 20, 59, 61, 200, 900, 4000, 90_000]), st.booleans()),
        st.tuples(st.just("follow"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("fill"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("another"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("kill"), st.integers(0, 60), st.integers(0, 1)),
    ),
    min_size=5,
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(HAPPENINGS, st.sampled_from([1, 3, 1000]), st.booleans())
def test_rollups_equal_a_plain_count_whatever_happens(
    happenings: list[tuple[str, int, Any]], at_once: int, begin_late: bool
) -> None:
    async def happen() -> None:
        world, stored = World(), 0
        await world.bridge(NOW)
        workers: list[Rolling] = [] if begin_late else [await world.worker()]
        for what, number, more in happenings:
            moment = world.mark if what.endswith("late") else world.registry.now
            match what.removesuffix(" late"):
                case "store":
                    events = [
                        bare(an_event(stored + place, f"E_{place % 2}", late_s=more * 997))
                        if place % 2
                        else an_event(stored + place, f"E_{place % 2}", late_s=more * 997)
                        for place in range(number)
                    ]
                    stored += number
                    await world.events.insert(events, moment)
                case "add" if stored:
                    name = f"PB-{number % stored}"
                    [entry] = [found for key, found in world.events.events.items() if key[0] == name]
                    code = ErrorDetail(code="E_ADDED", message="")
                    again = msgspec.structs.replace(
                        entry.event, errors=entry.event.errors or [code], device_type="PiBox"
                    )
                    if entry.event.device_type is None:
                        await world.events.insert([again], moment)
                case "time":
                    world.pass_time(timedelta(seconds=number, milliseconds=7))
                    if more:
                        await world.bridge(world.registry.now)
                case "another":
                    workers.append(await world.worker())
                case "kill":
                    store = world.received if more else world.mortal
                    store.calls_left = number
                    try:
                        dying = await world.worker()
                        for _ in range(3):
                            await dying.follow()
                            await dying.fill()
                    except Killed:
                        pass
                    finally:
                        store.calls_left = None
                case "follow" | "fill" if workers:
                    # Any of them may still believe that it has the lease.
                    rolling = workers[-1 - number % len(workers)]
                    try:
                        await (rolling.follow() if what == "follow" else rolling.fill())
                    except LeaseLost:
                        workers.remove(rolling)
        last = await world.settle()
        await world.agree()
        before = last.minutes_recounted
        await world.settle(last)
        assert last.minutes_recounted == before, "nothing more was to be mended"
        plain = plainly((entry.event, entry.received_at) for entry in world.events.events.values())
        assert all(told <= counted for told, counted in zip(world.lateness, plain["lateness"], strict=True))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "ROLLUP_EVENTS_AT_ONCE", at_once)
        asyncio.run(happen())


@pytest.mark.parametrize("follow_s", [0.1, 4 * limits.ROLLUP_INTERVAL_S])
def test_old_parts_are_filled_however_long_it_takes_to_follow(follow_s: float) -> None:
    done: list[str] = []

    class Slow(Rolling):
        async def follow(self) -> None:
            done.append("follow")
            await asyncio.sleep(follow_s)

        async def fill(self) -> bool:
            done.append("fill")
            await asyncio.sleep(0.2)
            return True

    async def main() -> None:
        world = World()
        received = MemoryReceivedEvents(world.events)
        slow = Slow(received=received, rollups=world.rollups, registry=world.registry, term=1)
        with suppress(TimeoutError):
            await asyncio.wait_for(slow.run(), 10 * limits.ROLLUP_INTERVAL_S + 10 * follow_s)

    run(main)
    looks = "".join(each[1] for each in done).strip("i").split("o")[1:-1]
    assert len(looks) >= 3
    assert all(len(fills) >= 3 for fills in looks), "what is old has its share each time"
    assert all(len(fills) * 0.2 <= limits.ROLLUP_INTERVAL_S + follow_s for fills in looks)


async def test_what_is_not_counted_yet_is_unknown_and_no_zero() -> None:
    world = World()
    day = timedelta(days=1)
    for back in range(3):
        await world.events.insert([an_event(back)], NOW - back * day)
    rolling = await world.worker()
    await world.bridge(NOW + timedelta(seconds=5))
    world.pass_time(timedelta(seconds=6))
    await rolling.follow()
    week = Span(NOW_MS - 7 * Unit.DAY.ms, NOW_MS + 2 * Unit.DAY.ms)

    async def days() -> list[int | None]:
        return [
            None if found.figures is None else found.figures.events
            for found in await world.rollups.read(Unit.DAY, week)
        ]

    # Today is as far as it was counted; then comes the newest of the rest, and tomorrow stays unknown.
    assert await days() == [None] * 7 + [1, None]
    assert await rolling.fill()
    assert await days() == [None] * 6 + [1, 1, None]
    assert await rolling.fill()
    assert await days() == [None] * 5 + [1, 1, 1, None]
    assert await rolling.fill()
    assert not await rolling.fill()
    assert await days() == [0] * 5 + [1, 1, 1, None]
    assert not any(found.closed for found in (await world.rollups.read(Unit.DAY, week))[7:])


async def test_a_bridge_that_stands_still_leaves_minutes_open_and_its_late_events_are_counted() -> None:
    world = World()
    rolling = await world.worker()
    await world.bridge(NOW, "still")
    await world.bridge(NOW, "living")
    hours = timedelta(hours=3)
    for minute in range(180):
        world.pass_time(timedelta(minutes=1))
        await world.bridge(world.registry.now, "living")
        if minute == 60:
            await world.events.insert([an_event(7)], world.registry.now - timedelta(seconds=30))
        await rolling.follow()
    read = Span(NOW_MS, NOW_MS + 170 * MINUTE_MS)
    found = await world.rollups.read(Unit.MINUTE, read)
    assert sum(one.figures.events for one in found if one.figures) == 1
    assert not any(one.closed for one in found)
    assert rolling.minutes_open >= 170
    # It stores what it had received before, and says so.
    await world.events.insert([an_event(8), an_event(9)], NOW + timedelta(seconds=1))
    await world.bridge(NOW + hours, "still")
    await rolling.follow()
    found = await world.rollups.read(Unit.MINUTE, read)
    assert found[0].figures is not None
    assert (found[0].figures.events, rolling.minutes_recounted) == (2, 1)
    assert all(one.closed for one in found)
    assert rolling.minutes_open < 10


async def test_what_was_stored_after_all_marks_had_passed_is_found_an_hour_later() -> None:
    """A bridge was killed, and what it had sent reached MongoDB when nobody waited for it any more."""
    world = World()
    rolling = await world.worker()
    await world.bridge(NOW)
    await rolling.follow()
    await world.settle(rolling)
    await world.events.insert([an_event(1)], NOW + timedelta(seconds=1))
    await rolling.follow()
    [minute] = await world.rollups.read(Unit.MINUTE, Span(NOW_MS, NOW_MS + 1))
    assert (minute.figures, minute.closed) == (NO_EVENTS, True)
    world.pass_time(timedelta(seconds=limits.ROLLUP_CONFIRM_AFTER_S))
    await world.settle(rolling)
    await world.agree()


async def test_how_late_events_were_received_is_told_once_whoever_closes_their_minutes() -> None:
    world = World()
    first = await world.worker()
    await world.bridge(NOW)
    await first.follow()
    lateness_s = [0, 59, 61, 3599, 3601, 90_000, 700_000, 700_001]
    events = [an_event(number, late_s=late_s) for number, late_s in enumerate(lateness_s)]
    for number, event in enumerate(events):
        world.pass_time(timedelta(seconds=40))
        await world.events.insert([event], NOW + timedelta(seconds=40 * number))
        await world.bridge(world.registry.now)
        await first.follow()
    assert 0 < sum(first.lateness) < len(events)
    # Another worker takes over in the middle of a minute; what had been counted of it is not told twice.
    second = await world.settle()
    await world.settle(second)
    assert sum(first.lateness) + sum(second.lateness) == len(events)
    assert (
        world.lateness
        == plainly((one.event, one.received_at) for one in world.events.events.values())["lateness"]
    )
    # What was there before all workers was received at another time, and is not told.
    await world.events.insert([an_event(99)], NOW - timedelta(days=2))
    await world.settle(second)
    assert sum(world.lateness) == len(events)
    # Nor once more, when they are looked at again an hour later.
    world.pass_time(timedelta(seconds=limits.ROLLUP_CONFIRM_AFTER_S))
    await world.settle(second)
    assert sum(world.lateness) == len(events)


async def test_a_worker_that_is_killed_while_it_closes_minutes_has_none_told_twice() -> None:
    told = []
    for calls in range(40):
        world = World()
        first = await world.worker()
        await world.bridge(NOW)
        await first.follow()
        await world.events.insert([an_event(1), an_event(2)], NOW + timedelta(seconds=1))
        world.pass_time(timedelta(milliseconds=CLOSE_MS + 2 * MINUTE_MS))
        await world.bridge(world.registry.now)
        world.mortal.calls_left = calls
        with suppress(Killed):
            await first.follow()
        world.mortal.calls_left = None
        await world.settle()
        assert sum(world.lateness) <= 2, calls
        told.append((sum(first.lateness), sum(world.lateness)))
    # Before it wrote down that it closed them another one tells them; then nobody does, or it did.
    assert {(0, 2), (2, 2)} <= set(told) <= {(0, 2), (0, 0), (2, 2)}


async def test_what_is_added_to_an_event_is_counted_in_its_minute() -> None:
    world = World()
    await world.bridge(NOW)
    await world.events.insert([bare(an_event(1))], NOW)
    rolling = await world.settle()
    await world.agree()
    await world.events.insert([an_event(1)], world.registry.now)
    await world.settle(rolling)
    assert rolling.minutes_recounted == 1
    await world.agree()


async def test_what_is_added_while_a_minute_is_half_counted_is_not_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "ROLLUP_EVENTS_AT_ONCE", 2)
    world = World()
    for number in range(1, 6):
        await world.events.insert([bare(an_event(number))], NOW + timedelta(seconds=number))
    world.pass_time(timedelta(days=1))
    rolling = await world.worker()
    await rolling.follow()
    await rolling.fill()
    assert len(rolling.progress.covered) == 1, "no whole minute is counted"
    await world.events.insert([an_event(1)], world.registry.now)
    world.pass_time(timedelta(minutes=30))
    await rolling.follow()
    await world.settle(rolling)
    await world.agree()


async def test_a_check_finds_what_is_wrong_and_a_reset_has_it_counted_anew() -> None:
    world = World()
    for number in range(6):
        await world.events.insert([an_event(number)], NOW + timedelta(hours=7 * number))
    world.pass_time(timedelta(days=4))
    rolling = await world.settle()
    received = MemoryReceivedEvents(world.events)
    found = await check_rollups(received, world.rollups)
    assert (found.events, found.differing) == (6, [])
    minute_ms, empty_ms = NOW_MS, NOW_MS + 3 * Unit.DAY.ms
    wrong = {minute_ms: NO_EVENTS, empty_ms: NO_EVENTS}
    for start_ms, figures in wrong.items():
        span = Span(start_ms, start_ms + MINUTE_MS)
        await world.rollups.replace([Part(Unit.MINUTE, span, {start_ms: figures})], world.terms)
    found = await check_rollups(received, world.rollups)
    assert {(Unit.MINUTE, minute_ms), (Unit.MINUTE, empty_ms), (Unit.HOUR, minute_ms)} <= set(found.differing)
    await world.rollups.reset()
    assert await world.rollups.progress() == Progress()
    with pytest.raises(LeaseLost):
        await world.settle(rolling)
    await world.settle()
    await world.agree()
    assert (await check_rollups(received, world.rollups)).differing == []


async def test_a_worker_that_comes_back_after_long_begins_with_today() -> None:
    world = World()
    await world.settle()
    await world.events.insert([an_event(9)], world.registry.now)
    world.pass_time(timedelta(seconds=30))
    await (await world.worker()).follow()
    await world.events.insert([an_event(8)], world.registry.now)
    for hour in range(1, 6):
        await world.events.insert([an_event(hour)], world.registry.now + timedelta(hours=hour))
    world.pass_time(timedelta(hours=5, minutes=1))
    back = await world.worker()
    await back.follow()
    assert len(back.progress.covered) == 2
    await world.settle(back)
    await world.agree()
    assert len(back.progress.covered) == 1


def test_how_far_is_counted_and_closed_by_what_bridges_say() -> None:
    minute = timedelta(minutes=1)

    def of(**stored_until: datetime) -> tuple[timedelta, timedelta]:
        horizon = Horizon.of(NOW, stored_until)
        return from_ms(horizon.counted_ms) - NOW, from_ms(horizon.closed_ms) - NOW

    delay, close = timedelta(seconds=limits.ROLLUP_DELAY_S), timedelta(seconds=limits.ROLLUP_CLOSE_AFTER_S)
    assert of() == (-delay, -close)
    assert of(a=NOW - minute / 60, b=NOW - minute / 30) == (-minute / 30, -close)
    assert of(a=NOW - minute / 60, dead=NOW - 20.5 * minute) == (-minute / 60, -21 * minute)
    # The clock of a bridge may be ahead; a new one may be behind, and is not there yet.
    assert of(ahead=NOW + 2 * minute) == (2 * minute, -close)
    assert timedelta(seconds=limits.CLOCK_DIFFERENCE_S_MAX) < close


SPANS = st.builds(lambda start, length: Span(start, start + length), st.integers(0, 60), st.integers(1, 20))


@given(st.lists(SPANS, max_size=8), SPANS)
def test_covered_times_are_a_set_of_moments(spans: list[Span], asked: Span) -> None:
    progress, moments = Progress(), set[int]()
    for span in spans:
        progress = progress.with_covered(span)
        moments |= set(range(span.start_ms, span.end_ms))
    covered = [set(range(span.start_ms, span.end_ms)) for span in progress.covered]
    assert set().union(*covered) == moments
    assert sum(map(len, covered)) == len(moments)
    assert all(
        first.end_ms < second.start_ms
        for first, second in zip(progress.covered, progress.covered[1:], strict=False)
    )
    inside = [set(range(span.start_ms, span.end_ms)) for span in progress.within(asked)]
    assert set().union(*inside) == moments & set(range(asked.start_ms, asked.end_ms))


def test_codes_beyond_the_most_frequent_are_others_and_files_have_an_end() -> None:
    many = Figures(events=9, failures=9, codes={"b": 2, "a": 2, "c": 4, "d": 1}, other_codes=3)
    kept = with_codes(many, 2)
    assert (kept.codes, kept.other_codes) == ({"c": 4, "a": 2}, 6)
    large = Figures(files=2**53 - 1)
    assert total([large, large]).files == 2**53 - 1
    assert total([]) == NO_EVENTS


def test_too_many_rollups_are_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        rollups(Unit.MINUTE, Span(0, NOW_MS), {}, Progress())
