"""What retention deletes leaves every answer as it was, whoever is killed, and whatever comes again."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.projection.replay import Replay
from pisync import limits
from pisync.clock import from_ms, rfc3339, to_ms
from pisync.domain.accumulator import Accumulator, StoredEvents
from pisync.domain.device_state import DeviceState, project
from pisync.domain.events import ErrorDetail, SyncEvent
from pisync.domain.retention import kept_since_ms
from pisync.domain.rollups import Span, Unit
from pisync.errors import LeaseLost
from pisync.stores.interfaces.events import HistoryEntry, InsertOutcome
from pisync.stores.memory.projection import MemoryProjection
from pisync.stores.memory.retention import MemoryRetentionStore
from tests.support.rollups import plainly
from tests.support.samples import NOW, attach_anew
from tests.support.virtual_time import run
from tests.unit.test_rollups import Killed, Mortal, World, an_event
from worker.check import check_rollups
from worker.retention import WAITS_FOR_ROLLUPS, WAITS_FOR_THE_CLOCK, Retaining

NOW_MS = to_ms(NOW)
DAY = timedelta(days=1)
KEPT_DAYS = 2


def merged(states: dict[str, DeviceState], more: dict[str, DeviceState]) -> None:
    for device_id, state in more.items():
        states[device_id] = states[device_id].merge(state) if device_id in states else state


@dataclass
class Retained(World):
    """A world whose events are deleted after some days, and what there ever was."""

    ever: list[HistoryEntry] = field(default_factory=list)
    live: dict[str, DeviceState] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.store = MemoryRetentionStore(self.events)
        self.deleting = Mortal(self.store)

    async def take_in(self, event: SyncEvent) -> InsertOutcome:
        """As a bridge does: what is stored is merged, a duplicate without a receipt."""
        received = self.registry.now
        [outcome] = await self.events.insert([event], received)
        is_new = outcome is InsertOutcome.STORED
        if is_new:
            self.ever.append(HistoryEntry(event=event, received_at=received))
        merged(self.live, project([event], [to_ms(received) if is_new else None]))
        return outcome

    def retaining(self, days: int | None = KEPT_DAYS) -> Retaining:
        return Retaining(store=self.deleting, rollups=self.mortal, registry=self.registry, days=days)

    async def projected(self) -> dict[str, DeviceState]:
        """What a rebuild makes of what is stored."""
        states: dict[str, DeviceState] = {}
        accumulator = Accumulator()
        async for batch in self.events.replay(None):
            accumulator.add(batch)
        for some in accumulator.take(7):
            merged(states, some)
        async for some in self.events.bases():
            merged(states, some)
        return states

    async def rollups_are_of_all_that_ever_was(self) -> None:
        entries = [(entry.event, entry.received_at) for entry in self.ever]
        for unit in Unit:
            groups: dict[int, list[tuple[SyncEvent, datetime]]] = {}
            for entry in entries:
                groups.setdefault(unit.floor(to_ms(entry[1])), []).append(entry)
            stored = await self.rollups.figures(unit, Span(0, self.now_ms))
            assert {start: msgspec.structs.asdict(figures) for start, figures in stored.items()} == {
                start: plainly(mine) for start, mine in groups.items()
            }
        assert (await self.rollups.progress()).reaches_back


HAPPENINGS = st.lists(
    st.one_of(
        st.tuples(st.just("store"), st.integers(0, 4), st.integers(0, 400)),
        st.tuples(st.just("again"), st.integers(0, 30), st.booleans()),
        st.tuples(st.just("time"), st.sampled_from([60, 4000, 50_000, 200_000]), st.booleans()),
        st.tuples(st.just("roll"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("delete"), st.just(0), st.just(0)),
        st.tuples(st.just("kill"), st.integers(0, 30), st.booleans()),
        st.tuples(st.just("read"), st.just(0), st.just(0)),
        st.tuples(st.just("finish"), st.just(0), st.just(0)),
        st.tuples(st.just("reset"), st.just(0), st.just(0)),
    ),
    min_size=8,
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(HAPPENINGS, st.sampled_from([1, 3, 1000]))
def test_deletion_changes_no_state_and_no_rollup_whatever_happens(
    happenings: list[tuple[str, int, Any]], at_once: int
) -> None:
    async def happen() -> None:
        world, stored, rolling = Retained(), 0, None
        sent: list[SyncEvent] = []
        held: list[StoredEvents] = []
        await world.bridge(NOW)
        for what, number, more in happenings:
            match what:
                case "store":
                    for _ in range(number):
                        at = world.registry.now - timedelta(hours=more)
                        # Few devices, so that some have events on both sides.
                        event = msgspec.structs.replace(an_event(stored, at=at), device_id=f"PB-{stored % 3}")
                        if await world.take_in(event) is InsertOutcome.STORED:
                            sent.append(event)
                        stored += 1
                        world.registry.now += timedelta(milliseconds=3)
                case "again" if sent:
                    event = sent[number % len(sent)]
                    await world.take_in(msgspec.structs.replace(event, sync_duration_ms=7) if more else event)
                case "time":
                    world.pass_time(timedelta(seconds=number))
                    if more:
                        await world.bridge(world.registry.now)
                case "roll":
                    try:
                        if rolling is None or number:
                            rolling = await world.worker()
                        await rolling.follow()
                        await rolling.fill()
                    except LeaseLost:
                        rolling = None
                case "delete":
                    await world.retaining().look()
                case "kill":
                    (world.mortal if more else world.deleting).calls_left = number
                    try:
                        await world.retaining().look()
                    except Killed:
                        pass
                    finally:
                        world.mortal.calls_left = world.deleting.calls_left = None
                case "read":
                    held.append(await world.store.old((await world.rollups.progress()).fixed_ms))
                case "finish" if held:
                    # One that stood still since it read these.
                    batch, accumulator = held.pop(0), Accumulator()
                    accumulator.add(batch)
                    for states in accumulator.take(2):
                        await world.store.keep(states)
                    await world.store.delete(batch)
                case "reset":
                    await world.rollups.reset()
            assert await world.projected() == world.live
            kept = world.events.events.values()
            before_ms = (await world.rollups.progress()).fixed_ms
            gone = [entry for entry in world.ever if to_ms(entry.received_at) >= before_ms]
            assert sum(to_ms(entry.received_at) >= before_ms for entry in kept) == len(gone)
        await world.settle()
        world.pass_time(timedelta(seconds=limits.ROLLUP_CONFIRM_AFTER_S))
        await world.settle()
        await world.rollups_are_of_all_that_ever_was()
        retaining = world.retaining()
        await retaining.look()
        assert retaining.progress is not None
        if retaining.progress.doubted_ms is not None:  # nobody had looked for long
            world.pass_time(DAY)
            await world.settle()
            await retaining.look()
        since_ms = kept_since_ms(world.now_ms, KEPT_DAYS)
        assert all(to_ms(entry.received_at) >= since_ms for entry in world.events.events.values())
        await world.settle()
        await world.rollups_are_of_all_that_ever_was()
        assert await world.projected() == world.live
        assert not (await check_rollups(world.received, world.rollups)).differing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "RETENTION_EVENTS_AT_ONCE", at_once)
        asyncio.run(happen())


async def world_of_days(*ages: int) -> Retained:
    """An event of a failing device of each age in days, all counted for good."""
    world = Retained()
    world.registry.now = NOW - max(ages) * DAY - timedelta(hours=1)
    for age in sorted(ages, reverse=True):
        world.registry.now = NOW - age * DAY
        await world.bridge(world.registry.now)
        await world.take_in(an_event(1, at=world.registry.now))
    world.registry.now = NOW
    await world.bridge(NOW)
    await world.settle()
    world.pass_time(timedelta(seconds=limits.ROLLUP_CONFIRM_AFTER_S))
    await world.settle()
    return world


async def test_whole_days_after_the_retention_go_and_how_far_it_is_is_told() -> None:
    world = await world_of_days(5, 4, 3, 2, 1)
    retaining = world.retaining()
    await retaining.look()
    since_ms = kept_since_ms(world.now_ms, KEPT_DAYS)
    assert since_ms == Unit.DAY.floor(world.now_ms) - KEPT_DAYS * Unit.DAY.ms
    received = sorted(to_ms(entry.received_at) for entry in world.events.events.values())
    assert [to_ms(NOW - age * DAY) for age in (2, 1)] == received
    assert retaining.deleted == 3
    told = await world.store.progress()
    assert told is not None
    assert (told.days, told.before_ms, told.oldest_ms) == (KEPT_DAYS, since_ms, received[0])
    assert (told.waits_for, told.at_ms) == ("", world.now_ms)
    # A longer retention brings nothing back, and does not claim so.
    await world.retaining(30).look()
    assert (await world.store.progress()) == msgspec.structs.replace(told, days=30)


def test_most_of_the_time_is_left_to_others_and_more_where_mongodb_is_busy() -> None:
    async def main() -> None:
        world = await world_of_days(6, 5, 4)
        busy_s = 2.0

        class Busy(Mortal):
            async def old(self, before_ms: int) -> StoredEvents:
                await asyncio.sleep(busy_s)
                return await world.store.old(before_ms)

        retaining = Retaining(
            store=Busy(world.store), rollups=world.rollups, registry=world.registry, days=KEPT_DAYS
        )
        loop = asyncio.get_running_loop()
        began = loop.time()
        await retaining.look()
        # One event at once, and a look that finds no more.
        assert loop.time() - began == pytest.approx(4 * busy_s / limits.RETENTION_SHARE)
        assert retaining.deleted == 3

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "RETENTION_EVENTS_AT_ONCE", 1)
        run(main)


async def test_a_backlog_of_last_year_that_arrived_yesterday_stays() -> None:
    world = await world_of_days(5)
    await world.take_in(an_event(2, at=NOW - 365 * DAY))
    await world.settle()
    await world.retaining().look()
    assert [key[0] for key in world.events.events] == ["PB-2"]


async def test_without_a_retention_nothing_is_deleted_and_that_is_told() -> None:
    world = await world_of_days(4000, 1)
    await world.retaining(None).look()
    assert len(world.events.events) == 2
    told = await world.store.progress()
    assert told is not None
    assert (told.days, told.before_ms, told.waits_for) == (None, 0, "")


async def test_what_is_not_counted_for_good_is_waited_for() -> None:
    """Such as with a bridge that died: what it received may still be stored late."""
    world = Retained()
    world.registry.now = NOW - 9 * DAY
    await world.bridge(world.registry.now, "died")
    await world.take_in(an_event(1, at=world.registry.now))
    world.registry.now = NOW
    await world.bridge(NOW)
    rolling = await world.worker()
    await rolling.follow()
    while await rolling.fill():
        pass
    retaining = world.retaining()
    await retaining.look()
    assert (len(world.events.events), retaining.deleted) == (1, 0)
    told = await world.store.progress()
    assert told is not None
    assert (told.before_ms, told.waits_for) == (0, WAITS_FOR_ROLLUPS)
    await world.bridge(NOW, "died")
    await world.settle(rolling)
    world.pass_time(timedelta(seconds=limits.ROLLUP_CONFIRM_AFTER_S))
    await world.settle(rolling)
    await retaining.look()
    assert (len(world.events.events), retaining.deleted) == (0, 1)


async def test_a_clock_that_jumped_deletes_nothing_for_a_day_and_nothing_where_it_is_set_right() -> None:
    world = await world_of_days(9, 1, 0)
    retaining = world.retaining()
    right = world.registry.now
    await retaining.look()
    kept = len(world.events.events)
    for _ in range(3):
        world.registry.now = jumped = right + timedelta(days=3653)
        await retaining.look()
        world.registry.now += timedelta(hours=23)
        retaining = world.retaining()  # another worker, that has only what is written down
        await retaining.look()
        assert len(world.events.events) == kept
        assert retaining.progress is not None
        assert retaining.progress.waits_for == WAITS_FOR_THE_CLOCK % rfc3339(jumped)
        world.registry.now = right
        await retaining.look()
        assert retaining.progress is not None
        assert (retaining.progress.waits_for, retaining.progress.doubted_ms) == ("", None)
        assert len(world.events.events) == kept


async def test_a_clock_that_went_on_for_a_day_after_it_jumped_is_believed() -> None:
    world = await world_of_days(9, 1, 0)
    retaining = world.retaining()
    await retaining.look()
    world.registry.now += timedelta(days=5)
    await retaining.look()
    assert retaining.progress is not None
    assert retaining.progress.waits_for.startswith("the clock of MongoDB")
    await world.bridge(world.registry.now)
    await world.settle()
    world.registry.now += DAY
    await world.bridge(world.registry.now)
    await world.settle()
    await retaining.look()
    assert retaining.progress is not None
    assert retaining.progress.doubted_ms is None
    assert (retaining.progress.waits_for, len(world.events.events)) == ("", 0)


async def test_an_alert_of_deleted_failures_stays_due_until_a_success() -> None:
    world = await world_of_days(6, 5, 4)
    assert await world.events.failing(["PB-1"], limits.STREAK_ALERT) == {"PB-1"}
    await world.retaining().look()
    assert not world.events.events
    assert await world.events.failing(["PB-1"], limits.STREAK_ALERT) == {"PB-1"}
    assert await world.events.knows("PB-1")
    success = msgspec.structs.replace(an_event(1, at=NOW), total_errors=0, errors=None)
    await world.take_in(success)
    assert await world.events.failing(["PB-1"], limits.STREAK_ALERT) == set()


async def test_a_failure_that_comes_again_after_its_deletion_counts_once() -> None:
    world = await world_of_days(6, 5, 1)
    await world.retaining().look()
    assert await world.events.count_failures("PB-1", [None, from_ms(NOW_MS) - 2 * DAY]) == [3, 1]
    assert await world.take_in(an_event(1, at=NOW - 6 * DAY)) is InsertOutcome.STORED
    assert await world.events.count_failures("PB-1", [None]) == [3]
    assert world.live["PB-1"].failures == 3
    assert await world.projected() == world.live


async def test_what_is_added_to_an_event_before_it_goes_is_kept() -> None:
    """Between the reading of it and its deletion: it stays for the next step, which reads it again."""
    world = await world_of_days(6)
    before_ms = kept_since_ms(world.now_ms, KEPT_DAYS)
    batch = await world.store.old(before_ms)
    bare = next(iter(world.events.events.values())).event
    assert await world.take_in(msgspec.structs.replace(bare, sync_duration_ms=8)) is InsertOutcome.ENRICHED
    assert await world.store.delete(batch) == 0
    assert await world.rollups.fix(before_ms)
    await world.retaining().look()
    assert not world.events.events
    assert await world.projected() == world.live


async def test_a_minute_of_which_some_events_are_gone_is_not_counted_again() -> None:
    """Though something was added to one that is still there: a worker was killed between the two."""
    world = await world_of_days(6)
    world.registry.now = NOW - 6 * DAY + timedelta(seconds=1)
    await world.take_in(an_event(2, at=world.registry.now))
    world.registry.now = NOW + DAY
    await world.rollups.reset()
    rolling = await world.settle()
    world.pass_time(timedelta(seconds=limits.ROLLUP_CONFIRM_AFTER_S))
    await world.settle(rolling)
    await world.rollups_are_of_all_that_ever_was()
    before_ms = kept_since_ms(world.now_ms, KEPT_DAYS)
    assert await world.rollups.fix(before_ms)
    batch = await world.store.old(before_ms)
    assert len(batch) == 2
    await world.store.delete(StoredEvents(documents=batch.documents[:1]))
    [kept] = [entry.event for entry in world.events.events.values()]
    assert await world.take_in(msgspec.structs.replace(kept, sync_duration_ms=8)) is InsertOutcome.ENRICHED
    await world.settle(rolling)
    await world.rollups_are_of_all_that_ever_was()


async def test_a_check_of_the_rollups_finds_nothing_wrong_in_what_is_deleted_meanwhile() -> None:
    world = await world_of_days(6, 5, 1)
    received = world.received

    class Deleting(Mortal):
        """Deletes what is old while it is asked for what came before the newest day."""

        async def newest_before(self, moment_ms: int) -> int | None:
            if moment_ms < kept_since_ms(world.now_ms, KEPT_DAYS) + Unit.DAY.ms:
                await world.retaining().look()
            newest_ms: int | None = await received.newest_before(moment_ms)
            return newest_ms

    assert not (await check_rollups(Deleting(received), world.rollups)).differing
    assert len(world.events.events) == 1
    # What is not fixed is still compared.
    del world.events.events[next(iter(world.events.events))]
    assert (await check_rollups(received, world.rollups)).differing


async def test_a_projection_that_went_back_behind_the_retention_catches_up_with_what_was_deleted() -> None:
    world = await world_of_days(6, 5, 1)
    projection = MemoryProjection()
    await attach_anew(projection)
    since = NOW - 7 * DAY
    await world.retaining().look()
    replay = Replay(events=world.events, projection=projection, start_ms=to_ms(since))
    async for _ in replay.run():
        pass
    assert await projection.state("PB-1") == world.live["PB-1"]
    # One that is younger than all that was deleted needs none of it.
    assert [states async for states in world.events.bases(NOW - 2 * DAY)] == []


def test_a_code_is_known_since_its_first_event_after_that_was_deleted_and_all_counted_anew() -> None:
    async def happen() -> None:
        world = Retained()
        for age, code in ((6, "E_OLD"), (5, "E_BOTH"), (1, "E_BOTH"), (1, "E_NEW")):
            world.registry.now = NOW - age * DAY
            await world.bridge(world.registry.now)
            event = an_event(
                1, code, at=world.registry.now - timedelta(seconds=age if code == "E_NEW" else 0)
            )
            await world.take_in(msgspec.structs.replace(event, errors=[ErrorDetail(code=code, message="")]))
        world.registry.now = NOW
        await world.settle()
        world.pass_time(timedelta(seconds=limits.ROLLUP_CONFIRM_AFTER_S))
        await world.settle()
        codes = await world.rollups.codes(9)
        assert set(codes) == {"E_OLD", "E_BOTH", "E_NEW"}
        await world.retaining().look()
        await world.rollups.reset()
        await world.settle()
        assert await world.rollups.codes(9) == codes
        assert not (await check_rollups(world.received, world.rollups)).differing
        await world.rollups_are_of_all_that_ever_was()

    asyncio.run(happen())
