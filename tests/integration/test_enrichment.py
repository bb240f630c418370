"""What a resend may add, and errors that are too long, through a real broker and a real bridge."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from bridge.projection.check import Check
from pisync import limits
from pisync.clock import to_ms
from pisync.domain import topics
from pisync.domain.error_details import LEFT_OUT
from pisync.stores.memory.alerts import MemoryAlertStore
from pisync.stores.mongodb.events import MongoEventStore
from pisync.stores.redis.projection import RedisProjection
from tests.support.samples import members
from tests.support.waiting import until
from tests.support.world import World, device

DEVICE = "PB-000123"


class Asking:
    """A device that asks for receipts, one after the other."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self._client = client
        self._messages = aiter(client.messages)

    async def send(self, *events: dict[str, Any]) -> dict[str, Any]:
        """Publish these as one message; returns its receipt."""
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.ResponseTopic = topics.receipts(DEVICE)
        properties.CorrelationData = b"1"
        payload = json.dumps(events if len(events) > 1 else events[0], ensure_ascii=False)
        await self._client.publish(topics.sync(DEVICE), payload, qos=1, properties=properties)
        async with asyncio.timeout(20):
            receipt: dict[str, Any] = json.loads(bytes((await anext(self._messages)).payload))
        return receipt


@asynccontextmanager
async def asking(world: World) -> AsyncIterator[Asking]:
    async with device(world) as client:
        await client.subscribe(topics.receipts(DEVICE), qos=1)
        yield Asking(client)


def receipt(stored: int = 0, duplicates: int = 0) -> dict[str, Any]:
    return {"stored": stored, "duplicates": duplicates, "rejected": []}


async def stored(world: World) -> dict[str, Any]:
    """The members of the only event that are beside its identity and time of receipt."""
    [found] = [found async for found in world.truth.database.sync_events.find()]
    return {name: value for name, value in found.items() if name not in {"_id", "received_at"}}


async def differences(world: World) -> int:
    """What `pisync rebuild --check` finds."""
    events = MongoEventStore.connect(world.mongodb.database_url("pisync"))
    projection = RedisProjection.connect(world.redis.url)
    try:
        check = Check(events=events, projection=projection, alerts=MemoryAlertStore())
        return (await check.run(lambda done, of: None)).differing
    finally:
        await events.close()
        await projection.close()


async def test_a_resend_adds_members_and_changes_none(world: World) -> None:
    bare, typed, timed = members(), members(device_type="PiBox"), members(sync_duration_ms=5400)
    async with asking(world) as sender:
        assert await sender.send(bare) == receipt(stored=1)
        assert await sender.send(typed, timed, bare) == receipt(duplicates=3)
        assert await sender.send(typed | timed, typed, timed) == receipt(duplicates=3)
        assert (await stored(world))["device_type"] == "PiBox"
        assert (await stored(world))["sync_duration_ms"] == 5400
        [rejected] = (await sender.send(members(device_type="PiBook", errors=[])))["rejected"]
        assert rejected["reason"] == "conflict"
        assert "errors" not in await stored(world)
    await world.complete()
    assert await differences(world) == 0


async def test_what_is_added_while_redis_is_away_is_in_the_projection_afterwards(world: World) -> None:
    """Without waiting for the slow comparison: what was enriched is replayed as if it came then."""
    await world.complete()
    projection = RedisProjection.connect(world.redis.url)
    async with asking(world) as sender:
        await sender.send(members())
        [received_at] = await world.truth.database.sync_events.distinct("received_at")

        async def passed() -> bool:
            return (await projection.marks())["bridge-0"].watermark_ms > to_ms(received_at)

        await until(passed)
        await projection.close()
        await world.redis.terminate()  # it keeps its data, and a replay begins at the watermark
        assert await sender.send(members(device_type="PiBox")) == receipt(duplicates=1)
    await world.redis.start()
    projection = RedisProjection.connect(world.redis.url)

    async def there() -> bool:
        state = await projection.state(DEVICE)
        return state is not None and state.last_event.device_type == "PiBox"

    try:
        await until(there)
    finally:
        await projection.close()
    await world.complete()
    assert await differences(world) == 0


async def test_errors_are_cut_never_refused_and_a_resend_is_a_duplicate(world: World) -> None:
    errors = [{"code": "E", "message": "ü" * 1100} for _ in range(100)]
    async with asking(world) as sender:
        assert await sender.send(members(errors=errors)) == receipt(stored=1)
        assert await sender.send(members(errors=errors)) == receipt(duplicates=1)
        kept = (await stored(world))["errors"]
        assert len(kept) == limits.ERRORS_KEPT_MAX
        assert kept[0]["message"].endswith("[cut: 2200 bytes]")
        assert kept[-1] == {"code": LEFT_OUT, "message": "51 more errors were left out"}
        await world.truth.database.sync_events.update_one({}, {"$set": {"errors": errors}})
        assert await sender.send(members(errors=errors)) == receipt(duplicates=1)
