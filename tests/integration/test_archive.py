"""An archive holds everything: what comes back of it, into an empty MongoDB, is what was there."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from importlib import import_module
from itertools import count
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Final

import msgspec
import pyarrow as pa
import pytest
from bson import Binary, Decimal128, Int64
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import dataset, parquet

from bridge.alerts.judge import Judge
from bridge.projection.rebuild import rebuild
from cli.archive.checking import ArchiveFindings, check
from cli.archive.exporting import Export, Exported
from cli.archive.importing import Import
from cli.archive.parquet import EVENTS, read_events
from cli.archive.places import Directory, Place
from local_stack.servers import MongodbServer
from pisync.clock import rfc3339, to_ms
from pisync.domain.events import ErrorDetail, SyncEvent
from pisync.domain.rollups import Span, Unit
from pisync.errors import ArchiveUnusable
from pisync.stores import mongodb
from pisync.stores.interfaces.dead_letters import DeadLetterQuery
from pisync.stores.interfaces.events import HistoryQuery
from pisync.stores.memory.alerts import MemoryAlertStore
from pisync.stores.memory.bridges import MemoryBridgeRegistry
from pisync.stores.memory.projection import MemoryProjection
from pisync.stores.mongodb.archived import KEPT, PREPARED, MongoArchived
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.dead_letters import MongoDeadLetterStore
from pisync.stores.mongodb.events import MongoEventStore
from pisync.stores.mongodb.received import MongoReceivedEvents
from pisync.stores.mongodb.retention import MongoRetentionStore
from pisync.stores.mongodb.rollups import MongoRollupStore
from pisync.stores.mongodb.sessions import MongoSessionStore
from tests.support.databases import fresh
from tests.support.programs import program
from tests.support.samples import NOW, event_at, letter
from worker.retention import Retaining
from worker.rollups import Rolling

pytestmark = pytest.mark.usefixtures("bucket_watch")

DAY: Final = timedelta(days=1)
ALWAYS: Final = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
DEVICES: Final = 7


class Registry(MemoryBridgeRegistry):
    """With the time of the tests."""

    async def server_time(self) -> datetime:
        return NOW


class Database:
    """A database, with all that is in it, by the stores and past them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.connection = MongoConnection(url)
        self.events = MongoEventStore(self.connection)
        self.letters = MongoDeadLetterStore(self.connection)
        self.rollups = MongoRollupStore(self.connection)
        self.archived = MongoArchived(self.connection)
        self.now = NOW

        async def now() -> datetime:
            return self.now

        self.archived.now = now  # type: ignore[method-assign]
        self.terms = count(1)

    async def export(
        self, place: Place, progress: Callable[[int, int], None] = lambda *_: None, *, facts: bool = False
    ) -> Exported:
        return await Export(self.archived, place, progress).run(*ALWAYS, with_facts=facts)

    async def take(self, place: Place) -> Import:
        await self.events.prepare()
        work = Import(self.archived, place, lambda _done, _of: None)
        await work.run(*ALWAYS, with_facts=True)
        await self.rollups.reset()  # as `pisync rebuild` does, which the command runs
        return work

    async def check(self, place: Place) -> ArchiveFindings:
        return await check(self.archived, place, *ALWAYS, lambda _done, _of: None)

    async def count_rollups(self) -> None:
        """As a worker does, until all is closed."""
        received = MongoReceivedEvents(self.connection)
        rolling = Rolling(received=received, rollups=self.rollups, registry=Registry(), term=next(self.terms))
        await rolling.begin()
        for _ in range(2):
            await rolling.follow()
            while await rolling.fill():
                pass

    async def stored(self, collection: str) -> list[dict[str, Any]]:
        return await self.connection.database[collection].find().sort("_id").to_list()

    async def answers(self) -> dict[str, Any]:
        """What people are told of it."""
        projection = MemoryProjection()
        judge = Judge(store=MemoryAlertStore(), rules=())
        await rebuild(events=self.events, projection=projection, alerts=judge, progress=lambda *_: None)
        devices = [f"PB-{number}" for number in range(DEVICES)]
        pages = [await self.events.page(HistoryQuery(device_id=device, limit=500)) for device in devices]
        span = Span(to_ms(NOW - 20 * DAY), to_ms(NOW - DAY))
        return {
            "projection": await projection.records(devices),
            "history": [page.rows for page in pages],
            "letters": await self.letters.find(DeadLetterQuery(limit=100)),
            "rollups": await self.rollups.read(Unit.DAY, span),
            "codes": await self.rollups.codes(100),
        }


@pytest.fixture
async def database(mongod_server: MongodbServer) -> AsyncIterator[Callable[[], Database]]:
    """Makes empty databases."""
    async with AsyncExitStack() as stack:

        def made() -> Database:
            new = Database(fresh(mongod_server))
            stack.push_async_callback(new.connection.close)
            return new

        yield made


def events_of(received: datetime) -> list[SyncEvent]:
    """Some of each device, with each shape that an event may have."""
    return [
        event_at(
            to_ms(received) - 3_600_000 * number - device,
            f"PB-{device}",
            errors=(number + device) % 3,
            files=2**53 - 1 if number == 1 else number,
            details=[None, [], [ErrorDetail(code="E_NET", message='nul \0, quote ", smile 😀')]][number % 3],
            speed=[0.1, 20, 1e20][number % 3],
            device_type=[None, "PiBox", "PiBook"][device % 3],  # type: ignore[arg-type]
            duration_ms=[None, 0, 2**40][(device + number) % 3],
        )
        for number in range(5)
        for device in range(DEVICES)
    ]


async def filled(database: Database, *, facts: bool = False) -> None:
    """Events of some days, rejected messages, and something in each collection."""
    await database.events.prepare()
    await database.letters.prepare()
    for days in (9, 8, 5, 0):
        received = NOW - days * DAY - timedelta(hours=3)
        await database.events.insert(events_of(received), received)
    await database.letters.add([letter(b"{\0\xff" * 40_000), letter(b"[", device_id=None)], NOW)
    exact = {"int": 1, "long": Int64(1), "double": 1.0, "bytes": Binary(b"\0\xff"), "none": None}
    if not facts:
        return
    for collection in set(KEPT) - {"dead_letters", "device_bases", "retention", "rollups", "rollup_codes"}:
        if collection != "rollup_progress":
            await database.connection.database[collection].insert_one(
                {"_id": f"{collection}-1", **exact, "decimal": Decimal128("1.10"), "at": NOW, "in": [{}]}
            )


async def retained(database: Database, days: int) -> None:
    """Retention deletes what is older."""
    store = MongoRetentionStore(database.connection)
    duty = Retaining(store=store, rollups=database.rollups, registry=Registry(), days=days)
    await duty.look()
    assert duty.deleted > 0


async def test_everything_comes_back_and_every_answer_is_the_same(
    database: Callable[[], Database], tmp_path: Path
) -> None:
    source, target, place = database(), database(), Directory(tmp_path)
    await filled(source, facts=True)
    added = [
        msgspec.structs.replace(event, sync_duration_ms=7)
        for event in events_of(NOW - 5 * DAY - timedelta(hours=3))
    ]
    await source.events.insert(added, NOW - 4 * DAY)
    await source.count_rollups()
    await retained(source, 8)
    assert (await source.export(place, facts=True)).events == len(await source.stored("sync_events"))
    work = await target.take(place)
    assert (work.events.conflicts, work.documents.conflicts) == (0, 0)
    await target.count_rollups()
    derived = {"rollups", "rollup_codes", "rollup_progress"}
    for collection in ("sync_events", *sorted(set(KEPT) - derived)):
        assert await target.stored(collection) == await source.stored(collection), collection
    # An integer of 64 bits stays one, and so on.
    raw = target.connection.database["actions"]
    assert (
        await raw.count_documents(
            {"int": {"$type": "int"}, "long": {"$type": "long"}, "double": {"$type": "double"}}
        )
        == 1
    )
    answers = await source.answers()
    assert await target.answers() == answers
    assert {rollup.figures.events for rollup in answers["rollups"] if rollup.figures} >= {0, 35}
    again = await target.take(place)
    assert (again.events.stored, again.events.conflicts, again.documents.stored) == (0, 0, 0)
    assert again.events.duplicates == len(await source.stored("sync_events"))
    await target.count_rollups()
    assert await target.answers() == answers


async def test_the_files_are_plain_parquet(database: Callable[[], Database], tmp_path: Path) -> None:
    source = database()
    await filled(source)
    await source.export(Directory(tmp_path), facts=True)
    table = dataset.dataset(tmp_path / "events", format="parquet", partitioning="hive").to_table()
    assert {name: str(kind) for name, kind in zip(table.schema.names, table.schema.types, strict=True)} == {
        "device_id": "string",
        "timestamp": "timestamp[ms, tz=UTC]",
        "received_at": "timestamp[ms, tz=UTC]",
        "total_files_synced": "int64",
        "total_errors": "int64",
        "internet_speed": "double",
        "device_type": "string",
        "sync_duration_ms": "int64",
        "errors": "list<element: struct<code: string not null, message: string not null>>",
        "enriched_at": "timestamp[ms, tz=UTC]",
        "day": "string",
    }
    days = table.group_by("day").aggregate([("device_id", "count")]).to_pylist()
    assert {row["day"]: row["device_id_count"] for row in days} == {
        (NOW - back * DAY - timedelta(hours=3)).date().isoformat(): 5 * DEVICES for back in (9, 8, 5, 0)
    }
    [folder] = (tmp_path / "facts").iterdir()
    letters = dataset.dataset(folder / "dead_letters.parquet").to_table().to_pylist()
    assert len(letters) == 2
    assert '"reasons": ["malformed"]' in letters[0]["document"]


moments = st.integers(0, 4 * 24)  # hours
some_events = st.lists(
    st.tuples(st.integers(0, 3), moments, st.integers(0, 2), moments, st.booleans()), min_size=1, max_size=20
)


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(some_events, st.randoms(use_true_random=False))
async def test_any_events_in_any_order_twice(
    mongod_server: MongodbServer,
    tmp_path_factory: pytest.TempPathFactory,
    drawn: list[tuple[int, int, int, int, bool]],
    chance: Any,
) -> None:
    source, target = Database(fresh(mongod_server)), Database(fresh(mongod_server))
    place = Directory(tmp_path_factory.mktemp("archive"))
    try:
        await source.events.prepare()
        for part in (drawn, drawn[::-1]):
            for device, hour, errors, later, is_full in part:
                event = event_at(
                    to_ms(NOW) + hour * 3_600_000,
                    f"PB-{device}",
                    errors=errors,
                    duration_ms=5 if is_full else None,
                )
                await source.events.insert([event], NOW + timedelta(hours=hour + later))
            source.now = NOW + chance.choice([1, 3, 9, 12]) * DAY
            await source.export(place)
        await source.export(place)
        await target.take(place)
        await target.take(place)
        assert await target.stored("sync_events") == await source.stored("sync_events")
    finally:
        for each in (source, target):
            await each.connection.client.drop_database(each.connection.database.name)
            await each.connection.close()


class StoppedError(Exception):
    """Somebody pressed Ctrl-C."""


async def test_an_interrupted_export_goes_on(database: Callable[[], Database], tmp_path: Path) -> None:
    source, target, place = database(), database(), Directory(tmp_path)
    await filled(source)
    source.now = NOW + 9 * DAY

    def interrupt(done: int, _of: int) -> None:
        if done > 2 * 5 * DEVICES:
            raise StoppedError

    with pytest.raises(StoppedError):
        await source.export(place, interrupt)
    with pytest.raises(ArchiveUnusable, match="no archive"):
        await target.take(Directory(tmp_path / "elsewhere"))
    told = await source.export(place)
    assert (told.whole, told.days) == (2, 2)
    assert (await source.check(place)).faults == []
    await target.take(place)
    assert await target.stored("sync_events") == await source.stored("sync_events")


async def test_only_days_that_may_have_changed_are_written_again(
    database: Callable[[], Database], tmp_path: Path
) -> None:
    source, place = database(), Directory(tmp_path)
    await filled(source)
    some = await Export(source.archived, place, lambda *_: None).run(
        NOW - 9 * DAY, NOW - 3 * DAY, with_facts=False
    )
    assert some.days == 2
    told = await source.export(place)
    assert (told.days, told.whole) == (2, 2)
    source.now = NOW + 2 * timedelta(hours=1)
    # The last day is not long over: something may still be stored of it.
    told = await source.export(place)
    assert (told.days, told.whole) == (1, 3)
    source.now = NOW + 20 * DAY
    assert (await source.export(place)).days == 1
    assert (await source.export(place)).days == 0
    old = events_of(NOW - 8 * DAY - timedelta(hours=3))[0]
    await source.events.insert([msgspec.structs.replace(old, sync_duration_ms=7)], source.now)
    source.now += DAY
    told = await source.export(place)
    assert (told.days, told.whole) == (1, 3)
    target = database()
    await target.take(place)
    assert await target.stored("sync_events") == await source.stored("sync_events")


async def test_retention_takes_nothing_from_an_archive(
    database: Callable[[], Database], tmp_path: Path
) -> None:
    source, place = database(), Directory(tmp_path)
    await filled(source)
    await source.count_rollups()
    await source.export(place)
    before, answers = await source.stored("sync_events"), await source.answers()
    await retained(source, 8)
    # As if it were in the middle of a day to which something had just been added.
    left = {**before[0], "enriched_at": NOW}
    assert left["received_at"] < NOW - 8 * DAY
    await source.connection.database.sync_events.insert_one(left)
    assert (await source.export(place, facts=True)).whole == 2
    await source.connection.database.sync_events.delete_one({"_id": left["_id"]})
    found = await source.check(place)
    assert found.faults == []
    assert any("retention deletes them" in note for note in found.notes)
    target = database()
    await target.take(place)
    await target.count_rollups()
    assert await target.stored("sync_events") == before
    assert await target.answers() == answers


async def test_a_conflict_is_told_and_nothing_is_overwritten(
    database: Callable[[], Database], tmp_path: Path
) -> None:
    source, target, place = database(), database(), Directory(tmp_path)
    await filled(source, facts=True)
    await source.export(place, facts=True)
    await target.events.prepare()
    first = events_of(NOW - 9 * DAY - timedelta(hours=3))[0]
    other = msgspec.structs.replace(first, total_files_synced=99)
    bare = msgspec.structs.replace(
        events_of(NOW - timedelta(hours=3))[1], device_type=None, sync_duration_ms=None
    )
    await target.events.insert([other, bare], NOW)
    await target.connection.database.recipients.insert_one({"_id": "recipients-1", "name": "mine"})
    work = await target.take(place)
    assert (work.events.conflicts, work.events.enriched, work.documents.conflicts) == (1, 1, 1)
    assert work.events.listed == [f"{first.device_id} at {rfc3339(first.timestamp)}: conflict"]
    assert work.documents.listed == ['recipients "recipients-1": conflict']
    stored = {event["_id"]["timestamp"]: event for event in await target.stored("sync_events")}
    assert stored[first.timestamp]["total_files_synced"] == 99
    assert stored[bare.timestamp]["received_at"] == NOW
    assert stored[bare.timestamp]["sync_duration_ms"] == 0
    assert await target.stored("recipients") == [{"_id": "recipients-1", "name": "mine"}]


def _day_file(archive: Path) -> Path:
    return min(archive.glob("events/*/events.parquet"))


async def test_a_file_that_is_not_that_of_its_manifest_is_not_taken(
    database: Callable[[], Database], tmp_path: Path
) -> None:
    source, target, place = database(), database(), Directory(tmp_path)
    await filled(source)
    await source.export(place)
    file = _day_file(tmp_path)
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(ArchiveUnusable, match=r"day=.*events.parquet: it is not the file of its manifest"):
        await target.take(place)
    assert await target.stored("sync_events") == []
    [fault] = (await source.check(place)).faults
    assert str(file) in fault
    manifest = file.with_name("_manifest.json")
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ArchiveUnusable, match="update it"):
        await target.take(place)
    manifest.unlink()
    await source.export(place)
    assert (await source.check(place)).faults == []


async def test_what_was_emptied_or_went_back_replaces_nothing(
    database: Callable[[], Database], tmp_path: Path
) -> None:
    source, target, place = database(), database(), Directory(tmp_path)
    await filled(source, facts=True)
    await source.export(place, facts=True)

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    before = files()
    # As the nightly run finds it after a loss.
    await target.events.prepare()
    with pytest.raises(ArchiveUnusable, match=r"day=.*: 35 events here, 0 in MongoDB.*pisync import"):
        await target.export(place, facts=True)
    # An older state, which has some of the days that may still change, and new events.
    target.now = NOW + timedelta(days=1)
    received = NOW - timedelta(hours=3)
    await target.events.insert(events_of(received)[:9], received)
    await target.events.insert([event_at(to_ms(target.now), "PB-9")], target.now)
    with pytest.raises(ArchiveUnusable, match=r"35 events here, 9 in MongoDB"):
        await target.export(place, facts=True)
    assert files() == before
    await target.take(place)
    assert (await target.export(place, facts=True)).days == 2
    assert (await target.check(place)).faults == []


async def test_a_day_that_went_back_while_a_later_one_was_written(
    database: Callable[[], Database], tmp_path: Path
) -> None:
    source, place = database(), Directory(tmp_path)
    await filled(source)
    received = NOW - 2 * DAY
    await source.events.insert(events_of(received), received)
    await source.export(place)
    file = tmp_path / f"events/day={received.date().isoformat()}/events.parquet"
    before = file.read_bytes()
    await source.connection.database.sync_events.delete_one({"received_at": received})
    with pytest.raises(ArchiveUnusable, match=r"35 events here, 34 in MongoDB"):
        await source.export(place)
    assert file.read_bytes() == before
    assert sorted(path.name for path in file.parent.iterdir()) == ["_manifest.json", "events.parquet"]


async def test_facts_of_a_clock_that_was_ahead_are_replaced(
    database: Callable[[], Database], tmp_path: Path
) -> None:
    source, place = database(), Directory(tmp_path)
    await filled(source)
    source.now = NOW + 1000 * DAY
    await source.export(place, facts=True)
    source.now = NOW
    await source.connection.database.users.insert_one({"_id": "late"})
    await source.export(place, facts=True)
    target = database()
    await target.take(place)
    assert await target.stored("users") == [{"_id": "late"}]


async def test_what_somebody_else_put_there_is_left_alone(
    database: Callable[[], Database], tmp_path: Path
) -> None:
    source, target, place = database(), database(), Directory(tmp_path)
    await filled(source)
    others = [tmp_path / name for name in ("facts/README", "facts/.hidden", "events/README", "events/day=x")]
    for other in others:
        other.parent.mkdir(exist_ok=True)
        other.write_text("not ours")
    folder = tmp_path / "facts/2026/inside"
    folder.mkdir(parents=True)
    for _ in range(2):
        source.now += timedelta(seconds=1)
        await source.export(place, facts=True)
    assert (await source.check(place)).faults == []
    assert (await target.take(place)).documents.stored == 2
    assert [other.read_text() for other in others] == ["not ours"] * 4
    assert folder.is_dir()
    assert len([name for name in place.names("facts") if name.endswith("Z")]) == 1


async def test_a_manifest_that_is_none_of_its_day_is_told(
    database: Callable[[], Database], tmp_path: Path
) -> None:
    source, place = database(), Directory(tmp_path)
    await filled(source)
    await source.export(place)
    first, second, *_ = sorted((tmp_path / "events").iterdir())
    manifest = (second / "_manifest.json").read_text()
    for wrong, said in (
        ((first / "_manifest.json").read_text(), "the manifest of another day"),
        (manifest.replace('Z"', '"'), "no manifest: Expected `datetime` with a timezone"),
        ('{"format": 2}', "update it"),
        ("{", "no manifest"),
    ):
        (second / "_manifest.json").write_text(wrong)
        for work in (source.export, source.check, source.take):
            with pytest.raises(ArchiveUnusable, match=f"{second.name}/_manifest.json: .*{said}"):
                await work(place)


async def test_one_run_at_a_time_writes_an_archive(database: Callable[[], Database], tmp_path: Path) -> None:
    source = database()
    await filled(source)
    with Directory(tmp_path).alone(), pytest.raises(ArchiveUnusable, match="another export writes"):
        await source.export(Directory(tmp_path))
    assert (await source.export(Directory(tmp_path))).days == 4


async def test_a_file_that_is_gone_or_short_is_written_again(
    database: Callable[[], Database], tmp_path: Path
) -> None:
    source, place = database(), Directory(tmp_path)
    await filled(source)
    source.now = NOW + 9 * DAY
    await source.export(place)
    first = _day_file(tmp_path)
    second = first.parents[1] / f"day={(NOW - 8 * DAY - timedelta(hours=3)).date().isoformat()}" / first.name
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    told = await source.export(place)
    assert (told.days, told.whole) == (2, 2)
    assert (await source.check(place)).faults == []


async def test_what_there_is_no_column_for_is_not_left_out_in_silence(
    database: Callable[[], Database], tmp_path: Path
) -> None:
    source, place = database(), Directory(tmp_path)
    await filled(source)
    await source.connection.database.sync_events.update_one({}, {"$set": {"battery": 7}})
    with pytest.raises(ArchiveUnusable, match=r"does not know \(battery\): a newer program"):
        await source.export(place)


async def test_a_day_of_which_retention_deletes_what_was_never_read_is_a_fault(
    database: Callable[[], Database], tmp_path: Path
) -> None:
    source, place = database(), Directory(tmp_path)
    await filled(source)
    await source.count_rollups()
    received = NOW - 9 * DAY - timedelta(hours=3)
    # The last run that found it was at noon.
    source.now = received
    await source.export(place)
    late = received + timedelta(hours=1)
    await source.events.insert([event_at(to_ms(late), "PB-9")], late)
    source.now = NOW
    await retained(source, 8)
    fault, *_ = (await source.check(place)).faults
    assert fault.startswith(f"{received.date().isoformat()}: ")
    assert "0 in MongoDB: it was written before the day was over, and retention deletes" in fault


async def test_two_documents_of_which_one_may_be_there_leave_an_index_possible(
    database: Callable[[], Database], tmp_path: Path
) -> None:
    source, target, place = database(), database(), Directory(tmp_path)
    await filled(source)
    # As a reader finds it that is overtaken: the first one is closed meanwhile.
    alerts = [{"_id": f"{number}", "device_id": "PB-1", "rule": "streak", "is_open": True} for number in "12"]
    await source.connection.database.alerts.insert_many(alerts)
    await source.export(place, facts=True)
    work = await target.take(place)
    assert (work.documents.conflicts, len(await target.stored("alerts"))) == (1, 1)
    for store in PREPARED:
        await store(target.connection).prepare()


def test_every_store_that_has_indexes_is_prepared() -> None:
    found = set()
    for module in iter_modules(mongodb.__path__):
        for name, value in vars(import_module(f"{mongodb.__name__}.{module.name}")).items():
            if name.startswith("Mongo") and hasattr(value, "prepare"):
                found.add(value)
    assert found - {MongoArchived, MongoSessionStore} == set(PREPARED)


async def test_a_row_that_is_no_event_takes_none_of_its_neighbours_with_it(
    database: Callable[[], Database], tmp_path: Path
) -> None:
    source, target, place = database(), database(), Directory(tmp_path)
    await filled(source)
    changed = {"total_errors": -1}
    await source.connection.database.sync_events.update_one(
        {"received_at": {"$lt": NOW - DAY}}, {"$set": changed}
    )
    await source.export(place)
    work = await target.take(place)
    assert (work.events.stored, work.events.conflicts) == (4 * 5 * DEVICES - 1, 1)
    assert "total_errors" in work.events.listed[0]
    await target.answers()  # a replay of it ends


async def test_a_time_that_python_has_not_is_told_with_its_file(tmp_path: Path) -> None:
    moments = {
        field.name: pa.array([10**15], field.type) for field in EVENTS if "timestamp" in str(field.type)
    }
    row: dict[str, Any] = {"device_id": ["PB-1"], "total_files_synced": [1], "total_errors": [0]}
    row |= {"internet_speed": [1.0], "device_type": [None], "sync_duration_ms": [None], "errors": [None]}
    parquet.write_table(pa.table({**row, **moments}, schema=EVENTS), tmp_path / "events.parquet")
    with pytest.raises(ArchiveUnusable, match=r"events\.parquet: "):
        list(read_events(Directory(tmp_path), "events.parquet"))


async def test_a_check_finds_what_is_missing(database: Callable[[], Database], tmp_path: Path) -> None:
    source, place = database(), Directory(tmp_path)
    await filled(source)
    await source.export(place)
    await source.connection.database.sync_events.delete_one(
        {"received_at": {"$lt": NOW - 8 * DAY - timedelta(hours=4)}}
    )
    late = NOW - timedelta(hours=1)
    await source.events.insert([event_at(to_ms(late), "PB-9")], late)
    await source.events.insert([event_at(to_ms(NOW - 7 * DAY), "PB-9")], NOW - 7 * DAY)
    found = await source.check(place)
    assert [fault.split(": ", 1)[1] for fault in found.faults] == [
        "35 events here, 34 in MongoDB, which lost some: put the archive back (`pisync import`)",
        "0 events here, 1 in MongoDB: export again",
    ]
    assert [note.split(": ", 1)[1] for note in found.notes] == [
        "35 events here, 36 in MongoDB: the day may still change"
    ]


async def test_a_check_finds_what_came_later_and_what_a_young_day_lost(
    database: Callable[[], Database], tmp_path: Path
) -> None:
    source, place = database(), Directory(tmp_path)
    await filled(source)
    await source.export(place)
    # From a bridge that was cut off for days.
    received = NOW - 9 * DAY - timedelta(hours=3)
    await source.events.insert([event_at(to_ms(received), "PB-9")], received)
    await source.connection.database.sync_events.delete_one({"received_at": {"$gt": NOW - DAY}})
    later, lost = (await source.check(place)).faults
    assert later.endswith("36 in MongoDB: some came later; delete the day's _manifest.json, and export again")
    assert "34 in MongoDB, which lost some" in lost
    _day_file(tmp_path).with_name("_manifest.json").unlink()
    with pytest.raises(ArchiveUnusable, match="34 in MongoDB"):
        await source.export(place)
    await source.take(place)
    await source.export(place)
    assert (await source.check(place)).faults == []


async def test_of_what_only_grows_the_greater_one_is_kept(
    database: Callable[[], Database], tmp_path: Path
) -> None:
    """An import into a database in use: the bridge went on listening."""
    source, target, place = database(), database(), Directory(tmp_path)
    await filled(source)
    for db, days in ((source, (1, 3)), (target, (2, 2))):
        intervals = [{"_id": number, "until": NOW + day * DAY} for number, day in enumerate(days)]
        await db.connection.database.listening.insert_many(intervals)
    await source.export(place, facts=True)
    assert (await target.take(place)).documents.conflicts == 0
    stored = await target.stored("listening")
    assert [each["until"] for each in stored] == [NOW + 2 * DAY, NOW + 3 * DAY]


async def test_the_commands_restore_into_empty_servers(
    database: Callable[[], Database], redis_url: str, tmp_path: Path
) -> None:
    source, target, archive = database(), database(), str(tmp_path / "archive")
    await filled(source)

    async def run(url: str, *arguments: str, ends: int = 0, redis_url: str = redis_url) -> str:
        name, *options = arguments
        child = program(name, tmp_path / "log", *options, mongodb_url=url, redis_url=redis_url)
        (tmp_path / "log").write_text("")
        await child.start()
        async with asyncio.timeout(60):
            code = await child.wait()
        text = (tmp_path / "log").read_text()
        assert code == ends, text
        return text

    said = await run(
        source.url, "export", "archive", archive, "--since", "2026-05-23", "--until", "2026-06-01"
    )
    assert "105 events of 3 days are written and 2 documents beside them" in said
    # What cannot be made anew now is told, with the command that does it.
    said = await run(target.url, "import", archive, ends=1, redis_url="redis://127.0.0.1:1/0")
    assert "events: 105 stored, 0 duplicates, 0 conflicts." in said
    assert "are not made anew of it. Left to do:\n    pisync rebuild\n" in said
    said = await run(target.url, "import", archive)
    assert "events: 0 stored, 105 duplicates, 0 conflicts." in said
    assert "documents beside them: 0 stored, 2 duplicates, 0 conflicts." in said
    assert "The projection is rebuilt from 105 events.\nLeft to do:\n  Rollups of 105 events" in said
    assert said.endswith("    pisync rebuild --check\n")
    since = datetime(2026, 5, 23, tzinfo=UTC)
    kept = [event for event in await source.stored("sync_events") if event["received_at"] >= since]
    assert await target.stored("sync_events") == kept


async def test_an_import_that_ends_early_says_what_came_of_it(
    database: Callable[[], Database], tmp_path: Path
) -> None:
    source, target, archive = database(), database(), tmp_path / "archive"
    await filled(source)
    await source.export(Directory(archive))
    max(archive.glob("events/*/events.parquet")).write_bytes(b"other")
    child = program("import", tmp_path / "log", str(archive), mongodb_url=target.url)
    await child.start()
    async with asyncio.timeout(60):
        assert await child.wait() == 1
    said = (tmp_path / "log").read_text()
    assert "events: 105 stored, 0 duplicates, 0 conflicts." in said
    assert "Left to do:\n    the same command once more" in said
