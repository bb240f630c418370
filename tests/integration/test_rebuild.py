"""`pisync rebuild` and `--check` as processes, while a bridge takes in events."""

import asyncio
import struct
from pathlib import Path

from local_stack.process import ChildProcess, running
from pisync.stores.mongodb.events import MongoEventStore
from pisync.stores.redis.keys import REBUILDER, shard
from pisync.stores.redis.projection import RedisProjection
from tests.support.programs import program
from tests.support.redis_nodes import redis_of
from tests.support.samples import NOW, event, packed_head
from tests.support.waiting import until
from tests.support.world import World, fleet, publish


class Operator:
    """Someone at a terminal, with a look into Redis past the product."""

    def __init__(self, world: World, directory: Path) -> None:
        self.world = world
        self.directory = directory
        self.redis = RedisProjection.connect(world.redis.url)
        self._runs = 0

    def command(self, *options: str) -> ChildProcess:
        self._runs += 1
        return program(
            "rebuild",
            self.directory / f"rebuild-{self._runs}.log",
            *options,
            mongodb_url=self.world.mongodb.database_url("pisync"),
            redis_url=self.world.redis.url,
        )

    async def run(self, *options: str) -> tuple[int, str]:
        """Run it to its end; returns the exit code and what it printed."""
        command = self.command(*options)
        await command.start()
        async with asyncio.timeout(60):
            code = await command.wait()
        assert command.log is not None
        return code, command.log.read_text()

    async def begun(self, rebuilding: ChildProcess) -> None:
        """Wait until it has removed the old projection, or is too fast for us."""
        pending = f"{shard('PB-1')}:pending"
        async with asyncio.timeout(60):
            while rebuilding.running and not await redis_of(self.redis).exists(pending):
                await asyncio.sleep(0)

    async def corrupt(self) -> None:
        """A failure that never was, and a device forgotten."""
        client = redis_of(self.redis)
        [found] = await self.redis.records(["PB-1"])
        moments = sorted([1, *found.failures_ms])
        head = bytearray(await packed_head(client, "PB-1"))
        struct.pack_into("<HH", head, 25, len(moments), len(moments))  # how many there are, and room for them
        await client.hset(f"{shard('PB-1')}:heads", "PB-1", bytes(head))
        await client.set(f"{shard('PB-1')}:failures:PB-1", struct.pack(f"<{len(moments)}d", *moments))
        await client.hdel(f"{shard('PB-2')}:heads", "PB-2")
        await client.delete(f"{shard('PB-2')}:failures:PB-2")


async def test_a_wrong_projection_is_found_and_mended_under_traffic(world: World, tmp_path: Path) -> None:
    operator = Operator(world, tmp_path)
    events = fleet(10, 20)
    # Events that were never merged, enough for the rebuild to take a while.
    unseen = [event(f"PB-{device}", minute, 1) for device in range(20, 40) for minute in range(500)]
    try:
        await publish(world, events[:100])
        await world.projected(events[:100])
        await world.complete()
        code, said = await operator.run("--check")
        assert (code, "100 events of 10 devices: 0 devices differ" in said) == (0, True), said

        await operator.corrupt()
        code, said = await operator.run("--check")
        assert code == 1, said
        assert "2 devices differ" in said
        assert "0 missing, 1 too many" in said
        assert "PB-2" in said

        store = MongoEventStore.connect(world.mongodb.database_url("pisync"))
        await store.insert(unseen, NOW)
        await store.close()
        async with running(operator.command()) as rebuilding:
            await operator.begun(rebuilding)
            # It stands still while a bridge takes these in.
            rebuilding.pause()
            await publish(world, events[100:])
            await world.truth.has(len(events) + len(unseen))
            rebuilding.resume()
            async with asyncio.timeout(60):
                assert await rebuilding.wait() == 0
        await world.projected(events + unseen)
        await world.complete()

        async def alerts_agree() -> bool:
            return (await operator.run("--check"))[0] == 0

        await until(alerts_agree)
        code, said = await operator.run("--check")
        assert (code, "10,200 events of 30 devices: 0 devices differ" in said) == (0, True), said
        opened = {alert["device_id"] for alert in await world.alerts() if alert["is_open"]}
        assert {f"PB-{device}" for device in range(20, 40)} <= opened
    finally:
        await operator.redis.close()


async def test_a_rebuild_that_was_killed_is_completed_by_the_bridge(world: World, tmp_path: Path) -> None:
    operator = Operator(world, tmp_path)
    events = fleet(10, 20)
    try:
        await publish(world, events)
        await world.projected(events)
        await world.complete()
        # As it is left where the kill comes amid the removal.
        await redis_of(operator.redis).delete(*(f"{shard(f'PB-{device}')}:epoch" for device in range(10)))
        await operator.corrupt()
        await world.projected(events)
        await world.complete()
        assert (await operator.run("--check"))[0] == 0
    finally:
        await operator.redis.close()


async def test_one_at_a_time(world: World, tmp_path: Path) -> None:
    operator = Operator(world, tmp_path)
    try:
        await world.complete()
        await redis_of(operator.redis).set(REBUILDER, "bridge-9")
        code, said = await operator.run()
        assert code == 1
        assert "nothing was changed" in " ".join(said.split())
        assert "Traceback" not in said
    finally:
        await operator.redis.close()


async def test_redis_away_is_one_message(world: World, tmp_path: Path) -> None:
    operator = Operator(world, tmp_path)
    await operator.redis.close()
    await world.redis.kill()
    for options in ([], ["--check"]):
        code, said = await operator.run(*options)
        assert code == 1
        assert "Redis" in said
        assert "Traceback" not in said
