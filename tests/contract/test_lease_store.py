"""Leases: one holder at a time for each duty, by the clock of the store, and a term that only grows."""

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio

from pisync.stores.interfaces.leases import LeaseStore
from pisync.stores.memory.leases import MemoryLeaseStore
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.leases import MongoLeaseStore
from tests.support.waiting import until

LONG_S = 600.0


@pytest_asyncio.fixture
async def leases(event_store_url: str | None) -> AsyncIterator[LeaseStore]:
    if event_store_url is None:
        yield MemoryLeaseStore()
        return
    connection = MongoConnection(event_store_url)
    yield MongoLeaseStore(connection)
    await connection.close()


async def test_one_holder_at_a_time_has_a_duty(leases: LeaseStore) -> None:
    assert await leases.take("rollups", "a", LONG_S) == 1
    assert await leases.take("rollups", "b", LONG_S) is None
    assert await leases.take("rollups", "a", LONG_S) == 1
    assert await leases.take("other", "b", LONG_S) == 1


async def test_a_lease_that_ended_or_was_released_is_free_and_begins_a_new_term(leases: LeaseStore) -> None:
    assert await leases.take("rollups", "a", LONG_S) == 1
    await leases.release("rollups", "b")
    assert await leases.take("rollups", "b", LONG_S) is None
    await leases.release("rollups", "a")
    assert await leases.take("rollups", "b", 0.001) == 2

    async def free() -> bool:
        return await leases.take("rollups", "a", LONG_S) == 3

    await until(free)
    assert await leases.take("rollups", "b", LONG_S) is None


async def test_a_holder_whose_lease_ended_begins_a_new_term(leases: LeaseStore) -> None:
    """What it wrote in the term before may have been followed by another's."""
    assert await leases.take("rollups", "a", 0) == 1
    assert await leases.take("rollups", "a", LONG_S) == 2


async def test_a_holder_may_have_any_name(leases: LeaseStore) -> None:
    assert await leases.take("rollups", "$until", LONG_S) == 1
    assert await leases.take("rollups", "$until", LONG_S) == 1
    assert await leases.take("rollups", "b", LONG_S) is None


async def test_of_many_that_ask_at_once_one_has_it(leases: LeaseStore) -> None:
    terms = await asyncio.gather(*(leases.take("rollups", f"{number}", LONG_S) for number in range(20)))
    assert sorted(filter(None, terms)) == [1]


async def test_who_has_which_duty_and_whether_that_is_over_is_told(leases: LeaseStore) -> None:
    assert await leases.leases() == []
    await leases.take("rollups", "a", LONG_S)
    await leases.take("other", "b", LONG_S)
    await leases.release("other", "b")
    other, rollups = await leases.leases()
    assert (other.duty, other.holder, other.is_held) == ("other", "b", False)
    assert (rollups.duty, rollups.holder, rollups.is_held) == ("rollups", "a", True)
    assert rollups.until > other.until
