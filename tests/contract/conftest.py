"""Every contract test runs over the stores in memory and over the real ones."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
from pymongo.message import _OpMsg

from bench.redis_topologies import Cluster, Watched, running_cluster, running_watched
from local_stack import ports
from local_stack.process import running
from local_stack.servers import RedisServer
from pisync.stores.interfaces.events import EventStore
from pisync.stores.interfaces.projection import Projection
from pisync.stores.memory.events import MemoryEventStore
from pisync.stores.memory.projection import MemoryProjection
from pisync.stores.mongodb.events import MongoEventStore
from pisync.stores.redis.projection import RedisProjection
from tests.support.buckets import BucketWatch, watched
from tests.support.samples import attach_anew


@pytest.fixture(autouse=True)
def bucket_watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketWatch]:
    """Every command that a store sends leads to the shards of its buckets, or is meant for all."""
    with watched(monkeypatch) as watch:
        yield watch


@pytest.fixture(autouse=True)
def members_of_a_newer_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each document that MongoDB answers with has a member that no program of this version knows.

    So every reader is seen to leave it alone, as it must beside a newer program (`schema.py`).
    """
    unpack = _OpMsg.unpack_response

    def with_more(message: _OpMsg, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
        replies = unpack(message, *arguments, **options)
        for reply in replies:
            cursor = reply.get("cursor")
            found = [reply.get("value")]
            if isinstance(cursor, dict) and "$cmd" not in cursor["ns"]:
                found += [*cursor.get("firstBatch", ()), *cursor.get("nextBatch", ())]
            for document in found:
                if isinstance(document, dict):
                    for part in (document, *parts_of(document)):
                        part["of_a_newer_program"] = {"members": [1]}
        return replies

    monkeypatch.setattr(_OpMsg, "unpack_response", with_more)


def parts_of(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The documents in a document that readers take apart, however deep."""
    for name in ("attempts", "caller", "credentials", "figures", "outcome", "pending", "proof", "status"):
        found = document.get(name)
        yield from (
            part for part in (found if isinstance(found, list) else [found]) if isinstance(part, dict)
        )
    for name in ("entry", "presence"):  # beside each other, as one command gives them
        if isinstance(document.get(name), dict):
            yield from parts_of(document[name])
    if isinstance(document.get("replay_outcome"), dict):
        yield document["replay_outcome"]
    corrections = document.get("corrections")
    for correction in corrections.values() if isinstance(corrections, dict) else ():
        yield correction
        yield from parts_of(correction)


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


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """A cluster of three primaries, shared by all tests."""
    async with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def cluster_url(shared_cluster: Cluster) -> str:
    """That cluster, emptied."""
    for node in shared_cluster.primaries:
        await node.ask("FLUSHALL")
    return shared_cluster.url


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_watched(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    """A primary with one replica and one Sentinel, shared by all tests."""
    async with running_watched(tmp_path_factory.mktemp("watched"), sentinels=1) as watched:
        yield watched


@pytest_asyncio.fixture
async def watched_url(shared_watched: Watched) -> str:
    """That primary, emptied, as its Sentinel names it."""
    await (await shared_watched.primary()).ask("FLUSHALL")
    return shared_watched.url


PROJECTION_URLS: Final = {
    "redis": "redis_url",
    "redis under a locale": "collating_redis_url",
    "redis cluster": "cluster_url",
    "redis behind sentinels": "watched_url",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what differs by nothing: where the events are does not matter to several Redis processes."""
    several = {"redis cluster", "redis behind sentinels"}
    left_out = [
        item
        for item in items
        if isinstance(item, pytest.Function)
        and hasattr(item, "callspec")
        and item.callspec.params.get("projection_url") in several
        and item.callspec.params.get("event_store_url") == "mongodb"
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


@pytest.fixture(params=["memory", *PROJECTION_URLS])
def projection_url(request: pytest.FixtureRequest) -> str | None:
    """Where the projection is; None: in memory."""
    if request.param == "memory":
        return None
    found: str = request.getfixturevalue(PROJECTION_URLS[request.param])
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
