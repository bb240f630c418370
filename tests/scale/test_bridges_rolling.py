"""Four bridges under load: restarted one after the other, scaled in to two, and one that is gone for good.

Some devices wait for receipts and send again what has none; others only for the broker's PUBACK and send
nothing again, so that what a session still held would be missing.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiomqtt
from aiomqtt.client import ProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from local_stack import ports, services
from local_stack.process import running
from local_stack.servers import MongodbServer, MosquittoServer, RedisServer
from pisync import clock
from pisync.domain import receipts, topics
from pisync.domain.events import SyncEvent
from pisync.settings import child_environment
from tests.support.programs import truth
from tests.support.samples import event
from tests.support.waiting import until
from tests.support.world import World, as_sent

BRIDGES: Final = 4
# Of each kind.
DEVICES: Final = 6
RECEIPT_TIMEOUT_S: Final = 1.0
EVENTS_OF_A_STEP: Final = 40


class Load:
    """Devices that go on sending, and what they know of it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.sent: dict[str, list[SyncEvent]] = {}
        self.receipted: list[SyncEvent] = []
        self._is_over = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Load"]:
        """They send while the context lasts, and end what they have begun."""
        async with asyncio.TaskGroup() as devices:
            for number in range(DEVICES):
                devices.create_task(self._waits_for_receipts(f"PB-RECEIPT-{number}"))
                devices.create_task(self._waits_for_pubacks(f"PB-PUBACK-{number}"))
            try:
                yield self
            finally:
                self._is_over = True

    async def goes_on(self) -> None:
        """Wait until so many more events have receipts."""
        wanted = len(self.receipted) + EVENTS_OF_A_STEP
        await until(lambda: len(self.receipted) >= wanted)

    @property
    def events(self) -> list[SyncEvent]:
        return [each for sent in self.sent.values() for each in sent]

    def _next(self, device_id: str) -> list[SyncEvent]:
        """Two events; some devices fail for a while, and succeed again."""
        sent = self.sent.setdefault(device_id, [])
        minutes = range(len(sent), len(sent) + 2)
        some = [event(device_id, each, errors=(each // 5 + len(device_id)) % 3) for each in minutes]
        sent += some
        return some

    async def _waits_for_pubacks(self, device_id: str) -> None:
        async with aiomqtt.Client(ports.HOST, self._port, identifier=device_id) as client:
            while not self._is_over:
                await client.publish(topics.sync(device_id), payload(self._next(device_id)), qos=1)
                await asyncio.sleep(0.005)

    async def _waits_for_receipts(self, device_id: str) -> None:
        async with aiomqtt.Client(
            ports.HOST, self._port, identifier=device_id, protocol=ProtocolVersion.V5
        ) as client:
            await client.subscribe(topics.receipts(device_id), qos=1)
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.ResponseTopic = topics.receipts(device_id)
            messages = aiter(client.messages)
            while not self._is_over:
                some = self._next(device_id)
                correlation = properties.CorrelationData = str(some[0].timestamp).encode()
                is_receipted = False
                while not is_receipted:
                    await client.publish(topics.sync(device_id), payload(some), qos=1, properties=properties)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(RECEIPT_TIMEOUT_S):
                            is_receipted = await receipted(messages, correlation)
                self.receipted += some


def payload(events: list[SyncEvent]) -> bytes:
    return json.dumps([as_sent(each) for each in events]).encode()


async def receipted(messages: AsyncIterator[Any], correlation: bytes) -> bool:
    """Wait for the receipt of one message, and see that it has all of it."""
    async for message in messages:
        receipt = receipts.decode(message.payload)
        assert not receipt.rejected
        if message.properties.CorrelationData == correlation:
            assert receipt.stored + receipt.duplicates == 2
            return True
    return False


@dataclass(frozen=True)
class Four(World):
    """A world with four bridges."""

    bridges: list[services.Bridge]

    async def pisync(self, *arguments: str) -> tuple[int, str]:
        """A command of an operator: its exit code, and what it printed."""
        urls = {"mqtt_url": self.mosquitto.url, "mongodb_url": self.mongodb.url, "redis_url": self.redis.url}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli", *arguments),
            env=child_environment(urls),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        return process.returncode or 0, said.decode()

    async def listed(self, wanted: int) -> dict[str, dict[str, Any]]:
        """The bridges, as they are told."""
        code, said = await self.pisync("bridges", "list", "--json", "--wanted", str(wanted))
        assert code == 0, said
        return {row["bridge_id"]: row for row in json.loads(said)}

    async def has_all_of(self, load: Load) -> None:
        """Everything that was sent is stored once, counted right, and the projection is as MongoDB is."""
        sent = load.events
        await self.truth.has(len(sent))
        ids = [each["_id"] async for each in self.truth.database.sync_events.find({}, {"_id": 1})]
        stored = {(each["device_id"], clock.to_ms(each["timestamp"])) for each in ids}
        assert len(ids) == len(stored) == len(sent)
        assert {(each.device_id, clock.to_ms(each.timestamp)) for each in load.receipted} <= stored
        assert await self.truth.database.dead_letters.count_documents({}) == 0
        await self.complete()
        await self.projected(sent)
        code, said = await self.pisync("rebuild", "--check")
        assert code == 0, said


@asynccontextmanager
async def four(work: Path) -> AsyncIterator[Four]:
    async with AsyncExitStack() as stack:
        mosquitto = await stack.enter_async_context(running(MosquittoServer(work / "mosquitto")))
        mongodb = await stack.enter_async_context(running(MongodbServer(work / "mongodb")))
        redis = await stack.enter_async_context(running(RedisServer(work / "redis")))
        view = await stack.enter_async_context(truth(mongodb.url))
        urls = {"mqtt_url": mosquitto.url, "mongodb_url": mongodb.url, "redis_url": redis.url}
        bridges = [
            services.Bridge(f"bridge-{number}", urls, log=work / f"bridge-{number}.log")
            for number in range(BRIDGES)
        ]
        await asyncio.gather(*(stack.enter_async_context(running(bridge)) for bridge in bridges))
        yield Four(mosquitto, mongodb, redis, bridges[0], view, bridges)


async def test_bridges_that_are_restarted_one_after_the_other_lose_nothing(tmp_path: Path) -> None:
    async with four(tmp_path) as world:
        load = Load(world.mosquitto.port)
        async with load.running():
            await load.goes_on()
            for bridge in world.bridges:
                await bridge.terminate()
                assert await bridge.wait() == 0, bridge.log_tail()
                await bridge.start()
                await load.goes_on()
        await world.has_all_of(load)
        told = await world.listed(BRIDGES)
        assert list(told) == [bridge.name for bridge in world.bridges]
        assert all(row["running"] and row["listening"] and not row["beyond"] for row in told.values())


async def test_a_scale_in_from_four_to_two_leaves_nothing_waiting(tmp_path: Path) -> None:
    async with four(tmp_path) as world:
        load = Load(world.mosquitto.port)
        async with load.running():
            await load.goes_on()
            for bridge in world.bridges[2:]:
                await bridge.terminate()
            # The broker goes on giving them their share, which waits: others' receipts come meanwhile.
            await load.goes_on()
            told = await world.listed(2)
            assert [name for name, row in told.items() if row["beyond"]] == ["bridge-2", "bridge-3"]
            assert [name for name, row in told.items() if row["stopped"]] == ["bridge-2", "bridge-3"]
            assert await world.truth.events() < len(load.events)
            code, said = await world.pisync("bridges", "retire", "--wanted", "2")
            assert code == 0, said
            assert "bridge-3 is retired." in said
            await load.goes_on()
        await world.has_all_of(load)
        assert list(await world.listed(2)) == ["bridge-0", "bridge-1"]


async def test_a_bridge_that_is_killed_for_ever_is_retired_and_what_it_held_is_not_lost(
    tmp_path: Path,
) -> None:
    async with four(tmp_path) as world:
        load = Load(world.mosquitto.port)
        async with load.running():
            await load.goes_on()
            await world.bridges[3].kill()
            await load.goes_on()

            async def is_retired() -> bool:
                # For a few seconds it counts as running, by what it said last.
                code, said = await world.pisync("bridges", "retire", "--wanted", "3")
                assert code == 0, said
                return "bridge-3 is retired." in said

            await until(is_retired)
            await load.goes_on()
        await world.has_all_of(load)
        assert list(await world.listed(3)) == ["bridge-0", "bridge-1", "bridge-2"]
