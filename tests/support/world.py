"""One bridge as a process between a broker and stores of its own, and a device that publishes to it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiomqtt

from local_stack.process import ChildProcess, running
from local_stack.servers import MongodbServer, MosquittoServer, RedisServer
from pisync.clock import rfc3339
from pisync.domain import topics
from pisync.domain.device_state import project
from pisync.domain.events import SyncEvent
from pisync.mqtt.address import MqttAddress
from pisync.stores.redis.projection import RedisProjection
from tests.support.programs import Truth, program, truth
from tests.support.samples import event, members, without_receipts
from tests.support.waiting import TIMEOUT_S, until


@dataclass(frozen=True)
class World:
    """A broker, the stores, and one bridge between them, all of the test's own."""

    mosquitto: MosquittoServer
    mongodb: MongodbServer
    redis: RedisServer
    bridge: ChildProcess
    truth: Truth

    def log(self) -> str:
        assert self.bridge.log is not None
        return self.bridge.log.read_text() if self.bridge.log.exists() else ""

    async def said(self, words: str, times: int = 1) -> None:
        """Wait for words in the bridge's log."""

        async def there() -> bool:
            return self.log().count(words) >= times

        await until(there)

    def another(self, log: Path, *options: str, **settings: object) -> ChildProcess:
        """A bridge like the one there is, with these settings."""
        return program(
            "bridge",
            log,
            *options,
            mqtt_url=self.mosquitto.url,
            mongodb_url=self.mongodb.database_url("pisync"),
            redis_url=self.redis.url,
            **settings,
        )

    async def alerts(self) -> list[dict[str, Any]]:
        """What operators were told, without whether they were."""
        found = self.truth.database.alerts.find({}, {"published": 0}).sort("device_id")
        return [alert async for alert in found]

    async def alerted(self, events: Iterable[SyncEvent]) -> None:
        """Wait until the open alerts are those of the rule; the comparison of a minute may find the last."""
        expected = {device_id for device_id, state in project(events).items() if state.alerting}

        async def equal() -> bool:
            return {each["device_id"] for each in await self.alerts() if each["is_open"]} == expected

        await until(equal, timeout_s=2 * TIMEOUT_S)

    async def complete(self) -> None:
        """Wait until the projection says that it is."""
        store = RedisProjection.connect(self.redis.url)

        async def said_so() -> bool:
            return (await store.status()).complete

        try:
            await until(said_so)
        finally:
            await store.close()

    async def projected(self, events: Iterable[SyncEvent]) -> None:
        """Wait until Redis is what the rule makes of these events."""
        expected = project(events)
        store = RedisProjection.connect(self.redis.url)

        async def equal() -> bool:
            states = [(await store.state(name), state) for name, state in expected.items()]
            return all(found is not None and without_receipts(found) == state for found, state in states)

        try:
            await until(equal)
        finally:
            await store.close()


@asynccontextmanager
async def running_world(
    directory: Path, *, broker: type[MosquittoServer] = MosquittoServer, **settings: object
) -> AsyncIterator[World]:
    """A world whose bridge has these settings and is connected."""
    async with (
        running(broker(directory / "mosquitto")) as mosquitto,
        running(MongodbServer(directory / "mongodb")) as mongodb,
        running(RedisServer(directory / "redis")) as redis,
        truth(mongodb.database_url("pisync")) as view,
    ):
        bridge = program(
            "bridge",
            directory / "bridge.log",
            mqtt_url=mosquitto.url,
            mongodb_url=mongodb.database_url("pisync"),
            redis_url=redis.url,
            **settings,
        )
        async with running(bridge):
            world = World(mosquitto, mongodb, redis, bridge, view)
            await world.said("connected")
            yield world


def fleet(devices: int, minutes: int) -> list[SyncEvent]:
    """Events of some devices, some of which keep failing."""
    return [
        event(f"PB-{device}", minute, errors=device % 3 and (minute + device) % 4)
        for minute in range(minutes)
        for device in range(devices)
    ]


def as_sent(one: SyncEvent) -> dict[str, Any]:
    return members(
        device_id=one.device_id,
        timestamp=rfc3339(one.timestamp),
        total_files_synced=one.total_files_synced,
        total_errors=one.total_errors,
    )


@asynccontextmanager
async def device(world: World) -> AsyncIterator[aiomqtt.Client]:
    async with aiomqtt.Client(
        MqttAddress(world.mosquitto.url).host,
        world.mosquitto.port,
        protocol=aiomqtt.ProtocolVersion.V5,
        max_inflight_messages=50,
    ) as client:
        client.pending_calls_threshold = 1000
        yield client


async def publish(world: World, events: Iterable[SyncEvent]) -> None:
    async with device(world) as client:
        await asyncio.gather(
            *(client.publish(topics.sync(one.device_id), json.dumps(as_sent(one)), qos=1) for one in events)
        )
