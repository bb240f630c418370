"""What is called complete has every event that MongoDB has had for a few seconds: asked all the time."""

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from local_stack.process import ChildProcess, running
from pisync import clock, limits
from pisync.clock import to_ms
from pisync.domain.events import SyncEvent
from pisync.errors import RedisUnavailable
from pisync.stores.known_bridges import KnownBridges
from pisync.stores.mongodb.bridges import MongoBridgeRegistry
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.redis.connection import RedisConnection
from pisync.stores.redis.projection import RedisProjection
from pisync.tasks import supervise
from tests.support.link import link_to
from tests.support.programs import program
from tests.support.samples import event
from tests.support.waiting import until
from tests.support.world import World, publish

# How long an event may be missing: what counts as young, and what a slow machine and one round trip add.
LATE_S: Final = limits.PROJECTION_YOUNG_S + 2
ASK_INTERVAL_S: Final = 0.05


class Reader:
    """Asks the projection all the time, as the api does, and holds what is called complete to it."""

    def __init__(self, world: World, projection: RedisProjection) -> None:
        self._world = world
        self._projection = projection
        self.said: Counter[bool] = Counter()
        self.behind: frozenset[str] = frozenset()

    async def run(self) -> None:
        while True:
            try:
                await self._ask()
            except RedisUnavailable:
                self.said[False] += 1  # the api answers 503
            await asyncio.sleep(ASK_INTERVAL_S)

    async def _ask(self) -> None:
        asked_at = clock.now()
        status = await self._projection.status()
        if status.complete and (missing := await self._missing(asked_at - timedelta(seconds=LATE_S))):
            # Redis may have gone back between the two answers: then the next one is another.
            again = await self._projection.status()
            assert not again.complete, f"called complete without {missing}"
        self.said[status.complete] += 1
        self.behind = status.behind

    async def _missing(self, before: datetime) -> str | None:
        """How many of the events that were stored before then are not merged."""
        old = self._world.truth.database.sync_events.find({"received_at": {"$lt": before}}, {"_id": 1})
        keys = [(found["_id"]["device_id"], to_ms(found["_id"]["timestamp"])) async for found in old]
        devices = list({device_id for device_id, _ in keys})
        records = await self._projection.records(devices)
        merged = {
            device_id: set(found.failures_ms) for device_id, found in zip(devices, records, strict=True)
        }
        missing = [key for key in keys if key[1] not in merged[key[0]]]
        return f"{len(missing)} of {len(keys)} events" if missing else None

    async def says(self, *, complete: bool) -> None:
        """Wait until an answer is this, of those from now on."""
        before = self.said[complete]
        await until(lambda: self.said[complete] > before)


@asynccontextmanager
async def asking(world: World) -> AsyncIterator[Reader]:
    mongodb = MongoConnection(world.mongodb.database_url("pisync"))
    known = KnownBridges(MongoBridgeRegistry(mongodb))
    projection = RedisProjection(RedisConnection(world.redis.url), known)
    reader = Reader(world, projection)
    try:
        await known.refresh()
        async with supervise({"reader": reader.run(), "known bridges": known.run()}) as running:
            yield reader
            running.raise_failure()
    finally:
        await projection.close()
        await mongodb.close()


def failures(minute: int) -> list[SyncEvent]:
    """One failure of each of many devices, of which every bridge gets some."""
    return [event(f"PB-{device}", minute, errors=1) for device in range(200)]


def second_bridge(world: World, log: Path, *, redis_port: int) -> ChildProcess:
    return program(
        "bridge",
        log,
        bridge_id="bridge-1",
        mqtt_url=world.mosquitto.url,
        mongodb_url=world.mongodb.database_url("pisync"),
        redis_url=f"redis://127.0.0.1:{redis_port}/0",
    )


async def said(bridge: ChildProcess, words: str) -> None:
    await until(lambda: bridge.log is not None and bridge.log.exists() and words in bridge.log.read_text())


async def test_one_bridge_cut_off_from_redis(world: World, tmp_path: Path) -> None:
    async with link_to(world.redis.port) as link, asking(world) as reader:
        bridge = second_bridge(world, tmp_path / "bridge-1.log", redis_port=link.port)
        async with running(bridge):
            await said(bridge, "connected")
            await said(bridge, "caught up")
            await publish(world, failures(0))
            await reader.says(complete=True)
            await link.cut()
            await publish(world, failures(1))
            await reader.says(complete=False)
            assert reader.behind == {"bridge-1"}
            await publish(world, failures(2))
            link.mend()
            await reader.says(complete=True)
            await world.projected([*failures(0), *failures(1), *failures(2)])


async def test_a_bridge_that_never_reached_redis(world: World, tmp_path: Path) -> None:
    async with link_to(world.redis.port) as link, asking(world) as reader:
        await link.cut()
        await reader.says(complete=True)
        bridge = second_bridge(world, tmp_path / "bridge-1.log", redis_port=link.port)
        async with running(bridge):
            await said(bridge, "connected")
            await publish(world, failures(0))
            await reader.says(complete=False)
            assert reader.behind == {"bridge-1"}
            link.mend()
            await reader.says(complete=True)
            await world.projected(failures(0))


async def test_a_bridge_that_stopped_is_no_reason_for_doubt_and_one_that_was_killed_is(world: World) -> None:
    async with asking(world) as reader:
        await publish(world, failures(0))
        await world.projected(failures(0))
        await reader.says(complete=True)  # or it would be stopped before it has caught up
        await world.bridge.terminate()
        stopped_at = clock.now()
        await until(lambda: clock.now() > stopped_at + timedelta(seconds=LATE_S))
        await reader.says(complete=True)
        await world.bridge.start()
        await world.said("caught up", times=2)
        await reader.says(complete=True)
        await world.bridge.kill()
        await reader.says(complete=False)
        await until(lambda: reader.behind == {"bridge-0"})
        await world.bridge.start()
        await reader.says(complete=True)


async def test_redis_goes_back_while_the_bridge_is_cut_off_from_mongodb(world: World, tmp_path: Path) -> None:
    """The snapshot is from when the bridge had stopped with nothing left to merge, in another life."""
    await world.complete()  # or it would be stopped before it has caught up
    await world.bridge.terminate()
    await world.redis.terminate()
    copy = shutil.copytree(world.redis.directory, tmp_path / "copy")
    await world.redis.start()
    async with link_to(world.mongodb.port) as link, asking(world) as reader:
        bridge = program(
            "bridge",
            tmp_path / "again.log",
            mqtt_url=world.mosquitto.url,
            mongodb_url=f"mongodb://127.0.0.1:{link.port}/pisync?directConnection=true",
            redis_url=world.redis.url,
        )
        async with running(bridge):
            await publish(world, failures(0))
            await world.projected(failures(0))
            merged_at = clock.now()
            await until(lambda: clock.now() > merged_at + timedelta(seconds=LATE_S))
            await link.cut()
            await world.redis.kill()
            shutil.rmtree(world.redis.directory)
            shutil.copytree(copy, world.redis.directory)
            await world.redis.start()
            await until(lambda: reader.behind == {"bridge-0"})
            link.mend()
            await reader.says(complete=True)
            await world.projected(failures(0))


async def test_a_bridge_that_is_gone_for_good_is_forgotten(world: World, tmp_path: Path) -> None:
    """It stored events that it could not merge, and nobody else will replay them before it is forgotten."""

    async def bridges(*options: str) -> tuple[int, str]:
        command = program(
            "bridges",
            tmp_path / f"bridges-{options[0]}-{clock.to_ms(clock.now())}.log",
            *options,
            mongodb_url=world.mongodb.database_url("pisync"),
            redis_url=world.redis.url,
        )
        await command.start()
        code = await command.wait()
        return code, "" if command.log is None else command.log.read_text()

    async with link_to(world.redis.port) as link, asking(world) as reader:
        await link.cut()
        gone = second_bridge(world, tmp_path / "bridge-1.log", redis_port=link.port)
        async with running(gone):
            await said(gone, "connected")
            await publish(world, failures(0))
            await world.truth.has(200)
            await gone.kill()
        await reader.says(complete=False)
        code, text = await bridges("list")
        assert code == 0
        assert "never reached Redis" in text
        code, text = await bridges("forget", "bridge-0")
        assert (code, "is running" in text) == (1, True)
        code, text = await bridges("forget", "bridge-1")
        assert (code, "200 events were merged" in text) == (0, True), text
        await reader.says(complete=True)
        await world.projected(failures(0))
        code, text = await bridges("list")
        assert "bridge-1" not in text
        assert "running, all merged" in text
