"""Every contract test runs over the stores in memory and over the real ones."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from pisync.stores.interfaces.events import EventStore
from pisync.stores.interfaces.projection import Projection
from pisync.stores.memory.events import MemoryEventStore
from pisync.stores.memory.projection import MemoryProjection
from pisync.stores.mongodb.events import MongoEventStore
from pisync.stores.redis.projection import RedisProjection
from tests.support.samples import attach_anew


@pytest.fixture(params=["memory", "mongodb"])
def event_store_url(request: pytest.FixtureRequest) -> str | None:
    """Where the event store is; None: in memory."""
    return None if request.param == "memory" else request.getfixturevalue("mongodb_url")


@pytest.fixture(params=["memory", "redis"])
def projection_url(request: pytest.FixtureRequest) -> str | None:
    """Where the projection is; None: in memory."""
    return None if request.param == "memory" else request.getfixturevalue("redis_url")


@pytest_asyncio.fixture
async def event_store(event_store_url: str | None) -> AsyncIterator[EventStore]:
    """An empty event store."""
    store: EventStore = MongoEventStore.connect(event_store_url) if event_store_url else MemoryEventStore()
    await store.prepare()
    yield store
    await store.close()


@pytest_asyncio.fixture
async def projection_store(projection_url: str | None) -> AsyncIterator[Projection]:
    """An empty projection, complete, to which `bridge-0` is attached."""
    store: Projection = RedisProjection.connect(projection_url) if projection_url else MemoryProjection()
    await attach_anew(store)
    yield store
    await store.close()
