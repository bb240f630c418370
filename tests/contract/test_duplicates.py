"""What a batch that came before costs in commands; and that a look before the insert decides nothing."""

from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import pytest_asyncio
from pymongo import AsyncMongoClient

from local_stack.process import running
from local_stack.servers import MongodbServer
from pisync import limits
from pisync.domain.events import ErrorDetail, SyncEvent
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.events import HistoryQuery, InsertOutcome
from pisync.stores.mongodb import enrichment, inserting
from pisync.stores.mongodb.events import MongoEventStore, documents
from pisync.stores.mongodb.known_share import KnownShare
from tests.support import counting
from tests.support.counting import Commands
from tests.support.samples import NOW, event

STORED, DUPLICATE, ENRICHED, CONFLICT, REFUSED = (
    InsertOutcome.STORED,
    InsertOutcome.DUPLICATE,
    InsertOutcome.ENRICHED,
    InsertOutcome.CONFLICT,
    InsertOutcome.REFUSED,
)
SIZE: Final = 40
LATER: Final = NOW + timedelta(hours=1)
DURABLE: Final = {"w": "majority", "j": True}


def batch(number: int, size: int = SIZE) -> list[SyncEvent]:
    """A batch that has no event of another one."""
    return [event(f"PB-{number}", minute) for minute in range(size)]


def with_(events: Iterable[SyncEvent], **members: Any) -> list[SyncEvent]:
    return [msgspec.structs.replace(one, **members) for one in events]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    """The commands of the stores that are made in the test."""
    return counting.commands_of_stores(monkeypatch)


@pytest_asyncio.fixture
async def store(commands: Commands, mongodb_url: str) -> AsyncIterator[MongoEventStore]:
    """A store that has the batches 0, 1 and 2, and the last two of them twice."""
    store = MongoEventStore.connect(mongodb_url)
    await store.prepare()
    for number in (0, 1, 2):
        await store.insert(batch(number), NOW)
    for number in (1, 2):
        assert set(await store.insert(batch(number), LATER)) == {DUPLICATE}
    commands.sent.clear()
    yield store
    await store.close()


async def test_fresh_batches_are_one_command(commands: Commands, mongodb_url: str) -> None:
    store = MongoEventStore.connect(mongodb_url)
    for number in range(3):
        assert set(await store.insert(batch(number), NOW)) == {STORED}
    assert commands.names == ["insert"] * 3
    await store.insert(batch(0), NOW)
    commands.sent.clear()
    # Also where they take turns with what came before.
    for number in range(3, 6):
        await store.insert(batch(number), NOW)
        await store.insert(batch(0), NOW)
    assert commands.names == ["insert", "insert", "find"] * 3
    await store.close()


async def test_after_batches_that_came_before_the_next_is_looked_for(
    store: MongoEventStore, commands: Commands
) -> None:
    assert await store.insert(batch(0), LATER) == [DUPLICATE] * SIZE
    # Nothing is inserted. But on a single server a majority has what its journal may lack.
    assert commands.names == ["find", "update"]
    look, wait = commands.sent
    assert look["readConcern"]["level"] == "majority"
    assert wait["writeConcern"] == DURABLE
    assert [entry.received_at for entry in await store.history(HistoryQuery(device_id="PB-0", limit=99))] == (
        [NOW] * SIZE
    )
    commands.sent.clear()
    assert await store.insert(with_(batch(0), total_files_synced=9), LATER) == [CONFLICT] * SIZE
    assert commands.names == ["find", "update"]


async def test_only_what_is_not_there_is_inserted(store: MongoEventStore, commands: Commands) -> None:
    known, new = batch(0), batch(3)
    mixed = [one for pair in zip(known, new, strict=True) for one in pair]
    assert await store.insert([*mixed, new[0]], LATER) == [DUPLICATE, STORED] * SIZE + [DUPLICATE]
    assert commands.names == ["find", "insert", "find"]  # the last is there because of its twin
    assert len(commands.sent[1]["documents"]) == SIZE + 1
    commands.sent.clear()
    half = [*batch(0)[:20], *batch(4)[:20]]
    assert await store.insert(half, LATER) == [DUPLICATE] * 20 + [STORED] * 20
    assert commands.names == ["find", "insert"]
    assert commands.sent[1]["writeConcern"] == DURABLE


async def test_what_is_enriched_is_waited_for_once(store: MongoEventStore, commands: Commands) -> None:
    richer = with_(batch(0), device_type="PiBox")
    assert await store.insert(richer, LATER) == [ENRICHED] * SIZE
    assert commands.names == ["find", "update"]
    assert commands.sent[1]["writeConcern"] == DURABLE
    assert await store.insert(richer, LATER) == [DUPLICATE] * SIZE


async def test_new_batches_are_soon_one_command_again(store: MongoEventStore, commands: Commands) -> None:
    for number in (3, 4, 5):
        assert set(await store.insert(batch(number), NOW)) == {STORED}
    assert commands.names == ["find", "insert", "insert", "insert"]


async def test_few_are_not_looked_for(store: MongoEventStore, commands: Commands) -> None:
    few = batch(0, limits.LOOKED_FOR_MIN - 1)
    assert set(await store.insert(few, NOW)) == {DUPLICATE}
    assert commands.names == ["insert", "find"]


def test_a_look_is_worth_it_after_two_batches_of_which_much_was_stored() -> None:
    known = KnownShare()
    for share, is_worth_it in [(25, False), (25, True), (24, False), (100, False), (25, True)]:
        known.note(known=share, count=100)
        assert known.is_worth_a_look(limits.LOOKED_FOR_MIN) is is_worth_it
    assert not known.is_worth_a_look(limits.LOOKED_FOR_MIN - 1)


async def test_the_insert_is_the_judge_of_what_another_bridge_stores_after_the_look(
    store: MongoEventStore, commands: Commands, monkeypatch: pytest.MonkeyPatch, mongodb_url: str
) -> None:
    ours = [*batch(0)[:20], *batch(3)]
    richer, same, bare = (
        with_(batch(3)[:10], device_type="PiBox", sync_duration_ms=1),
        batch(3)[10:20],
        with_(batch(3)[20:30], total_errors=7),
    )
    other = MongoEventStore.connect(mongodb_url)
    look = enrichment.look_and_enrich

    async def late(*arguments: Any) -> Any:
        found = await look(*arguments)
        await other.insert([*richer, *same, *bare], NOW)
        commands.sent.clear()
        return found

    monkeypatch.setattr(inserting, "look_and_enrich", late)
    outcomes = await store.insert(with_(ours, errors=[ErrorDetail(code="E", message="")]), LATER)
    assert outcomes == [ENRICHED] * 40 + [CONFLICT] * 10 + [STORED] * 10
    assert commands.names == ["insert", "find", "update"]
    await other.close()
    for entry in await store.history(HistoryQuery(device_id="PB-3", limit=99)):
        at = round((entry.event.timestamp - event().timestamp).total_seconds()) // 60
        assert entry.event.total_errors == (7 if 20 <= at < 30 else 0)
        assert entry.event.device_type == ("PiBox" if at < 10 else None)
        assert (entry.event.errors is None) == (20 <= at < 30)
        assert entry.received_at == (NOW if at < 30 else LATER)


async def test_what_vanishes_is_inserted_or_said_to_have_vanished(
    store: MongoEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store._events.delete_many({"_id.device_id": "PB-0", "_id.bucket": {"$gte": 0}})
    assert await store.insert(batch(0), LATER) == [STORED] * SIZE
    for _ in range(2):
        await store.insert(batch(0), LATER)
    enrich = enrichment._enrich

    async def late(*arguments: Any) -> Any:
        monkeypatch.undo()
        await store._events.delete_many({"_id.device_id": "PB-0", "_id.bucket": {"$gte": 0}})
        return await enrich(*arguments)

    monkeypatch.setattr(enrichment, "_enrich", late)
    richer = with_(batch(0), device_type="PiBox")
    with pytest.raises(MongodbUnavailable, match="deleted"):
        await store.insert(richer, LATER)
    assert await store.insert(richer, LATER) == [STORED] * SIZE


async def test_what_the_driver_refuses_is_alone_in_it_after_a_look_too(store: MongoEventStore) -> None:
    ours = [*with_(batch(0)[:1], sync_duration_ms=2**70), *batch(0)[1:20], *batch(3)[:5]]
    ours += with_(batch(3)[5:6], total_files_synced=2**70)
    assert await store.insert(ours, LATER) == [REFUSED] + [DUPLICATE] * 19 + [STORED] * 5 + [REFUSED]


@pytest.mark.parametrize(
    "reply",
    [
        {"n": 0, "writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}},
        {"n": 0, "writeErrors": [{"index": 0, "code": 10107, "errmsg": "not primary"}]},
    ],
)
async def test_what_was_found_but_is_not_surely_durable_is_no_duplicate(
    store: MongoEventStore, monkeypatch: pytest.MonkeyPatch, reply: dict[str, Any]
) -> None:
    async def command(_: dict[str, Any]) -> dict[str, Any]:
        return reply

    monkeypatch.setattr(store._connection.database, "command", command)
    with pytest.raises(MongodbUnavailable):
        await store.insert(batch(0), LATER)


class LazyMongodb(MongodbServer):
    """MongoDB that writes its journal seldom of itself."""

    def _arguments(self) -> list[str]:
        return [*super()._arguments(), "--journalCommitInterval", "500"]


async def test_a_duplicate_outlives_a_kill_though_who_stored_it_did_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another bridge is writing is found before it is in the journal; a receipt must wait for that."""
    monkeypatch.setattr(limits, "LOOKED_FOR_SHARE", 0.0)
    events = batch(0)
    async with running(LazyMongodb(tmp_path)) as server:
        url = server.database_url("pisync")
        store = MongoEventStore.connect(url)
        await store.prepare()
        async with AsyncMongoClient[dict[str, Any]](url, w=1, journal=False) as hasty:
            await hasty.get_default_database().sync_events.insert_many(documents(events, NOW))
            assert await store.insert(events, LATER) == [DUPLICATE] * SIZE
            await server.kill()
            await server.start()
            assert len(await store.history(HistoryQuery(device_id="PB-0", limit=99))) == SIZE
        await store.close()
