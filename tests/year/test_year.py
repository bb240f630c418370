"""Three months of a small fleet in real servers: every answer is what its events come to, whatever happens.

`python -m tests.year` (or `make year`) judges a year of 2,000 devices. The checks are those of a sceptical
operator; `tests/integration/test_sceptic.py` has the others.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from random import Random
from typing import Any

import pytest
import pytest_asyncio

from device_sim.scenarios.year import Year
from local_stack import ports
from local_stack.process import running
from local_stack.servers import MongodbServer, MosquittoServer, RedisServer
from pisync import clock
from pisync.clock import from_ms
from tests.support.databases import fresh
from tests.support.programs import truth
from tests.support.waiting import until
from tests.year.auditor import Scope
from tests.year.run import Stack, Urls, load, started

SEED = 6
SCOPE = Scope(devices=1000, histories=8, site_histories=2)
SAMPLE = Scope(devices=10, histories=3, site_histories=1)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(
    tmp_path_factory: pytest.TempPathFactory, mongod_server: MongodbServer, redis_server: RedisServer
) -> AsyncIterator[Stack]:
    """Four bridges, a worker and an api over what was loaded."""
    directory = tmp_path_factory.mktemp("year")
    await flush(redis_server)
    async with running(MosquittoServer(directory / "mosquitto")) as mosquitto:
        urls = Urls(mqtt=mosquitto.url, mongodb=fresh(mongod_server, "year"), redis=redis_server.url)
        year = Year(seed=SEED, until=clock.now() - timedelta(seconds=1), devices=60, days=90)
        loaded = await load(year, urls, lambda *_: None)
        async with started(
            loaded,
            urls,
            directory,
            bridges=4,
            scope=SCOPE,
            rows_on_page=17,
            say=print,
            progress=lambda *_: None,
        ) as running_stack:
            yield running_stack


async def flush(redis: RedisServer) -> None:
    assert await ports.first_line(redis.port, b"FLUSHALL\r\n", timeout_s=10) == b"+OK\r\n"


async def test_every_answer_is_what_the_events_come_to(stack: Stack) -> None:
    assert len(stack.loaded.recorded) > 3000
    assert stack.loaded.deliveries > len(stack.loaded.recorded)
    assert await stack.audit() == []


async def test_check_6_redis_is_flushed_in_the_middle_of_a_drain_and_workers_are_killed(
    stack: Stack, redis_server: RedisServer
) -> None:
    """Meanwhile answers say that they are not complete; afterwards every figure equals the auditor's."""
    spools = stack.loaded.spools[::2]
    assert spools
    async with worker_killed(stack):
        sending = asyncio.create_task(stack.send(spools, times=2, seed=SEED))
        for bridge in stack.bridges:
            bridge.pause()
        await flush(redis_server)
        told: dict[str, Any] = {}

        async def says_so() -> bool:
            told.update((await stack.client.get("/api/devices?limit=1")).json())
            return not told["complete"]

        await until(says_so)
        assert told["stale_why"]
        for bridge in stack.bridges:
            bridge.resume()
        await sending
    assert await stack.audit(SAMPLE) == []


@asynccontextmanager
async def worker_killed(stack: Stack) -> AsyncIterator[None]:
    """Again and again at random, and followed by another one each time, as if its lease had ended."""
    random = Random(SEED)

    async def kill() -> None:
        while True:
            await asyncio.sleep(random.uniform(0.1, 1))
            await follow()

    async def follow() -> None:
        await stack.worker.kill()
        async with truth(stack.urls.mongodb) as seen:
            await seen.database.leases.update_many({}, {"$set": {"until": from_ms(0)}})
        await stack.worker.start()

    killing = asyncio.create_task(kill())
    try:
        yield
    finally:
        killing.cancel()
        with suppress(asyncio.CancelledError):
            await killing
        await follow()


async def test_check_7_everything_comes_three_times_in_any_order_through_four_bridges(stack: Stack) -> None:
    """Also what was stored long ago; and after a rebuild it is the same again."""
    await stack.send(stack.loaded.spools[1::2], times=3, seed=SEED)
    await stack.send_again(stack.loaded.known, times=3, seed=SEED)
    assert await stack.audit(SAMPLE) == []
    assert await stack.rebuild() == 0
    assert await stack.audit(SAMPLE) == []
