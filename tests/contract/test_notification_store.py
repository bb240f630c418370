"""What every store of notifications does."""

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio
from msgspec.structs import replace

from pisync.domain.notifications import Message, MessageKind, MessageState
from pisync.stores.interfaces.notifications import NotificationStore
from pisync.stores.memory.notifications import MemoryNotificationStore
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.notifications import MongoNotificationStore
from tests.support.notifications import after, message, notification, subject


@pytest_asyncio.fixture
async def store(event_store_url: str | None) -> AsyncIterator[NotificationStore]:
    if event_store_url is None:
        yield MemoryNotificationStore()
        return
    connection = MongoConnection(event_store_url)
    made = MongoNotificationStore(connection)
    await made.prepare()
    await made.prepare()
    yield made
    await connection.close()


async def unsent(store: NotificationStore, minute: float, *quiet: str) -> list[str]:
    return [each.message_id for each in await store.unsent(after(minute), 50, quiet)]


async def kept(store: NotificationStore, message_id: str) -> Message:
    found = await store.get(message_id)
    assert found is not None
    return found


async def test_subjects_are_kept_as_they_were_told_last_until_they_end(store: NotificationStore) -> None:
    one, two = subject(1), subject(2, place="$name \x00", incident_kind=None, labels=(), site=None)
    await store.tell([one, two])
    await store.tell([])
    assert await store.subjects() == [one, two]
    changed = replace(one, quiet_by="ack-1", usual=3)
    await store.tell([changed])
    assert await store.subjects() == [changed, two]
    await store.end(["incident:001:0", "incident:404:0"])
    await store.end([])
    assert await store.subjects() == [two]


async def test_a_notification_is_kept_once_and_as_it_was_first(store: NotificationStore) -> None:
    one, two = notification(1), notification(2, minute=1, since=after(-5), url="$url")
    assert await store.add([one]) == 1
    assert await store.add([replace(one, text="another"), two]) == 1
    assert await store.add([]) == 0
    assert await store.waiting("office", after(5), 50) == [one, two]
    assert await store.waiting("office", after(5), 1) == [one]
    assert await store.waiting("office", after(0.5), 50) == [one]
    assert await store.waiting("other", after(5), 50) == []


async def test_what_is_due_is_told_by_recipient(store: NotificationStore) -> None:
    await store.add(
        [
            notification(1, minute=3),
            notification(2, minute=2),
            notification(3, minute=9),
            notification(1, minute=4, recipient_id="other"),
        ]
    )
    assert await store.oldest_due(after(1)) == {}
    assert await store.oldest_due(after(5)) == {"office": after(2), "other": after(4)}
    await store.drop(["office"])
    await store.drop([])
    assert await store.oldest_due(after(10)) == {"other": after(4)}


async def test_a_notification_is_in_one_message(store: NotificationStore) -> None:
    one, two, three = (notification(number) for number in (1, 2, 3))
    await store.add([one, two, three])
    first = message(1, one, two)
    assert await store.gather(first)
    assert not await store.gather(message(2, two, three))
    assert await kept(store, first.message_id) == first
    assert await store.get(f"{2:024x}") is None
    assert await store.waiting("office", after(1), 50) == [three]
    assert await store.gather(message(3, three))
    assert await store.oldest_due(after(1)) == {}
    assert await unsent(store, 1) == [f"{1:024x}", f"{3:024x}"]


async def test_of_many_that_gather_at_once_each_notification_is_in_one_message(
    store: NotificationStore,
) -> None:
    made = [notification(number) for number in range(6)]
    await store.add(made)
    attempts = [message(number, *made[number % 3 :]) for number in range(12)]
    done = await asyncio.gather(*map(store.gather, attempts))
    members = [name for each, is_kept in zip(attempts, done, strict=True) if is_kept for name in each.members]
    assert sum(done) == 1
    assert len(members) == len(set(members))


async def test_who_is_killed_after_a_message_was_made_leaves_nothing_that_waits_twice(
    store: NotificationStore,
) -> None:
    """The message is there and its members seem to wait: whoever finds them puts that right."""
    one = notification(1)
    await store.gather(message(1, one))
    await store.add([one])
    if isinstance(store, MongoNotificationStore):
        assert await store.waiting("office", after(1), 50) == [one]
    assert not await store.gather(message(2, one))
    assert await store.waiting("office", after(1), 50) == []


async def test_of_many_that_send_one_does(store: NotificationStore) -> None:
    made = message(1)
    await store.gather(made)
    claims = await asyncio.gather(*(store.claim(made, after(2)) for _ in range(20)))
    assert sum(claims) == 1
    assert await unsent(store, 1.9) == []
    assert await unsent(store, 2) == [made.message_id]
    claimed = await kept(store, made.message_id)
    assert (claimed.tried, claimed.next_at) == (1, after(2))
    assert await store.claim(claimed, after(4))


async def test_a_message_is_settled_once(store: NotificationStore) -> None:
    made = message(1)
    await store.gather(made)
    await store.settle(made.message_id, MessageState.WAITING, after(7))
    assert await unsent(store, 6) == []
    assert await unsent(store, 7) == [made.message_id]
    await store.settle(made.message_id, MessageState.SENT, after(8))
    await store.settle(made.message_id, MessageState.WAITING, after(9))
    assert (await kept(store, made.message_id)).state is MessageState.SENT
    assert await unsent(store, 100) == []
    assert not await store.claim(await kept(store, made.message_id), after(100))


async def test_of_quiet_recipients_tests_alone_are_sent(store: NotificationStore) -> None:
    plain, test = message(1), message(2, minute=1, kind=MessageKind.TEST)
    other = message(3, notification(1, recipient_id="other"), minute=2)
    for each in (plain, test, other):
        await store.gather(each)
    assert await unsent(store, 5) == [plain.message_id, test.message_id, other.message_id]
    assert await unsent(store, 5, "office") == [test.message_id, other.message_id]
    assert await store.oldest_unsent() == {"office": after(0), "other": after(2)}
    await store.drop(["other"])
    assert (await kept(store, other.message_id)).state is MessageState.DROPPED
    await store.settle(plain.message_id, MessageState.GIVEN_UP, after(1))
    assert await store.oldest_unsent() == {}
