"""Retention on real servers: killed in the middle and followed by another, and no answer changes."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

from local_stack.process import ChildProcess, running
from pisync import clock, limits
from pisync.clock import from_ms, to_ms
from pisync.domain.device_state import DeviceState, project
from pisync.domain.rollups import Span, Unit
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.events import MongoEventStore
from pisync.stores.mongodb.retention import MongoRetentionStore
from pisync.stores.mongodb.rollups import MongoRollupStore
from pisync.stores.redis.projection import RedisProjection
from tests.support.programs import program, truth
from tests.support.replays import states_of
from tests.support.samples import event_at
from tests.support.waiting import until

OLD, NEW, DEVICES = 3 * limits.RETENTION_EVENTS_AT_ONCE, 300, 500


async def test_a_worker_is_killed_while_it_deletes_and_no_answer_changes(
    mongodb_url: str, redis_url: str, tmp_path: Path
) -> None:
    def run(name: str, *options: str, **settings: object) -> ChildProcess:
        log = tmp_path / f"{name}{len(list(tmp_path.iterdir()))}"
        return program(name, log, *options, mongodb_url=mongodb_url, redis_url=redis_url, **settings)

    async def ended(name: str, *options: str) -> int | None:
        child = run(name, *options)
        await child.start()
        async with asyncio.timeout(60):
            return await child.wait()

    connection = MongoConnection(mongodb_url)
    store, rollups = MongoEventStore(connection), MongoRollupStore(connection)
    await store.prepare()
    old_at, new_at = clock.now() - timedelta(days=9), clock.now() - timedelta(hours=3)
    expected: dict[str, DeviceState] = {}
    for received, count in ((old_at, OLD), (new_at, NEW)):
        events = [
            event_at(to_ms(received) - 1000 * number, f"PB-{number % DEVICES}", errors=number % 3)
            for number in range(count)
        ]
        for start in range(0, count, 1000):
            await store.insert(events[start : start + 1000], received)
        for device_id, state in project(events, [to_ms(received)] * count).items():
            expected[device_id] = state if device_id not in expected else expected[device_id].merge(state)

    async def received_then() -> list[int | None]:
        """Events by the rollups of the days of both; None: not known."""
        found = []
        for moment in (old_at, new_at):
            start_ms = Unit.DAY.floor(to_ms(moment))
            [day] = await rollups.read(Unit.DAY, Span(start_ms, start_ms + 1))
            found.append(None if day.figures is None else day.figures.events)
        return found

    async with truth(mongodb_url) as seen, AsyncExitStack() as stack:
        stack.push_async_callback(connection.close)
        async with running(run("worker", retention_days=3)) as first:

            async def is_deleting() -> bool:
                return await seen.events() < OLD + NEW

            await until(is_deleting)
            await first.kill()
        left = await seen.events()
        assert NEW < left < OLD + NEW
        # As if its leases had ended, which takes 15 seconds.
        await seen.database.leases.update_many({}, {"$set": {"until": from_ms(0)}})
        async with running(run("worker", retention_days=3)):

            async def is_done() -> bool:
                return await seen.events() == NEW

            await until(is_done, timeout_s=150)
            assert await ended("rebuild") == 0

            async def is_counted_anew() -> bool:
                received = await received_then()
                assert received[0] == OLD
                return received[1] == NEW

            await until(is_counted_anew)
        assert await ended("rebuild", "--check") == 0
        states = states_of([batch async for batch in store.replay(None)])
        async for some in store.bases():
            for device_id, state in some.items():
                states[device_id] = states[device_id].merge(state) if device_id in states else state
        assert states == expected
        projection = RedisProjection.connect(redis_url)
        stack.push_async_callback(projection.close)
        assert await projection.state("PB-499") == expected["PB-499"]
        told = await MongoRetentionStore(connection).progress()
        assert told is not None
        assert (told.days, told.oldest_ms) == (3, to_ms(new_at))
        assert to_ms(old_at) < told.before_ms < to_ms(new_at)
