"""The registry of bridges: who has a bridge, and the floor that no life of it goes below."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest_asyncio

from pisync.stores.interfaces.bridges import BridgeRecord, BridgeRegistry, Claim
from pisync.stores.memory.bridges import MemoryBridgeRegistry
from pisync.stores.mongodb.bridges import MongoBridgeRegistry
from pisync.stores.mongodb.connection import MongoConnection
from tests.support.samples import NOW

SECOND = timedelta(seconds=1)


@pytest_asyncio.fixture
async def registry(event_store_url: str | None) -> AsyncIterator[BridgeRegistry]:
    if event_store_url is None:
        yield MemoryBridgeRegistry()
        return
    connection = MongoConnection(event_store_url)
    yield MongoBridgeRegistry(connection)
    await connection.close()


async def test_a_bridge_belongs_to_who_claimed_it_last(registry: BridgeRegistry) -> None:
    assert await registry.holder("bridge-0") is None
    first = await registry.claim("bridge-0", "a", NOW)
    assert first == Claim(known_before=False, floor=NOW, instance="a")
    second = await registry.claim("bridge-0", "b", NOW + SECOND)
    assert second == Claim(known_before=True, floor=NOW + SECOND, instance="b")
    assert await registry.holder("bridge-0") == "b"
    assert await registry.instances() == {"bridge-0": "b"}
    assert await registry.records() == [
        BridgeRecord(bridge_id="bridge-0", instance="b", claimed_at=NOW + SECOND)
    ]


async def test_a_life_begins_at_the_floor_where_the_clock_was_set_back(registry: BridgeRegistry) -> None:
    await registry.claim("bridge-0", "a", NOW)
    assert await registry.raise_floor("bridge-0", "a", NOW + 2 * SECOND, NOW)
    assert await registry.raise_floor("bridge-0", "a", NOW + SECOND, NOW)
    assert (await registry.claim("bridge-0", "b", NOW - SECOND)).floor == NOW + 2 * SECOND
    assert (await registry.claim("bridge-0", "c", NOW + 3 * SECOND)).floor == NOW + 3 * SECOND
    assert (await registry.claim("bridge-1", "a", NOW)).floor == NOW


async def test_only_who_has_the_bridge_raises_its_floor(registry: BridgeRegistry) -> None:
    """One that still runs elsewhere must not promise what the other, which does not hear of it, breaks."""
    assert not await registry.raise_floor("bridge-0", "a", NOW, NOW)
    await registry.claim("bridge-0", "a", NOW)
    await registry.claim("bridge-0", "b", NOW)
    assert not await registry.raise_floor("bridge-0", "a", NOW + SECOND, NOW)
    assert (await registry.claim("bridge-0", "c", NOW)).floor == NOW


async def test_the_floor_of_a_forgotten_bridge_is_kept(registry: BridgeRegistry) -> None:
    await registry.claim("bridge-0", "a", NOW)
    await registry.raise_floor("bridge-0", "a", NOW + SECOND, NOW)
    await registry.forget("bridge-0")
    assert await registry.bridges() == []
    assert await registry.records() == []
    again = await registry.claim("bridge-0", "b", NOW)
    assert again == Claim(known_before=False, floor=NOW + SECOND, instance="b")


async def test_a_bridge_says_before_when_it_stores_nothing_more(registry: BridgeRegistry) -> None:
    assert await registry.stored_until() == {}
    await registry.claim("bridge-0", "a", NOW)
    assert await registry.stored_until() == {"bridge-0": NOW}
    await registry.raise_floor("bridge-0", "a", NOW + 9 * SECOND, NOW + 5 * SECOND)
    await registry.raise_floor("bridge-0", "a", NOW + 9 * SECOND, NOW + 4 * SECOND)
    await registry.raise_floor("bridge-0", "other", NOW + 9 * SECOND, NOW + 8 * SECOND)
    assert await registry.stored_until() == {"bridge-0": NOW + 5 * SECOND}
    # Another life: what the one before had in flight was not stored then, and cannot be told from here.
    await registry.claim("bridge-0", "b", NOW + 20 * SECOND)
    assert await registry.stored_until() == {"bridge-0": NOW + 5 * SECOND}


async def test_nobody_waits_for_a_bridge_that_has_stopped_or_left(registry: BridgeRegistry) -> None:
    await registry.claim("bridge-0", "a", NOW)
    await registry.claim("bridge-1", "a", NOW)
    await registry.stop("bridge-0", "not its instance")
    assert (await registry.stored_until()).keys() == {"bridge-0", "bridge-1"}
    await registry.stop("bridge-0", "a")
    await registry.raise_floor("bridge-0", "a", NOW + SECOND, NOW + SECOND)
    assert (await registry.stored_until()).keys() == {"bridge-1"}
    await registry.forget("bridge-1")
    assert await registry.stored_until() == {}
    await registry.claim("bridge-0", "b", NOW + SECOND)
    assert await registry.stored_until() == {"bridge-0": NOW + SECOND}
