"""A bridge between real servers writes down when it listens: stopped, or without a broker, it does not."""

import sys
from pathlib import Path

import pytest

from local_stack.process import ChildProcess, running
from pisync import clock, limits, settings
from pisync.domain.calendars import ListeningGap
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.listening import MongoListeningRecord
from tests.support.waiting import until
from tests.support.world import World

# The bridge as it is, but for its patience.
GAP_S = 1.0
CODE = f"""
from pisync import limits
limits.LISTENING_GAP_MIN_S, limits.FLOOR_INTERVAL_S, limits.BACKOFF_CAP_S = {GAP_S}, 0.05, 0.2
from cli.main import main
main()
"""


def quick_bridge(world: World, log: Path) -> ChildProcess:
    environment = {
        "bridge_id": "bridge-1",
        "mqtt_url": world.mosquitto.url,
        "mongodb_url": world.mongodb.url,
        "redis_url": world.redis.url,
    }
    command = [sys.executable, "-c", CODE, "bridge"]
    return ChildProcess("bridge", command, log=log, environment=settings.child_environment(environment))


async def test_a_bridge_stopped_and_started_shows_one_gap(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LISTENING_GAP_MIN_S", GAP_S)
    await world.bridge.terminate()
    connection = MongoConnection(world.mongodb.url)
    record = MongoListeningRecord(connection)
    began_ms = now_ms()

    async def gaps() -> list[ListeningGap]:
        return await record.gaps(began_ms, now_ms())

    async def gap_until_now() -> bool:
        found, at_ms = await gaps(), now_ms()
        return bool(found) and at_ms - found[-1].end_ms < GAP_S * 500

    async def listens() -> bool:
        return not await gap_until_now()

    bridge = quick_bridge(world, tmp_path / "bridge.log")
    try:
        await until(gap_until_now)
        async with running(bridge):
            await until(listens)
            (before,) = await gaps()
            assert before.start_ms == began_ms, "nobody listened yet"
            stopped_ms = now_ms()
            await bridge.terminate()
            await until(gap_until_now)
            started_ms = now_ms()
            await bridge.start()
            await until(listens)
            _, stopped = await gaps()
            assert abs(stopped.start_ms - stopped_ms) < GAP_S * 1000
            assert started_ms < stopped.end_ms <= now_ms()

            await world.mosquitto.terminate()
            await until(gap_until_now)
            await world.mosquitto.start()
            await until(listens)
            assert (await gaps())[:2] == [before, stopped]
            assert len(await gaps()) == 3
            assert await connection.database.listening.count_documents({"_id.bridge_id": "bridge-1"}) == 3
    finally:
        await connection.close()


def now_ms() -> int:
    return clock.to_ms(clock.now())
