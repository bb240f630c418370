"""What only the event store in MongoDB can show: dead letters as documents, refusals, being unavailable."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from pymongo import AsyncMongoClient
from pymongo.errors import ServerSelectionTimeoutError

from cli import init_db
from local_stack.process import running
from local_stack.servers import MongodbServer
from pisync import limits
from pisync.errors import ConfigurationError, MongodbUnavailable
from pisync.settings import CommonSettings
from pisync.stores.interfaces.events import HistoryQuery, InsertOutcome, OutcomeFilter, ReplayPosition
from pisync.stores.mongodb import by_device, enrichment, replaying
from pisync.stores.mongodb.connection import map_driver_errors
from pisync.stores.mongodb.events import MongoEventStore
from tests.support.buckets import BucketWatch
from tests.support.counting import commands_of_stores
from tests.support.replays import replayed
from tests.support.samples import NOW, START, event
from tests.support.waiting import until

Database = Any


@pytest_asyncio.fixture
async def database(mongodb_url: str) -> AsyncIterator[Database]:
    async with AsyncMongoClient[dict[str, Any]](mongodb_url, tz_aware=True) as client:
        yield client.get_default_database()


@pytest_asyncio.fixture
async def store(mongodb_url: str) -> AsyncIterator[MongoEventStore]:
    store = MongoEventStore.connect(mongodb_url)
    await store.prepare()
    yield store
    await store.close()


async def test_a_field_of_another_version_is_not_given_out(
    store: MongoEventStore, database: Database
) -> None:
    await store.insert([event("PB-1", errors=1)], NOW)
    query = HistoryQuery(device_id="PB-1", limit=1)
    (before,) = (await store.page(query)).rows
    await database.sync_events.update_one({}, {"$set": {"later": "a field of another version"}})
    assert (await store.page(query)).rows == [before]
    (entry,) = await store.history(query)
    assert entry.event == event("PB-1", errors=1)
    assert await replayed(store, None) == [entry]


async def test_a_replay_reads_documents_in_the_order_in_which_they_lie_on_disk(
    store: MongoEventStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that each page of them is read once, however many of one day there are, and of whichever days."""
    monkeypatch.setattr(limits, "REPLAY_BATCH_EVENTS", 40)
    parts: list[list[dict[str, Any]]] = []
    add = replaying.Grouped.add

    def added(held: replaying.Grouped, part: bytes) -> dict[str, Any]:
        parts.append(replaying.documents(part))
        return add(held, part)

    monkeypatch.setattr(replaying.Grouped, "add", added)
    devices = [f"PB-{number}" for number in range(limits.BUCKETS)]
    for visit in range(6):  # with what they kept of three days, the newer ones first
        kept = [event(device_id, 1440 * day + visit) for day in (2, 0, 1) for device_id in devices]
        await store.insert(kept, NOW + timedelta(minutes=visit))
    lie = [
        document["_id"]
        async for document in database.sync_events.find({}, {"_id": 1}).hint([("$natural", 1)])
    ]
    places = {(each["device_id"], each["timestamp"].replace(tzinfo=None)): at for at, each in enumerate(lie)}
    for since in (None, NOW):
        parts.clear()
        await replayed(store, since)
        read = [each["_id"] for part in parts for each in part]
        assert [places[each["device_id"], each["timestamp"]] for each in read] == list(range(len(lie)))


async def test_events_that_do_not_lie_as_they_came_are_replayed_by_their_keys(
    store: MongoEventStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those that were migrated, which lie by device."""
    monkeypatch.setattr(limits, "REPLAY_NEAR_RECORDS", 5)
    minutes = range(50)
    for device in range(30):
        await store.insert([event(f"PB-{device}", minute) for minute in minutes], NOW)
    assert await replaying.lie_as_they_came(database.sync_events)
    for minute in minutes:
        of_minute = {"_id.timestamp": START + timedelta(minutes=minute)}
        moved = {"received_at": NOW + timedelta(minutes=minute)}
        await database.sync_events.update_many(of_minute, {"$set": moved})
    assert not await replaying.lie_as_they_came(database.sync_events)
    batches = [batch async for batch in store.replay(None)]
    buckets = [batch.bucket for batch in batches if batch.bucket is not None]
    assert (sum(map(len, batches)), buckets) == (30 * len(minutes), sorted(buckets))
    await database.sync_events.drop_index("received_at")
    assert len(await replayed(store, None)) == 30 * len(minutes)


async def test_what_a_replay_holds_goes_by_bucket_and_is_bounded(
    store: MongoEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REPLAY_BATCH_EVENTS", 50)
    monkeypatch.setattr(replaying, "_PACKED_BYTES", 500)
    devices = [f"PB-{number}" for number in range(limits.BUCKETS)]
    events = [event(device_id, 1440 * day) for day in range(15) for device_id in devices]
    for day in range(15):
        await store.insert(events[day * len(devices) : (day + 1) * len(devices)], NOW + timedelta(days=day))
    position = ReplayPosition()
    held: list[int] = []
    turns, bucket, seen = 0, None, set[tuple[str, datetime]]()
    async for batch in store.replay(None, position, held_bytes_max=20_000):
        held.append(position.held.bytes_held)
        turns, bucket = turns + (batch.bucket != bucket), batch.bucket
        seen.update((each["_id"]["device_id"], each["_id"]["timestamp"]) for each in batch.documents)
    assert seen == {(one.device_id, one.timestamp.replace(tzinfo=None)) for one in events}
    assert 10_000 < max(held) < 30_000
    # Of each bucket some ten events at a time, not one.
    assert turns < len(events) / 5


async def test_large_integers_of_others_are_plain_wherever_they_stand(
    store: MongoEventStore, database: Database
) -> None:
    await store.insert([event("PB-1", minute, errors=1) for minute in range(3)], NOW)
    large = {"internet_speed": 2**40, "errors": [{"code": "E", "message": "", "line": 2**41}, 2**42]}
    await database.sync_events.update_one({"_id.timestamp": START}, {"$set": large})
    row, *others = (await store.page(HistoryQuery(device_id="PB-1", limit=9))).rows[::-1]
    assert {name: row[name] for name in large} == large
    assert type(msgspec.json.decode(msgspec.json.encode([row, *others]))[0]["internet_speed"]) is int


async def test_a_document_that_mongodb_refuses_is_alone_in_it(
    store: MongoEventStore, database: Database
) -> None:
    await database.command(
        {
            "collMod": "sync_events",
            "validator": {"total_files_synced": {"$ne": 13}},
            "validationLevel": "strict",
        }
    )
    outcomes = await store.insert(
        [event("PB-1", 0), event("PB-1", 1, files=13), event("PB-1", 2), event("PB-1", 0)], NOW
    )
    assert outcomes == [
        InsertOutcome.STORED,
        InsertOutcome.REFUSED,
        InsertOutcome.STORED,
        InsertOutcome.DUPLICATE,
    ]


async def test_what_mongodb_does_not_let_an_event_be_enriched_with_is_alone_in_it(
    store: MongoEventStore, database: Database
) -> None:
    bare = [event("PB-1", minute) for minute in range(60)]
    await store.insert([msgspec.structs.replace(one, device_type="PiBox") for one in bare], NOW)
    both = {"device_type": "PiBox", "sync_duration_ms": 13}  # neither copy has both
    await database.command({"collMod": "sync_events", "validator": {"$nor": [both]}})
    richer = [msgspec.structs.replace(one, sync_duration_ms=at) for at, one in enumerate(bare)]
    outcomes = await store.insert(richer, NOW)
    assert [at for at, outcome in enumerate(outcomes) if outcome is InsertOutcome.REFUSED] == [13]
    assert set(outcomes) <= {InsertOutcome.REFUSED, InsertOutcome.ENRICHED, InsertOutcome.DUPLICATE}
    rows = (await store.page(HistoryQuery(device_id="PB-1", limit=100))).rows[::-1]
    assert [row["sync_duration_ms"] for row in rows] == [at if at != 13 else None for at in range(60)]


@pytest.mark.parametrize(
    ("theirs", "outcome", "kept"),
    [
        ({"sync_duration_ms": 1}, InsertOutcome.CONFLICT, (1, None)),
        ({"sync_duration_ms": 5}, InsertOutcome.ENRICHED, (5, "PiBox")),
        ({"device_type": "PiBook"}, InsertOutcome.CONFLICT, (None, "PiBook")),
        ({"sync_duration_ms": 5, "device_type": "PiBox"}, InsertOutcome.DUPLICATE, (5, "PiBox")),
    ],
)
async def test_another_bridge_enriches_between_the_comparison_and_the_update(
    store: MongoEventStore,
    monkeypatch: pytest.MonkeyPatch,
    theirs: dict[str, Any],
    outcome: InsertOutcome,
    kept: tuple[int | None, str | None],
) -> None:
    await store.insert([event("PB-1"), event("PB-2")], NOW)
    enrich = enrichment._enrich

    async def late(*arguments: Any) -> Any:
        monkeypatch.undo()
        await store.insert([msgspec.structs.replace(event("PB-1"), **theirs)], NOW)
        return await enrich(*arguments)

    monkeypatch.setattr(enrichment, "_enrich", late)
    ours = [
        msgspec.structs.replace(event(device_id), sync_duration_ms=5, device_type="PiBox")
        for device_id in ("PB-1", "PB-2")
    ]
    found = await store.insert(ours, NOW)
    assert found[0] is outcome
    assert found[1] in {InsertOutcome.ENRICHED, InsertOutcome.DUPLICATE}
    for device_id, expected in (("PB-1", kept), ("PB-2", (5, "PiBox"))):
        [row] = (await store.page(HistoryQuery(device_id=device_id, limit=2))).rows
        assert (row["sync_duration_ms"], row["device_type"]) == expected


async def test_a_document_that_the_driver_refuses_is_alone_in_it(store: MongoEventStore) -> None:
    batch = [event("PB-1", minute, files=2**70 if minute == 5 else 1) for minute in range(9)]
    outcomes = await store.insert(batch, NOW)
    assert outcomes == [InsertOutcome.REFUSED if minute == 5 else InsertOutcome.STORED for minute in range(9)]


@pytest.mark.parametrize(
    "reply",
    [
        {"n": 2, "writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}},
        {"n": 1, "writeErrors": [{"index": 1, "code": 10107, "errmsg": "not primary"}]},
        {"n": 1, "writeErrors": [{"index": 1, "code": 11000, "errmsg": "but nobody has it any more"}]},
        {"n": 0, "writeErrors": [{"index": 0, "code": 121}, {"index": 1, "code": 91, "errmsg": "shutdown"}]},
    ],
)
async def test_what_is_not_surely_durable_is_not_stored(
    store: MongoEventStore, monkeypatch: pytest.MonkeyPatch, reply: dict[str, Any]
) -> None:
    """Whoever acknowledged it could lose it."""
    asked: list[dict[str, Any]] = []

    async def command(asking: dict[str, Any]) -> dict[str, Any]:
        asked.append(asking)
        return reply

    monkeypatch.setattr(store._connection.database, "command", command)
    with pytest.raises(MongodbUnavailable):
        await store.insert([event("PB-1"), event("PB-2")], NOW)
    assert asked[0]["writeConcern"] == {"w": "majority", "j": True}
    assert not asked[0]["ordered"]


async def test_counting_failures_reads_keys_of_the_index_and_no_event(
    store: MongoEventStore, database: Database
) -> None:
    """As many keys as there are failures to count, and those at which it ends and goes on."""
    for number in range(3):
        await store.insert([event(f"PB-{number}", minute, errors=minute % 3) for minute in range(90)], NOW)
    await database.command({"profile": 2})
    assert await store.count_failures("PB-1", [None]) == [60]
    assert await store.count_failures("PB-1", [START + timedelta(minutes=60)]) == [20]
    sixty, seventy = START + timedelta(minutes=60), START + timedelta(minutes=70)
    assert await store.count_failures("PB-1", [None, sixty, seventy]) == [60, 20, 14]
    await database.command({"profile": 0})
    plans = [found async for found in database["system.profile"].find({"ns": {"$regex": "sync_events$"}})]
    assert [plan["docsExamined"] for plan in plans] == [0, 0, 0]
    assert [plans[0]["keysExamined"], plans[2]["keysExamined"]] == [61, 61]
    assert plans[1]["keysExamined"] <= 20 + 2 * 2 + 1  # two numbers of errors


async def test_history_and_counts_are_served_by_indexes(store: MongoEventStore, database: Database) -> None:
    await store.insert([event("PB-1", 700 * at, errors=at % 2) for at in range(40)], NOW)
    await database.command({"profile": 2})
    await store.knows("PB-1")
    await store.count_failures("PB-1", [NOW])
    await store.failing(["PB-1", "PB-2"], 3)
    for outcome in (None, *OutcomeFilter):
        await store.page(HistoryQuery(device_id="PB-1", limit=30, outcome=outcome))
    await database.command({"profile": 0})
    plans = [found async for found in database["system.profile"].find({"ns": {"$regex": "sync_events$"}})]
    assert plans
    assert all("COLLSCAN" not in plan["planSummary"] for plan in plans)
    # A merge of ranges that are sorted is none.
    assert all("'stage': 'SORT'" not in str(plan.get("execStats")) for plan in plans)
    assert not any(plan.get("hasSortStage") for plan in plans)


async def test_every_query_that_names_a_device_names_its_bucket(
    store: MongoEventStore, bucket_watch: BucketWatch
) -> None:
    """Held for each command of the contract suite; here, that all kinds of them are looked at."""
    before = bucket_watch.naming_devices
    asked: list[Callable[[], Awaitable[object]]] = [
        lambda: store.insert([event("PB-1")], NOW),
        lambda: store.insert([event("PB-1")], NOW),
        lambda: store.knows("PB-1"),
        lambda: store.history(HistoryQuery(device_id="PB-1", limit=1)),
        lambda: store.page(HistoryQuery(device_id="PB-1", limit=1, outcome=OutcomeFilter.FAILED)),
        lambda: store.count_failures("PB-1", [NOW]),
        lambda: store.failing(["PB-1"], 1),
    ]
    for number, ask in enumerate(asked, start=1):
        await ask()
        assert bucket_watch.naming_devices >= before + number
    found = store._events.find({"_id.device_id": "PB-1"}).to_list()
    assert len(await found) == 1
    assert len(bucket_watch.without_bucket) == 1
    bucket_watch.without_bucket.clear()


async def test_a_cluster_goes_by_ranges_of_the_id_and_not_by_its_members(
    store: MongoEventStore, database: Database
) -> None:
    """A mongos bounds a filter by the shard key as MongoDB here bounds it by the index over the same."""
    await store.insert([event("PB-1")], NOW)

    async def bounds(asked: dict[str, Any]) -> str:
        explained = await database.command(
            {"explain": {"find": "sync_events", "filter": asked, "hint": "_id_"}, "verbosity": "queryPlanner"}
        )
        plan = explained["queryPlanner"]["winningPlan"]
        while "indexBounds" not in plan:
            plan = plan["inputStage"] if "inputStage" in plan else plan["inputStages"][0]
        return str(plan["indexBounds"]["_id"])

    everything = "['[MinKey, MaxKey]']"
    assert await bounds({"_id.bucket": 5, "_id.device_id": "PB-1"}) == everything
    [whole, one] = [
        await bounds({"_id": by_device.of_bucket(5)}),
        await bounds({"_id": {"$in": [{"bucket": 5}]}}),
    ]
    for found in (whole, one):
        assert found != everything
        assert "bucket: 5" in found


async def test_a_command_that_leads_to_no_bucket_is_noticed(
    store: MongoEventStore, bucket_watch: BucketWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_device, "of_bucket", lambda _bucket: {"$exists": True})
    query = HistoryQuery(device_id="PB-1", limit=1, outcome=OutcomeFilter.FAILED)
    await store.history(query)
    [(caller, _)] = bucket_watch.untargeted
    assert caller == "by_device._newest_failures"
    bucket_watch.untargeted.clear()
    before = set(bucket_watch.everywhere)
    await store.count_failures("PB-1", [None])
    assert bucket_watch.everywhere - before == {"by_device.count_failures"}


async def test_init_db_makes_indexes_and_shards_no_single_server(
    mongodb_url: str, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigurationError, match="names no mongos") as refused:
        await init_db._main(CommonSettings(mongodb_url=mongodb_url), shard=True)
    assert refused.value.exit_code == 78
    assert await database.list_collection_names() == []
    await init_db._main(CommonSettings(mongodb_url=mongodb_url), shard=False)
    assert "received_at" in await database["sync_events"].index_information()
    assert capsys.readouterr().out == "The events have their indexes.\n"


async def test_confirming_the_primary_takes_no_right_but_to_read(
    mongodb_url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pisync rebuild --check` changes nothing; and a single server, which is replaced by none, answers."""
    commands = commands_of_stores(monkeypatch)
    store = MongoEventStore.connect(mongodb_url)
    try:
        await store.confirm_primary()
        [asked] = commands.sent
    finally:
        await store.close()
    assert asked["find"] == "schema"
    assert asked["readConcern"]["level"] == "linearizable"
    assert 0 < asked["maxTimeMS"] < limits.MONGODB_SOCKET_TIMEOUT_MS
    assert await database.list_collection_names() == []


async def test_mongodb_away_is_said_and_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MONGODB_CONNECT_TIMEOUT_MS", 2000)
    monkeypatch.setattr(limits, "MONGODB_SOCKET_TIMEOUT_MS", 2000)
    async with running(MongodbServer(tmp_path)) as server:
        store = MongoEventStore.connect(server.database_url("away"))
        try:
            assert await store.insert([event()], NOW) == [InsertOutcome.STORED]
            await server.kill()
            with pytest.raises(MongodbUnavailable, match="MongoDB"):
                await store.insert([event("PB-2")], NOW)
            await server.start()
            server.pause()
            with pytest.raises(MongodbUnavailable, match="MongoDB"):
                await store.insert([event("PB-2")], NOW)
            server.resume()

            async def back() -> bool:
                try:
                    await store.ping()
                except MongodbUnavailable:
                    return False
                return True

            await until(back)
            monkeypatch.undo()
            assert await store.insert([event(), event("PB-3")], NOW) == [
                InsertOutcome.DUPLICATE,
                InsertOutcome.STORED,
            ]
        finally:
            await store.close()


@pytest.mark.parametrize(
    "url", ["mongodb://a:b:c/x", "mongodb://h/x?nonsense=%zz&tls=maybe", "mongodb://h:x/y"]
)
def test_a_connection_string_that_cannot_be_understood(url: str) -> None:
    with pytest.raises(ConfigurationError, match="PISYNC_MONGODB_URL"):
        MongoEventStore.connect(url)


def test_what_the_driver_says_of_a_server_is_told_without_all_that_it_knows() -> None:
    timeouts = "(configured timeouts: socketTimeoutMS: 5000.0ms, connectTimeoutMS: 5000.0ms)"
    said = f"a:1: [Errno 111] refused {timeouts},b:2: [Errno 111] refused {timeouts}, Timeout: 5.0s"
    said += ", Topology Description: <TopologyDescription id: 6b, servers: [<ServerDescription>]>"
    with pytest.raises(MongodbUnavailable) as raised, map_driver_errors():
        raise ServerSelectionTimeoutError(said)
    assert str(raised.value).endswith("a:1: [Errno 111] refused,b:2: [Errno 111] refused, Timeout: 5.0s")
