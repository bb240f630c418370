"""A replica set whose members die, stop, lag and are cut off: nothing that was acknowledged is lost."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from bridge.projection.replay import Replay
from local_stack import ports
from local_stack.process import running
from pisync import clock, limits
from pisync.domain.events import SyncEvent
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.events import HistoryQuery, InsertOutcome
from pisync.stores.memory.projection import MemoryProjection
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.events import MongoEventStore
from pisync.stores.mongodb.secondaries import SnapshotAges
from tests.chaos.faults import Fault, Kind, Target
from tests.chaos.replica_set import ReplicaMember, ReplicaSet
from tests.chaos.run import Plan, run
from tests.support.link import Link, link_to
from tests.support.samples import NOW, event
from tests.support.waiting import until

LONG_MS = 60_000
"""So long a primary that hears of nobody believes that it still is one; MongoDB's own are 10 s."""
BEFORE = [event("PB-1", minute) for minute in range(20)]
AFTER = [event("PB-2", minute) for minute in range(20)]


def free_ports() -> Iterator[int]:
    while True:
        yield ports.any_free()


@asynccontextmanager
async def linked(directory: Path) -> AsyncIterator[tuple[ReplicaSet, list[Link]]]:
    """A replica set whose members are reached through links of the test's own."""
    async with AsyncExitStack() as stack:
        replica_set = ReplicaSet(directory, free_ports(), logs=directory)
        links = [await stack.enter_async_context(link_to(member.port)) for member in replica_set.members]
        for member in replica_set.members:
            await stack.enter_async_context(running(member))
        await replica_set.initiate([link.port for link in links])
        await replica_set.wait_for_silent(LONG_MS)
        yield replica_set, links


PRIMARY: list[tuple[Kind, float]] = [(Kind.KILL, 2.0), (Kind.STEP_DOWN, 0.5), (Kind.PAUSE, 4.0)]
# One that stands still for longer than the set waits for it lags, and then catches up.
SECONDARY: list[tuple[Kind, float]] = [(Kind.KILL, 2.0), (Kind.RESTART, 0.0), (Kind.PAUSE, 5.0)]


async def test_members_die_stop_and_lag_under_load(tmp_path: Path) -> None:
    blows = [(Target.MONGODB, blow) for blow in PRIMARY] + [(Target.SECONDARY, blow) for blow in SECONDARY]
    faults = [
        Fault(kind=kind, target=target, at_share=0.05 + 0.15 * number, lasting_s=lasting_s)
        for number, (target, (kind, lasting_s)) in enumerate(blows)
    ]
    # The same in another order, so that each strikes a set in which others were primary.
    again = [
        Fault(kind=kind, target=target, at_share=0.05 + 0.15 * number, lasting_s=lasting_s)
        for number, (target, (kind, lasting_s)) in enumerate(reversed(blows))
    ]
    plan = Plan(
        seed=4,
        rounds=2,
        devices=60,
        events=100,
        faults=6,
        hostile=False,
        replica_rounds=2,
        schedule=[faults, again],
        checked=True,
    )
    result = await run(plan, tmp_path, print)
    assert result.wrong == []
    # Sent, confirmed by a receipt, and stored.
    assert [result.count(name) for name in ("sent", "confirmed", "stored")] == [12_000] * 3
    assert result.injected.total() == len(faults + again)


async def stored(store: MongoEventStore, events: list[SyncEvent]) -> None:
    """Insert until a majority has the events."""

    async def done() -> bool:
        try:
            outcomes = await store.insert(events, NOW)
        except MongodbUnavailable:
            return False
        return set(outcomes) <= {InsertOutcome.STORED, InsertOutcome.DUPLICATE}

    await until(done)


async def replaced(replica_set: ReplicaSet, links: list[Link], old: ReplicaMember) -> ReplicaMember:
    """Have another member be elected; the old primary stands still, and hears nothing of it."""
    await links[replica_set.members.index(old)].cut()
    old.pause()
    new = replica_set.another_than(old)
    await replica_set.step_up(new)
    return new


async def test_a_primary_that_was_replaced_is_not_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MONGODB_SOCKET_TIMEOUT_MS", 2000)
    monkeypatch.setattr(limits, "MONGODB_CONNECT_TIMEOUT_MS", 1000)
    monkeypatch.setattr(limits, "CONFIRM_TIMEOUT_MS", 1500)
    async with linked(tmp_path) as (replica_set, links), AsyncExitStack() as stack:

        async def connected() -> MongoEventStore:
            store = MongoEventStore.connect(replica_set.url)
            stack.push_async_callback(store.close)
            return store

        theirs = await connected()
        await theirs.prepare()
        await stored(theirs, BEFORE)
        await theirs.confirm_primary()
        old = await replica_set.primary()
        await replaced(replica_set, links, old)
        await stored(theirs, AFTER)
        others = [member for member in replica_set.members if member is not old]
        for member in others:
            member.pause()
        links[replica_set.members.index(old)].mend()
        old.resume()

        ours = await connected()
        # It answers, as a primary and with what a majority once had, and lacks what was acknowledged since.
        assert await ours.knows("PB-1")
        assert not await ours.knows("PB-2")
        projection = MemoryProjection()
        replay = Replay(events=ours, projection=projection, start_ms=0)
        with pytest.raises(MongodbUnavailable):
            await asyncio.wait_for(merged(replay), 60)

        for member in others:
            member.resume()

        async def whole() -> bool:
            try:
                await merged(replay)
            except MongodbUnavailable:
                return False
            return True

        await until(whole)
        assert projection.states.keys() == {"PB-1", "PB-2"}
        assert replay.replayed == len(BEFORE) + len(AFTER)
        assert await ours.history(HistoryQuery(device_id="PB-2", limit=1))


async def merged(replay: Replay) -> None:
    async for _ in replay.run():
        pass


async def test_what_is_read_from_secondaries_is_as_old_as_they_say_and_no_older(tmp_path: Path) -> None:
    """One of two secondaries takes nothing from the primary for a while, and goes on answering."""
    async with AsyncExitStack() as stack:
        replica_set = await running_set(stack, tmp_path)
        primary = MongoEventStore.connect(replica_set.url)
        stack.push_async_callback(primary.close)
        await primary.prepare()
        ages = SnapshotAges()
        secondaries = MongoEventStore(MongoConnection(replica_set.url, ages))
        stack.push_async_callback(secondaries.close)
        acknowledged: list[datetime] = []
        behind: list[timedelta] = []
        missing = 0

        async def insert_and_read() -> None:
            nonlocal missing
            assert await primary.insert([event("PB-1", len(acknowledged))], NOW) == [InsertOutcome.STORED]
            acknowledged.append(clock.now())
            as_of = ages.as_of()
            found = len(await secondaries.history(HistoryQuery(device_id="PB-1", limit=10_000)))
            if as_of is not None:
                assert found >= sum(moment < as_of for moment in acknowledged)
                behind.append(clock.now() - as_of)
            missing += found < len(acknowledged)
            await asyncio.sleep(0.02)

        async def settled() -> bool:
            await insert_and_read()
            return bool(behind)

        await until(settled)
        lasting = asyncio.Event()
        held = replica_set.another_than(await replica_set.primary())
        holding = asyncio.create_task(replica_set.hold_up(held, lasting=lasting))
        try:

            async def lags() -> bool:
                await insert_and_read()
                return behind[-1] > timedelta(seconds=12)

            await until(lags)
        finally:
            lasting.set()
            await holding
        # It was read from, or nothing would be shown.
        assert missing

        async def caught_up() -> bool:
            await insert_and_read()
            as_of = ages.as_of()
            return as_of is not None and as_of > acknowledged[-1] - timedelta(seconds=6)

        await until(caught_up)


async def running_set(stack: AsyncExitStack, directory: Path) -> ReplicaSet:
    """A replica set, until the stack is closed."""
    replica_set = ReplicaSet(directory, free_ports(), logs=directory)
    for member in replica_set.members:
        await stack.enter_async_context(running(member))
    await replica_set.initiate()
    return replica_set
