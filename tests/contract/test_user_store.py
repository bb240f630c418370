"""What every store of users does."""

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio
from msgspec.structs import replace

from pisync.domain.access import Role
from pisync.domain.users import User
from pisync.stores.interfaces.users import UserStore
from pisync.stores.memory.users import MemoryUserStore
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.users import MongoUserStore
from tests.support.notifications import after

ADA = User(name="ada", role=Role.ADMIN, hashed="$argon2id$x", created_at=after(0))
BEN = User(name="ben@example.org", role=Role.READ, hashed="$argon2id$y", created_at=after(1), disabled=True)


@pytest_asyncio.fixture
async def store(event_store_url: str | None) -> AsyncIterator[UserStore]:
    if event_store_url is None:
        yield MemoryUserStore()
        return
    connection = MongoConnection(event_store_url)
    yield MongoUserStore(connection)
    await connection.close()


async def test_what_goes_in_comes_out_by_name(store: UserStore) -> None:
    assert await store.all() == []
    assert await store.write(BEN, 0)
    assert await store.write(ADA, 0)
    assert await store.all() == [replace(ADA, version=1), replace(BEN, version=1)]
    assert await store.get("ada") == replace(ADA, version=1)
    assert await store.get("Ada") is None
    assert "argon2" not in repr(await store.all())


async def test_a_change_is_written_where_nobody_changed_it_meanwhile(store: UserStore) -> None:
    assert await store.write(ADA, 0)
    assert not await store.write(replace(ADA, role=Role.READ), 0)
    assert not await store.write(replace(BEN, role=Role.READ), 3)
    assert sorted(
        await asyncio.gather(*(store.write(replace(ADA, role=Role.READ), 1) for _ in range(2)))
    ) == [
        False,
        True,
    ]
    assert await store.get("ada") == replace(ADA, role=Role.READ, version=2)
    assert await store.get("ben@example.org") is None


async def test_when_somebody_signed_in_is_no_change(store: UserStore) -> None:
    assert await store.write(ADA, 0)
    await store.logged_in("ada", after(5))
    await store.logged_in("nobody", after(5))
    assert await store.write(replace(ADA, disabled=True), 1)
    assert await store.get("ada") == replace(ADA, disabled=True, version=2, last_login=after(5))
    assert len(await store.all()) == 1
