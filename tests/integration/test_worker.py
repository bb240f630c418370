"""`pisync worker` as processes on a real MongoDB: killed, followed by another, and stopped."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import httpx

from local_stack import ports
from local_stack.process import ChildProcess, running
from pisync import clock
from pisync.clock import from_ms, to_ms
from pisync.domain.rollups import Span, Unit
from pisync.errors import ConfigurationError
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.events import MongoEventStore
from pisync.stores.mongodb.rollups import MongoRollupStore
from tests.support.programs import program, truth
from tests.support.samples import event_at
from tests.support.waiting import ANSWER_S, until


async def insert(store: MongoEventStore, minutes_ago: range) -> None:
    """Ten events, received at once, in each of these minutes."""
    for minutes in minutes_ago:
        received = clock.now() - timedelta(minutes=minutes)
        devices = range(10)
        events = [event_at(to_ms(received) - device, f"PB-{device}", errors=device % 2) for device in devices]
        await store.insert(events, received)


async def test_workers_are_killed_and_followed_and_every_event_is_counted_once(
    mongodb_url: str, tmp_path: Path
) -> None:
    port = ports.any_free()

    def worker(name: str, **settings: object) -> ChildProcess:
        return program("worker", tmp_path / name, mongodb_url=mongodb_url, **settings)

    connection = MongoConnection(mongodb_url)
    store, rollups = MongoEventStore(connection), MongoRollupStore(connection)
    await store.prepare()
    await insert(store, range(10, 3000, 100))

    async def counted(count: int) -> bool:
        now_ms = to_ms(clock.now())
        days = await rollups.read(Unit.DAY, Span(now_ms - 5 * Unit.DAY.ms, now_ms))
        known = [day.figures for day in days if day.figures is not None]
        assert all(day.failures * 2 == day.events for day in known)
        assert sum(day.events for day in known) <= count
        return bool(len(known) == len(days) and sum(day.events for day in known) == count)

    try:
        first, second = worker("first"), worker("second", metrics_port=port)
        async with running(first), truth(mongodb_url) as seen, AsyncExitStack() as stack:

            async def has_begun() -> bool:
                return bool(await seen.database.rollup_progress.count_documents({}))

            await until(has_begun)
            await stack.enter_async_context(running(second))
            await first.kill()
            # As if its lease had ended, which takes 15 seconds.
            await seen.database.leases.update_many({}, {"$set": {"until": from_ms(0)}})
            await until(lambda: counted(300))
            lease = await seen.database.leases.find_one({"_id": "rollups"})
            assert lease is not None
            assert lease["term"] >= 2
            async with httpx.AsyncClient(
                base_url=f"http://{ports.HOST}:{port}", trust_env=False, timeout=ANSWER_S
            ) as client:
                metrics = (await client.get("/metrics")).text
                assert 'pisync_worker_lease_held{duty="rollups"} 1.0' in metrics
                assert "pisync_worker_rollup_since_timestamp_seconds 0.0" in metrics
                # All of it was received before there was a worker.
                assert 'pisync_worker_event_lateness_seconds_bucket{le="+Inf"} 0.0' in metrics
                assert (await client.get("/healthz")).status_code == 200
            await second.terminate()
            assert second.how_it_ended() == "ended with exit code 0"
            # It let go of its duties at once.
            leases = {found["_id"]: found["until"] async for found in seen.database.leases.find()}
            assert leases.keys() == {
                *(
                    "rollups",
                    "acknowledgements",
                    "commands",
                    "presence",
                    "overdue",
                    "incidents",
                    "notifications",
                    "retention",
                )
            }
            assert max(leases.values()) <= clock.now()
    finally:
        await connection.close()


async def test_a_worker_refuses_what_a_newer_program_stored(mongodb_url: str, tmp_path: Path) -> None:
    async with truth(mongodb_url) as seen:
        await seen.database.schema.insert_one({"_id": "sync_events", "version": 99})
    child = program("worker", tmp_path / "log", mongodb_url=mongodb_url)
    await child.start()
    async with asyncio.timeout(60):
        assert await child.wait() == ConfigurationError.exit_code
