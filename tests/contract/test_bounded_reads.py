"""Events with large `errors`: a page is bounded by bytes, and who needs no errors reads none."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

import bson
import msgspec
import pytest
from pymongo.monitoring import CommandSucceededEvent

from pisync import limits
from pisync.clock import read_rfc3339
from pisync.domain.events import ErrorDetail, SyncEvent
from pisync.stores.interfaces.events import EventStore, HistoryPage, HistoryQuery, InsertOutcome
from pisync.stores.mongodb.events import MongoEventStore, documents
from tests.support import counting
from tests.support.counting import Commands
from tests.support.samples import NOW, START, event

KIB: Final = 1024
OLD_EVENTS: Final = 300
OLD_ERRORS: Final = [{"code": "E", "message": "x" * 256 * KIB}]
# Beside errors, an event and the answer around it have less than this.
BESIDE: Final = 1 * KIB


async def pages(store: EventStore, limit: int, device_id: str = "PB-1") -> list[HistoryPage]:
    """All pages of a history, each from where the one before ended."""
    found: list[HistoryPage] = []
    before = None
    while True:
        page = await store.page(HistoryQuery(device_id=device_id, limit=limit, before=before))
        found.append(page)
        if not page.is_short and len(page.rows) < limit:
            return found
        before = read_rfc3339(page.rows[-1]["timestamp"])[0]


def rows_of(found: Sequence[HistoryPage]) -> list[dict[str, Any]]:
    return [row for page in found for row in page.rows]


def with_errors(minute: int, size: int) -> SyncEvent:
    details = [ErrorDetail(code=f"E{minute}", message="x" * size)] if size else None
    return msgspec.structs.replace(event("PB-1", minute, errors=1), errors=details)


async def test_pages_that_end_for_their_bytes_have_every_row_once(
    event_store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PAGE_BYTES_MAX", 4 * KIB)
    monkeypatch.setattr(limits, "EVENT_BYTES_AT_ONCE", 700)
    sizes = [0, 10, 1500, 600, 1999, 0, 1900, 1900, 1900, 300] * 4
    events = [with_errors(minute, size) for minute, size in enumerate(sizes)]
    await event_store.insert(events, NOW)
    for limit in (3, 100):
        found = await pages(event_store, limit)
        assert len(found) > len(sizes) // limit + 1
        rows = rows_of(found)
        assert [row["errors"] for row in rows] == [msgspec.to_builtins(one.errors) for one in events[::-1]]
        assert all(len(msgspec.json.encode(page.rows)) <= 4 * KIB + BESIDE for page in found)


async def test_a_row_that_is_larger_than_a_page_is_a_page(
    event_store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PAGE_BYTES_MAX", 1000)
    await event_store.insert([with_errors(minute, 1800) for minute in range(3)], NOW)
    found = await pages(event_store, 100)
    assert [(len(page.rows), page.is_short) for page in found] == [(1, True), (1, True), (1, False)]


async def test_cut_errors_are_the_same_when_they_come_again(event_store: EventStore) -> None:
    details = [ErrorDetail(code="E", message="ü" * 5000) for _ in range(200)]
    long = msgspec.structs.replace(event("PB-1"), errors=details)
    assert await event_store.insert([long, long], NOW) == [InsertOutcome.STORED, InsertOutcome.DUPLICATE]
    assert await event_store.insert([event("PB-1"), long], NOW) == [InsertOutcome.DUPLICATE] * 2
    [row] = (await event_store.page(HistoryQuery(device_id="PB-1", limit=2))).rows
    assert len(row["errors"]) == limits.ERRORS_KEPT_MAX
    other = msgspec.structs.replace(long, errors=details[:-1])
    assert await event_store.insert([other], NOW) == [InsertOutcome.CONFLICT]


class Replies(Commands):
    """The bytes of every reply of MongoDB."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def succeeded(self, event: CommandSucceededEvent) -> None:
        self.sizes.append(len(bson.encode(event.reply)))


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> Replies:
    """The replies to the stores that are made in the test."""
    monkeypatch.setattr(counting, "Commands", Replies)
    found = counting.commands_of_stores(monkeypatch)
    assert isinstance(found, Replies)
    return found


@pytest.fixture
async def old_store(replies: Replies, mongodb_url: str) -> Any:
    """A store with events from before errors were cut: 75 MiB of one device."""
    store = MongoEventStore.connect(mongodb_url)
    await store.prepare()
    many = [event("PB-1", minute, errors=1) for minute in range(OLD_EVENTS)]
    for start in range(0, OLD_EVENTS, 30):
        some = documents(many[start : start + 30], NOW)
        await store._events.insert_many([document | {"errors": OLD_ERRORS} for document in some])
    replies.sizes.clear()
    yield store
    await store.close()


async def test_old_events_come_in_short_pages(
    old_store: MongoEventStore, replies: Replies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pisync.clock.now", lambda: START + timedelta(days=1))
    found = await pages(old_store, limits.PAGE_MAX + 1)
    rows = rows_of(found)
    assert [row["errors"] for row in rows] == [OLD_ERRORS] * OLD_EVENTS
    assert len({row["timestamp"] for row in rows}) == OLD_EVENTS
    assert max(replies.sizes) <= limits.PAGE_BYTES_MAX + OLD_EVENTS * BESIDE
    # The history is shorter than the page: whether there are earlier days is asked, too.
    assert len(replies.sizes) == 3 * len(found)


async def test_who_needs_no_errors_reads_none(old_store: MongoEventStore, replies: Replies) -> None:
    assert await old_store.knows("PB-1")
    assert await old_store.failing(["PB-1"], 3) == {"PB-1"}
    assert await old_store.count_failures("PB-1", [None]) == [OLD_EVENTS]
    assert len(await old_store.history(HistoryQuery(device_id="PB-1", limit=1000))) == OLD_EVENTS
    for since in (None, NOW):
        assert sum([len(batch) async for batch in old_store.replay(since)]) == OLD_EVENTS
    bare = [event("PB-1", minute, errors=1) for minute in range(OLD_EVENTS)]
    assert set(await old_store.insert(bare, NOW)) == {InsertOutcome.DUPLICATE}
    assert max(replies.sizes) <= OLD_EVENTS * BESIDE


async def test_old_events_are_compared_some_at_a_time(old_store: MongoEventStore, replies: Replies) -> None:
    old = [
        msgspec.structs.replace(event("PB-1", minute, errors=1), errors=[ErrorDetail(**OLD_ERRORS[0])])
        for minute in range(OLD_EVENTS)
    ]
    assert set(await old_store.insert(old, NOW)) == {InsertOutcome.DUPLICATE}
    other = [msgspec.structs.replace(one, errors=[]) for one in old]
    assert set(await old_store.insert(other, NOW)) == {InsertOutcome.CONFLICT}
    assert max(replies.sizes) <= limits.COMPARED_BYTES_MAX + OLD_EVENTS * BESIDE
