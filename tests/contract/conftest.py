"""Every contract test runs over the stores in memory and over the real ones."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from local_stack import ports
from local_stack.process import running
from local_stack.servers import RedisServer
from pisync.stores.interfaces.events import EventStore
from pisync.stores.interfaces.projection import Projection
from pisync.stores.memory.events import MemoryEventStore
from pisync.stores.memory.projection import MemoryProjection
from pisync.stores.mongodb.events import MongoEventStore
from pisync.stores.redis.projection import RedisProjection
from tests.support import counting
from tests.support.buckets import BucketWatch
from tests.support.samples import attach_anew


@pytest.fixture(autouse=True)
def bucket_watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketWatch]:
    """Every command that a store sends in the test knows the bucket of each device that it names."""
    watch = BucketWatch()
    counting.listen_to_stores(monkeypatch, watch)
    yield watch
    assert watch.without_bucket == []


@pytest.fixture(params=["memory", "mongodb"])
def event_store_url(request: pytest.FixtureRequest) -> str | None:
    """Where the event store is; None: in memory."""
    return None if request.param == "memory" else request.getfixturevalue("mongodb_url")


LOCALE: Final = "en_US.UTF-8"


class CollatingRedisServer(RedisServer):
    """Redis under a locale that sorts texts as people do: its Lua compares so, its sorted sets do not."""

    def __init__(self, directory: Path, locales: Path) -> None:
        super().__init__(directory)
        self._command = ["/usr/bin/env", f"LC_ALL={LOCALE}", f"LOCPATH={locales}", *self._command]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def collating_redis_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisServer]:
    """Such a Redis, shared by all tests, where the machine can make the locale."""
    localedef = shutil.which("localedef")
    if localedef is None:
        pytest.skip("localedef is not installed")
    locales = tmp_path_factory.mktemp("locales")
    making = await asyncio.create_subprocess_exec(
        localedef, "-i", "en_US", "-f", "UTF-8", str(locales / LOCALE), stderr=asyncio.subprocess.DEVNULL
    )
    if await making.wait() != 0:
        pytest.skip(f"localedef cannot make {LOCALE}")
    async with running(CollatingRedisServer(tmp_path_factory.mktemp("redis"), locales)) as server:
        yield server


@pytest_asyncio.fixture
async def collating_redis_url(collating_redis_server: RedisServer) -> str:
    """That Redis, emptied."""
    reader, writer = await asyncio.open_connection(ports.HOST, collating_redis_server.port)
    writer.write(b"FLUSHALL\r\n")
    assert await reader.readline() == b"+OK\r\n"
    writer.close()
    await writer.wait_closed()
    return collating_redis_server.url


@pytest.fixture(params=["memory", "redis", "redis under a locale"])
def projection_url(request: pytest.FixtureRequest) -> str | None:
    """Where the projection is; None: in memory."""
    if request.param == "memory":
        return None
    found: str = request.getfixturevalue("redis_url" if request.param == "redis" else "collating_redis_url")
    return found


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
