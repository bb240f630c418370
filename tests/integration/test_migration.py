"""Versions of what MongoDB holds: who refuses what, and a migration that may be killed anywhere."""

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from pymongo.errors import BulkWriteError
from pymongo.write_concern import WriteConcern

from local_stack import ports
from local_stack.process import running
from local_stack.servers import MongodbServer
from pisync import clock, limits
from pisync.domain.events import SyncEvent, add_content
from pisync.errors import ConfigurationError, PiSyncError
from pisync.stores.interfaces.events import HistoryQuery, InsertOutcome
from pisync.stores.mongodb import migration, schema
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.events import MongoEventStore
from tests.support.programs import program, truth
from tests.support.replays import replayed
from tests.support.samples import NOW, event
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("bucket_watch")

Database = Any
EVENTS: Final = 30_000


def old_document(event: SyncEvent) -> dict[str, Any]:
    """The event as version 1 kept it."""
    key = {"device_id": event.device_id, "timestamp": event.timestamp}
    return add_content(event, {"_id": key, "received_at": NOW, "enriched_at": NOW})


def fleet(count: int) -> list[SyncEvent]:
    return [event(f"PB-{at % 300}", -1000 * (at // 300), errors=int(at % 7 == 0)) for at in range(count)]


async def fill(database: Database, events: Sequence[SyncEvent]) -> None:
    """Store them as version 1 did, with one of its indexes."""
    await database.sync_events.insert_many([old_document(one) for one in events])
    await database.sync_events.create_index("_id.device_id", name="failures_by_device")


async def migrated(mongodb_url: str) -> int:
    connection = MongoConnection(mongodb_url)
    try:
        return await migration.migrate(connection, lambda done, of: None)
    finally:
        await connection.close()


async def has_exactly(mongodb_url: str, events: Sequence[SyncEvent]) -> None:
    """All of them, each once, and found where they are looked for."""
    async with truth(mongodb_url) as seen:
        assert await seen.events() == len(events)
        assert await seen.database.sync_events.count_documents({"_id.day": {"$exists": False}}) == 0
        (some,) = await seen.database.sync_events.find().limit(1).to_list()
        assert (some["received_at"], some["enriched_at"]) == (NOW, NOW)
    store = MongoEventStore.connect(mongodb_url)
    try:
        await store.prepare()
        assert await store.insert(events, NOW) == [InsertOutcome.DUPLICATE] * len(events)
        mine = sorted((one for one in events if one.device_id == "PB-3"), key=lambda one: one.timestamp)
        page = await store.history(HistoryQuery(device_id="PB-3", limit=1000))
        assert [entry.event for entry in page] == mine[::-1]
        failures = sum(1 for one in mine if one.total_errors)
        assert await store.count_failures("PB-3", [None]) == [failures]
    finally:
        await store.close()


async def test_events_of_version_1_are_moved_and_nothing_twice(mongodb_url: str) -> None:
    events = fleet(3_000)
    async with truth(mongodb_url) as seen:
        await fill(seen.database, events)
        assert await migrated(mongodb_url) == len(events)
        assert await migrated(mongodb_url) == 0
        assert "failures_by_device" not in await seen.database.sync_events.index_information()
    await has_exactly(mongodb_url, events)


@pytest.mark.parametrize("newer", [0, 1])
async def test_what_an_older_bridge_stored_since_is_replayed(mongodb_url: str, newer: int) -> None:
    """A projection of this version exists then, or of a newer one, and has all before its watermark."""
    store = MongoEventStore.connect(mongodb_url)
    try:
        async with truth(mongodb_url) as seen:
            await fill(seen.database, fleet(30))
            assert await migrated(mongodb_url) == 30
            assert await replayed(store, clock.now() - timedelta(minutes=5)) == []
            await seen.database.schema.update_one({}, {"$inc": {"version": newer}})
            late = fleet(40)[30:]
            await fill(seen.database, late)
            assert await migrated(mongodb_url) == len(late)
        entries = await replayed(store, clock.now() - timedelta(minutes=5))
        assert {entry.event.timestamp for entry in entries} == {one.timestamp for one in late}
    finally:
        await store.close()


async def test_a_migration_is_killed_and_goes_on(tmp_path: Path) -> None:
    """The command, between its writes, and MongoDB."""
    events = fleet(EVENTS)
    async with running(MongodbServer(tmp_path / "mongodb")) as mongodb:
        url = mongodb.database_url("pisync")
        async with truth(url) as seen:
            await fill(seen.database, events)

            async def moved() -> int:
                count: int = await seen.database.sync_events.count_documents({"_id.day": {"$gt": 0}})
                return count

            for part in (1, 2):
                at_least = part * EVENTS // 4

                async def is_under_way(at_least: int = at_least) -> bool:
                    return await moved() > at_least

                async with running(program("migrate", tmp_path / f"{part}.log", mongodb_url=url)) as command:
                    await until(is_under_way)
                    await (command if part == 1 else mongodb).kill()
                    if part == 2:
                        assert await command.wait() == 1
                if part == 2:
                    await mongodb.start()
                assert 0 < await moved() < EVENTS  # what MongoDB had not promised may be gone
                await refused(url, "pisync migrate")
        # And where every document of a batch was copied, and none deleted.
        connection = MongoConnection(url)
        try:
            documents = connection.database.sync_events
            batch = await migration._next(documents, None)
            assert len(batch) == limits.MIGRATION_BATCH_EVENTS
            copies = [one | {"_id": migration._present_key(one["_id"])} for one in batch]
            with suppress(BulkWriteError):  # some are there from the run that was killed
                await documents.insert_many(copies, ordered=False)
        finally:
            await connection.close()
        assert 0 < await migrated(url) < EVENTS * 3 // 4
        await has_exactly(url, events)


async def refused(mongodb_url: str, said: str) -> None:
    """A program of this version does not work with what is stored."""
    store = MongoEventStore.connect(mongodb_url)
    try:
        for ask in (store.prepare, store.check_version):
            with pytest.raises(ConfigurationError, match=said):
                await ask()
    finally:
        await store.close()


@pytest.mark.parametrize("version", ["2", 0, 1.5, True, [2]])
async def test_what_is_no_version_is_not_called_a_newer_one(mongodb_url: str, version: object) -> None:
    async with truth(mongodb_url) as seen:
        await seen.database.schema.insert_one({"_id": "sync_events", "version": version})
        await refused(mongodb_url, "no version that a program writes")
        # An older shell writes numbers as floating-point ones.
        await seen.database.schema.update_one({}, {"$set": {"version": schema.VERSION + 1.0}})
        await refused(mongodb_url, "update it")


async def test_a_program_works_beside_a_newer_one_until_that_needs_more(
    mongodb_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expand, then contract: the older one is refused only once `oldest` was raised, and lowers nothing."""
    store = MongoEventStore.connect(mongodb_url)
    before, older = schema.VERSION, fleet(20)
    try:
        await store.prepare()
        with monkeypatch.context() as newer:
            newer.setattr(schema, "VERSION", before + 1)
            await store.prepare()
            await store.insert(older[:10], NOW)
        await store.prepare()
        await store.check_version()
        assert await store.insert(older, NOW) == [InsertOutcome.DUPLICATE] * 10 + [InsertOutcome.STORED] * 10
        async with truth(mongodb_url) as seen:
            [written] = await seen.database.schema.find().to_list()
            assert (written["version"], written["oldest"]) == (before + 1, schema.OLDEST)
        with monkeypatch.context() as newest:
            newest.setattr(schema, "VERSION", before + 2)
            newest.setattr(schema, "OLDEST", before + 1)
            await store.prepare()
        for ask in (store.prepare, store.check_version):
            with pytest.raises(ConfigurationError, match=f"version {before + 2}, .* update it"):
                await ask()
    finally:
        await store.close()


@pytest.mark.parametrize("oldest", ["1", None, True])
async def test_what_is_no_oldest_version_lets_nobody_in(mongodb_url: str, oldest: object) -> None:
    async with truth(mongodb_url) as seen:
        newer = {"_id": "sync_events", "version": schema.VERSION + 1, "oldest": oldest}
        await seen.database.schema.insert_one(newer)
        await refused(mongodb_url, "update it")


async def test_programs_refuse_what_they_do_not_know(mongodb_url: str, tmp_path: Path) -> None:
    """78, and what to do: those of a newer program, and of an older one."""
    port = ports.any_free()
    commands: dict[str, tuple[str, ...]] = {
        "bridge": (),
        "api": (),
        "rebuild": (),
        "bridges": ("forget", "bridge-7"),
        "migrate": (),
    }
    async with truth(mongodb_url) as seen:
        for said, is_newer in (("update it", True), ("pisync migrate", False)):
            await seen.database.schema.drop()
            if is_newer:
                await seen.database.schema.insert_one({"_id": "sync_events", "version": schema.VERSION + 1})
            else:
                await fill(seen.database, fleet(10))
            # One of them for the other version: all ask the same.
            for name, options in commands.items() if is_newer else [("bridge", ())]:
                own = {"http_port": port} if name == "api" else {}
                log = tmp_path / f"{name}-{said}.log"
                async with running(program(name, log, *options, mongodb_url=mongodb_url, **own)) as child:
                    assert await child.wait() == 78
                assert said in log.read_text()
        assert await seen.database.sync_events.count_documents({"_id.day": {"$exists": False}}) == 10
        assert "failures_by_day" not in await seen.database.sync_events.index_information()


async def test_the_api_waits_for_mongodb_to_say_its_version(tmp_path: Path) -> None:
    """It is up meanwhile, and ends where the version is none of its."""
    mongodb, port = MongodbServer(tmp_path / "mongodb"), ports.any_free()
    url = mongodb.database_url("pisync")
    async with running(mongodb):
        async with truth(url) as seen:
            versions = seen.database.schema.with_options(write_concern=WriteConcern(w="majority", j=True))
            await versions.insert_one({"_id": "sync_events", "version": schema.VERSION + 1})
        await mongodb.kill()
        async with running(program("api", tmp_path / "api.log", mongodb_url=url, http_port=port)) as api:

            async def is_up() -> bool:
                return await ports.first_line(port, b"GET /livez HTTP/1.0\r\n\r\n", timeout_s=1) is not None

            await until(is_up)
            assert api.running
            await mongodb.start()
            assert await api.wait() == 78


async def test_no_migration_while_bridges_run(mongodb_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MIGRATION_LOOK_S", 2)
    async with truth(mongodb_url) as seen:
        await fill(seen.database, fleet(10))
        await seen.database.bridge_floors.insert_one({"_id": "bridge-0", "floor": NOW})

        async def raise_floor() -> None:
            for second in itertools.count():
                floor = {"$set": {"floor": NOW + timedelta(seconds=second)}}
                await seen.database.bridge_floors.update_one({"_id": "bridge-0"}, floor)

        bridge = asyncio.create_task(raise_floor())
        try:
            with pytest.raises(PiSyncError, match="stop all of them"):
                await migrated(mongodb_url)
        finally:
            bridge.cancel()
            with suppress(asyncio.CancelledError):
                await bridge
        assert await seen.database.sync_events.count_documents({"_id.day": {"$exists": False}}) == 10
    assert await migrated(mongodb_url) == 10
    await has_exactly(mongodb_url, fleet(10))


async def test_an_event_that_came_again_under_the_new_key(mongodb_url: str) -> None:
    """From a bridge of the older version that ran beside a new one: what differs is not thrown away."""
    async with truth(mongodb_url) as seen:
        store = MongoEventStore.connect(mongodb_url)
        await store.prepare()
        await store.insert([event("PB-1", 0), event("PB-1", 1)], NOW)
        await fill(seen.database, [event("PB-1", 0), event("PB-1", 1, errors=1)])
        await refused(mongodb_url, "pisync migrate")
        with pytest.raises(PiSyncError, match="other content"):
            await migrated(mongodb_url)
        assert await seen.events() == 4
        key = old_document(event("PB-1", 1))["_id"]
        await seen.database.sync_events.delete_one({"_id": key})
        assert await migrated(mongodb_url) == 1
        await store.prepare()
        assert await seen.events() == 2
        await store.close()
