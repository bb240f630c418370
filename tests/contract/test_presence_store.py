"""What every store of presence does: join what is said, in any order, as the domain does."""

from collections.abc import AsyncIterator
from datetime import timedelta

import msgspec
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pisync.domain.presence import Presence, join
from pisync.stores.interfaces.presence import PresenceStore
from pisync.stores.memory.presence import MemoryPresenceStore
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.presence import MongoPresenceStore
from tests.support.presence import presences
from tests.support.samples import NOW


@pytest_asyncio.fixture
async def store(event_store_url: str | None) -> AsyncIterator[PresenceStore]:
    if event_store_url is None:
        yield MemoryPresenceStore()
        return
    connection = MongoConnection(event_store_url)
    made = MongoPresenceStore(connection)
    await made.prepare()
    await made.prepare()
    yield made
    await connection.close()


numbers = iter(range(1_000_000))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(presences, min_size=1, max_size=12))
async def test_what_was_said_is_joined_as_the_domain_does(store: PresenceStore, said: list[Presence]) -> None:
    device_id = f"PB-{next(numbers)}"
    said = [msgspec.structs.replace(each, device_id=device_id) for each in said]
    expected = said[0]
    for each in said:
        expected = join(each, expected)
    await store.join(said[:5])
    for each in reversed(said[3:]):
        await store.join([each])
    assert await store.of([device_id, "unknown"]) == {device_id: expected}


async def test_of_many_each_has_its_own(store: PresenceStore) -> None:
    said = [
        Presence(
            device_id=f"PB-{number}",
            began_at=NOW,
            is_offline=bool(number % 2),
            heard_at=NOW + timedelta(minutes=number),
            is_told=True,
        )
        for number in range(10)
    ]
    await store.join(said)
    await store.join([])
    assert await store.of([f"PB-{number}" for number in range(5)]) == {
        each.device_id: each for each in said[:5]
    }
    assert await store.of([]) == {}
