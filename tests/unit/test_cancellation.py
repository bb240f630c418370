"""Calls that wait for MongoDB end when they are cancelled, however often and whenever that is."""

import asyncio
from typing import Any

import pytest
from pymongo.asynchronous import pool, topology
from pymongo.lock import _async_create_condition, _async_create_lock

from pisync.stores.mongodb.connection import MongoConnection

CALLS = 5


@pytest.fixture(params=[pool, topology], ids=["pool", "topology"])
async def module(request: pytest.FixtureRequest) -> Any:
    """A module of the driver that waits, after a connection of ours was made."""
    await MongoConnection("mongodb://127.0.0.1:1/nobody").close()
    return request.param


@pytest.mark.parametrize("turns", range(8))
async def test_a_second_cancellation_leaves_no_lock_behind(module: Any, turns: int) -> None:
    """It comes so many turns of the event loop after the first."""
    lock = _async_create_lock()
    condition: Any = _async_create_condition(lock)

    async def wait() -> None:
        async with lock:
            await module._async_cond_wait(condition, 60)

    calls = [asyncio.create_task(wait()) for _ in range(CALLS)]
    while len(condition._waiters) < CALLS:
        await asyncio.sleep(0)
    for turn in (0, turns):
        for _ in range(turn):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(end) for end in ended] == [asyncio.CancelledError] * CALLS
    for _ in range(100):  # what may have been left behind has its turn
        await asyncio.sleep(0)
    assert not lock.locked()


async def test_waiting_ends_with_the_time_and_with_a_notification(module: Any) -> None:
    lock = _async_create_lock()
    condition: Any = _async_create_condition(lock)

    async def wait(timeout_s: float) -> bool:
        async with lock:
            waited: bool = await module._async_cond_wait(condition, timeout_s)
            return waited

    assert await wait(0.001) is False
    waiting = asyncio.create_task(wait(60))
    while not condition._waiters:
        await asyncio.sleep(0)
    async with lock:
        condition.notify_all()
    assert await waiting is True


def test_the_driver_still_waits_by_what_is_replaced() -> None:
    for waits in (pool, topology):
        classes = [found for found in vars(waits).values() if isinstance(found, type)]
        methods = [method for found in classes for method in vars(found).values()]
        names = {
            name for method in methods if hasattr(method, "__code__") for name in method.__code__.co_names
        }
        assert "_async_cond_wait" in names, "the driver waits in another way: is the mend still needed?"
