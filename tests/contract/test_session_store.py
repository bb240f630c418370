"""What every store of sessions does."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest_asyncio
from msgspec.structs import replace

from pisync import clock
from pisync.domain.access import PrincipalKind, Role
from pisync.domain.sessions import LoginStart, Session, digest, ends_at
from pisync.stores.interfaces.sessions import SessionStore
from pisync.stores.memory.sessions import MemorySessionStore
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.sessions import MongoSessionStore

NOW = clock.now()


def session(
    secret: str, minutes: int = 0, kind: PrincipalKind = PrincipalKind.USER, **members: str
) -> Session:
    at = NOW + timedelta(minutes=minutes)
    return Session(
        session_id=digest(secret),
        kind=kind,
        name=members.get("name", "ada"),
        key_id=members.get("key_id"),
        created_at=NOW,
        seen_at=at,
        until=ends_at(kind, NOW),
    )


@pytest_asyncio.fixture
async def store(event_store_url: str | None) -> AsyncIterator[SessionStore]:
    if event_store_url is None:
        yield MemorySessionStore()
        return
    connection = MongoConnection(event_store_url)
    opened = MongoSessionStore(connection)
    await opened.prepare()
    await opened.prepare()
    yield opened
    await connection.close()


async def test_what_goes_in_comes_out_the_last_used_first(store: SessionStore) -> None:
    full = replace(session("b", 2), address="10.0.0.1", browser="Firefox", roles=(Role.READ, Role.OPERATE))
    for each in (session("a", 1), full, session("c", 0)):
        await store.add(each)
    assert await store.get(full.session_id) == full
    assert await store.get(digest("none")) is None
    assert await store.latest(2) == [full, session("a", 1)]


async def test_the_last_use_only_grows_and_brings_none_back(store: SessionStore) -> None:
    await store.add(session("a", 5))
    await store.seen({digest("a"): NOW, digest("gone"): NOW})
    assert await store.latest(9) == [session("a", 5)]
    await store.seen({digest("a"): NOW + timedelta(minutes=7)})
    await store.seen({})
    assert await store.latest(9) == [session("a", 7)]


async def test_one_ends_once(store: SessionStore) -> None:
    await store.add(session("a"))
    assert await store.end(digest("a"))
    assert not await store.end(digest("a"))
    assert await store.get(digest("a")) is None


async def test_all_of_one_end_and_no_others(store: SessionStore) -> None:
    key = PrincipalKind.KEY
    for each in (
        session("a"),
        session("b"),
        session("of another", name="ben"),
        session("of a key", kind=key, key_id="k1"),
        session("of another key", kind=key, key_id="k2"),
    ):
        await store.add(each)
    assert await store.end_of(PrincipalKind.USER, "ada", but=digest("a")) == [digest("b")]
    assert await store.end_of(key, "k1") == [digest("of a key")]
    assert await store.end_of(key, "ada") == []
    left = {each.session_id for each in await store.latest(9)}
    assert left == {digest(each) for each in ("a", "of another", "of another key")}


async def test_a_login_is_taken_once(store: SessionStore) -> None:
    start = LoginStart(start_id="s", browser_id="b", nonce="n", verifier="v", back="/devices", at=NOW)
    await store.begin_login(start)
    taken = await asyncio.gather(*(store.take_login("s") for _ in range(3)))
    assert [each for each in taken if each is not None] == [start]
    assert await store.take_login("none") is None
    assert "verifier" not in repr(start)
