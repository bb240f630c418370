"""Real servers for the tests.

- `mongod_server` and `redis_server` run once for the whole test run, from the first test that asks.
- `mongodb_url` is a database of that MongoDB which no other test has; `redis_url` is that Redis, emptied.
- `mosquitto_server` and `mqtt_url` are a broker of the test's own, because sessions, queues and retained
  messages of another test's clients would reach into it (it is up within a few hundredths of a second).

A test that stops, kills or pauses a server starts its own:

    async def test_it(tmp_path: Path) -> None:
        async with running(RedisServer(tmp_path / "redis")) as redis:
            await redis.kill()
            await redis.start()
"""

import asyncio
import gc
import logging
import shutil
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiomqtt
import hypothesis
import pytest
import pytest_asyncio
import structlog
from _pytest.tmpdir import tmppath_result_key

from local_stack import ports
from local_stack.process import running
from local_stack.servers import MongodbServer, MosquittoServer, RedisServer
from pisync import limits
from tests.support.databases import LastingMongodbServer, fresh
from tests.support.waiting import ANSWER_S, TIMEOUT_S

# A logger that remembers how the first test of a process had it write would write to that test's files.
_configure_logs = structlog.configure
structlog.configure = lambda *args, **options: _configure_logs(
    *args, **options | {"cache_logger_on_first_use": False}
)

# How long a broker owes an answer, of which aiomqtt gives up after 10 s, says no more.
_of_clients = aiomqtt.Client.__init__.__kwdefaults__
assert _of_clients is not None
_of_clients["timeout"] = TIMEOUT_S

# How long an example takes says how busy the machine is, and nothing about what is tested.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


def pytest_configure(config: pytest.Config) -> None:
    """Of several workers each has ports of its own: what one has chosen, its server may not listen on yet."""
    if (worker := getattr(config, "workerinput", None)) is not None:
        ports.FREE = ports.FREE[int(worker["workerid"].removeprefix("gw")) :: worker["workercount"]]


def pytest_collection_finish() -> None:
    """What all these modules made stays to the end: the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the directory of a test whose fixtures failed; pytest takes one that never ran as passed."""
    report = yield
    if report.when == "setup" and report.failed:
        item.stash[tmppath_result_key]["call"] = False
    return report


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that stands still for some seconds, as on a busy machine, is waited for."""
    monkeypatch.setattr(limits, "MONGODB_CONNECT_TIMEOUT_MS", int(ANSWER_S * 1000))
    monkeypatch.setattr(limits, "MONGODB_CLOSE_TIMEOUT_S", ANSWER_S)
    monkeypatch.setattr(limits, "REDIS_SOCKET_TIMEOUT_S", ANSWER_S)


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """A command that a test runs sets how its process logs; the next test's is as ever."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@contextmanager
def shared_directory(tmp_path_factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """A directory of a server that all tests share. Its data goes at the end, its log stays.

    pytest removes the directories of tests that passed, and these only where every test did: the data of
    hundreds of tests would stay for the one that failed.
    """
    directory = tmp_path_factory.mktemp(name)
    try:
        yield directory
    finally:
        shutil.rmtree(directory / "data", ignore_errors=True)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def mongod_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[MongodbServer]:
    """A real mongod, shared by all tests."""
    with shared_directory(tmp_path_factory, "mongod") as directory:
        server = LastingMongodbServer(directory / "data", log=directory / "mongod.log")
        async with running(server):
            yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def redis_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisServer]:
    """A real redis-server, shared by all tests."""
    with shared_directory(tmp_path_factory, "redis") as directory:
        server = RedisServer(directory / "data", log=directory / "redis-server.log")
        async with running(server):
            yield server


@pytest_asyncio.fixture
async def mosquitto_server(tmp_path: Path) -> AsyncIterator[MosquittoServer]:
    """A real broker of the test's own."""
    async with running(MosquittoServer(tmp_path / "mosquitto")) as server:
        yield server


@pytest.fixture
def mongodb_url(mongod_server: MongodbServer) -> str:
    """An empty database of the test's own."""
    return fresh(mongod_server)


@pytest_asyncio.fixture
async def redis_url(redis_server: RedisServer) -> str:
    """The shared Redis, emptied."""
    reader, writer = await asyncio.open_connection(ports.HOST, redis_server.port)
    writer.write(b"FLUSHALL\r\n")
    assert await reader.readline() == b"+OK\r\n"
    writer.close()
    await writer.wait_closed()
    return redis_server.url


@pytest.fixture
def mqtt_url(mosquitto_server: MosquittoServer) -> str:
    """The broker of the test's own."""
    return mosquitto_server.url
