"""What every store of the api's keys does."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from pisync import limits
from pisync.domain.access import Role
from pisync.stores.interfaces.keys import Creation, KeyStore
from pisync.stores.memory.keys import MemoryKeyStore
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.keys import MongoKeyStore
from tests.support.keys import key
from tests.support.notifications import after


@pytest_asyncio.fixture
async def store(event_store_url: str | None) -> AsyncIterator[KeyStore]:
    if event_store_url is None:
        yield MemoryKeyStore()
        return
    connection = MongoConnection(event_store_url)
    found = MongoKeyStore(connection)
    await found.prepare()
    await found.prepare()
    yield found
    await connection.close()


ALL = key(
    "a0000001",
    Role.READ,
    Role.INGEST,
    name="Ünïversal $key.1",
    expires_at=after(9),
    revoked_at=after(3),
    revoked_by="omar",
    last_used_at=after(2),
)


async def test_what_goes_in_comes_out_those_that_are_not_revoked_first_then_the_newest(
    store: KeyStore,
) -> None:
    assert await store.all() == []
    kept = [ALL, key("b0000001", created_at=after(1)), key("c0000001"), key("d0000001", created_at=after(2))]
    for each in kept:
        assert await store.create(each) is Creation.CREATED
    assert await store.all() == [kept[3], kept[1], kept[2], kept[0]]


async def test_a_name_is_of_one_key_that_is_not_revoked(store: KeyStore) -> None:
    one, two = key("a0000001", name="office"), key("b0000001", Role.READ, name="office")
    outcomes = await asyncio.gather(store.create(one), store.create(two))
    assert sorted(outcomes) == [Creation.CREATED, Creation.NAME_TAKEN]
    [kept] = await store.all()
    assert await store.create(replace(kept, name="other")) is Creation.ID_TAKEN
    assert await store.all() == [kept]
    await store.revoke(kept.key_id, after(1), "sara")
    other = two if kept == one else one
    assert await store.create(other) is Creation.CREATED


async def test_a_key_is_revoked_once_and_for_good(store: KeyStore) -> None:
    await store.create(key("a0000001"))
    expected = replace(key("a0000001"), revoked_at=after(1), revoked_by="sara")
    assert await store.revoke("a0000001", after(1), "sara") == expected
    assert await store.revoke("a0000001", after(2), "omar") == expected
    assert await store.all() == [expected]
    assert await store.revoke("z0000001", after(1), "sara") is None


async def test_of_two_moments_of_use_the_later_holds(store: KeyStore) -> None:
    await store.create(key("a0000001"))
    await store.create(key("b0000001"))
    await store.used({})
    await store.used({"a0000001": after(5), "gone0001": after(5)})
    await store.used({"a0000001": after(3), "b0000001": after(4)})
    assert {each.key_id: each.last_used_at for each in await store.all()} == {
        "a0000001": after(5),
        "b0000001": after(4),
    }


async def test_beyond_a_bound_the_oldest_revoked_ones_are_not_read(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "KEYS_READ_MAX", 3)
    for number in range(4):
        await store.create(key(f"a000000{number}", created_at=after(number)))
    for number in (3, 1, 2):
        await store.revoke(f"a000000{number}", after(5), "sara")
    assert [each.key_id for each in await store.all()] == ["a0000000", "a0000003", "a0000002"]
