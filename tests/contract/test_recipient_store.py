"""What every store of recipients does."""

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio

from pisync import limits
from pisync.domain.recipients import Attempt, Channel, Mode, Topic
from pisync.stores.interfaces.recipients import RecipientStore
from pisync.stores.memory.recipients import MemoryRecipientStore
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.recipients import MongoRecipientStore
from tests.support.notifications import after, recipient

ALL = recipient(
    signing_key="k" * 16,
    sites=("S-1",),
    labels=("$label",),
    topics=(Topic.INCIDENT_OPENED,),
    mode=Mode.DIGEST,
    morning="06:30",
    time_zone="Africa/Kampala",
    quiet_hours="22:00-06:00",
    still_open_hours=24,
    disabled=True,
)


@pytest_asyncio.fixture
async def store(event_store_url: str | None) -> AsyncIterator[RecipientStore]:
    if event_store_url is None:
        yield MemoryRecipientStore()
        return
    connection = MongoConnection(event_store_url)
    yield MongoRecipientStore(connection)
    await connection.close()


async def test_what_goes_in_comes_out(store: RecipientStore) -> None:
    plain = recipient("a", kind=Channel.EMAIL, address="a@example.org")
    assert await store.write(ALL, 0, after(0))
    assert await store.write(plain, 0, after(1))
    found = await store.all()
    assert [each.recipient for each in found] == [plain, ALL]
    assert [(each.version, each.changed_at, each.attempts) for each in found] == [
        (1, after(1), ()),
        (1, after(0), ()),
    ]
    assert await store.get("office") == found[1]
    assert await store.get("none") is None


async def test_a_change_is_written_where_nobody_changed_it_meanwhile(store: RecipientStore) -> None:
    assert await store.write(ALL, 0, after(0))
    assert not await store.write(recipient(), 0, after(1))
    assert not await store.write(recipient("none"), 3, after(1))
    assert await store.write(recipient(), 1, after(2))
    assert not await store.delete("office", 1)
    assert await store.delete("office", 2)
    assert not await store.delete("office", 2)
    assert await store.all() == []
    done = await asyncio.gather(*(store.write(recipient(), 0, after(3)) for _ in range(10)))
    assert sum(done) == 1


async def test_attempts_are_bounded_and_survive_a_change(store: RecipientStore) -> None:
    await store.attempted("office", Attempt(at=after(0), message_id="0"))
    assert await store.get("office") is None
    await store.write(recipient(), 0, after(0))
    for number in range(limits.RECIPIENT_ATTEMPTS_KEPT + 2):
        await store.attempted(
            "office", Attempt(at=after(number), message_id=f"${number}", why="$why" if number % 5 else None)
        )
    await store.write(ALL, 1, after(50))
    found = await store.get("office")
    assert found is not None
    assert [each.message_id for each in found.attempts] == [f"${number}" for number in range(2, 22)]
    assert found.attempts[0].why == "$why"
    assert (found.failures, found.failing_since) == (1, after(21))
    await store.attempted("office", Attempt(at=after(60), message_id="60", why="gone"))
    found = await store.get("office")
    assert found is not None
    assert (found.failures, found.failing_since) == (2, after(21))
