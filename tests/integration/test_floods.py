"""A device that floods, and devices that nobody knows, through real servers that are taken away meanwhile."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pisync import clock
from pisync.domain import directory, topics
from pisync.domain.directory import Kind
from pisync.domain.events import Reason, SyncEvent
from pisync.stores.interfaces.directory import EntryWrite
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.directory import MongoDirectoryStore
from tests.support.samples import event
from tests.support.waiting import until
from tests.support.world import World, as_sent, device, publish, running_world

FLOODER, NEIGHBOUR = "PB-flood", "PB-neighbour"
ARRAY = 250


async def put(world: World, *device_ids: str) -> None:
    """Put devices into the directory."""
    connection = MongoConnection(world.mongodb.database_url("pisync"))
    store = MongoDirectoryStore(connection)
    try:
        await store.prepare()
        writes = [
            EntryWrite(entry=directory.new(Kind.DEVICES, device_id), version=0) for device_id in device_ids
        ]
        assert await store.write(Kind.DEVICES, writes, "test") == set(device_ids)
    finally:
        await connection.close()


async def letters(world: World) -> list[dict[str, Any]]:
    return [letter async for letter in world.truth.database.dead_letters.find()]


async def publish_arrays(world: World, events: Collection[SyncEvent], size: int) -> None:
    """Publish one device's events, so many a message, and ask for no receipt."""
    ordered = list(events)
    async with device(world) as client:
        for start in range(0, len(ordered), size):
            some = [as_sent(one) for one in ordered[start : start + size]]
            await client.publish(topics.sync(ordered[0].device_id), json.dumps(some), qos=1)


async def test_of_a_flood_nothing_is_lost_within_the_quarantine_though_the_bridge_is_killed(
    tmp_path: Path,
) -> None:
    flood = [event(FLOODER, minute) for minute in range(10 * ARRAY)]
    few = [event(NEIGHBOUR, minute) for minute in range(5)]
    async with running_world(tmp_path, device_events_burst=500) as world:
        await publish_arrays(world, flood, ARRAY)
        await world.bridge.kill()
        await publish_arrays(world, flood, ARRAY)  # what is twice there is there once
        await publish(world, few)
        await world.bridge.start()

        async def all_there() -> bool:
            kept = [each for each in await letters(world) if each["device_id"] == FLOODER]
            bodies = [json.loads(bytes(each["head"]) + bytes(each.get("rest", b""))) for each in kept]
            waiting = {sent["timestamp"] for body in bodies for sent in body}
            found = world.truth.database.sync_events.find({"_id.device_id": FLOODER}, {"_id": 1})
            stored = {clock.rfc3339(each["_id"]["timestamp"]) async for each in found}
            return bool(waiting) and waiting | stored == {clock.rfc3339(each.timestamp) for each in flood}

        async def neighbour_is_stored() -> bool:
            of_neighbour = {"_id.device_id": NEIGHBOUR}
            stored: int = await world.truth.database.sync_events.count_documents(of_neighbour)
            return stored == len(few)

        await until(all_there)
        await until(neighbour_is_stored)  # the flood may be there whole before what came behind it
        assert {reason for each in await letters(world) for reason in each["reasons"]} == {
            Reason.RATE_EXCEEDED
        }


async def test_a_device_is_unknown_by_the_directory_and_by_nothing_else(tmp_path: Path) -> None:
    async with running_world(tmp_path, unknown_devices="quarantined") as world:
        await publish(world, [event(NEIGHBOUR, 0)])
        await until_letters(world, 1)
        await put(world, NEIGHBOUR)
        minutes = iter(range(1, 1000))

        async def is_taken() -> bool:
            await publish(world, [event(NEIGHBOUR, next(minutes))])
            return await world.truth.events() > 0

        await until(is_taken)
        stored, kept = await world.truth.events(), len(await letters(world))
        await world.redis.kill()
        await world.mongodb.kill()
        late = [event(NEIGHBOUR, 2000 + minute) for minute in range(20)]
        await publish(world, late)
        await world.said("store unavailable")
        await world.mongodb.start()
        await world.truth.has(stored + len(late))
        assert len(await letters(world)) == kept


async def until_letters(world: World, count: int) -> None:
    async def there() -> bool:
        return len(await letters(world)) >= count

    await until(there)
