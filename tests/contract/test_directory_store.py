"""What every store of the directory does."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from pisync import limits
from pisync.clock import EPOCH
from pisync.domain import directory
from pisync.domain.directory import Entry, Kind
from pisync.stores.interfaces.directory import DirectoryQuery, DirectoryStore, EntryWrite, KeptEntry
from pisync.stores.memory.directory import MemoryDirectoryStore
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.directory import MongoDirectoryStore
from tests.support.directory import HARMFUL, entry

DEVICES, SITES = Kind.DEVICES, Kind.SITES
AT = datetime(2026, 6, 1, tzinfo=UTC)


@pytest_asyncio.fixture
async def store(event_store_url: str | None) -> AsyncIterator[DirectoryStore]:
    """An empty one."""
    if event_store_url is None:
        yield MemoryDirectoryStore()
        return
    connection = MongoConnection(event_store_url)
    store = MongoDirectoryStore(connection)
    await store.prepare()
    await store.prepare()
    yield store
    await connection.close()


def device(number: int = 1, **said: Any) -> Entry:
    return entry(DEVICES, f"PB-{number}", **said)


def write(one: Entry, version: int = 0, *, is_deleted: bool = False) -> EntryWrite:
    return EntryWrite(entry=one, version=version, is_deleted=is_deleted)


async def only(store: DirectoryStore, kind: Kind, identifier: str) -> KeptEntry:
    [kept] = (await store.get(kind, [identifier])).values()
    return kept


async def changed(store: DirectoryStore, kind: Kind, moment: datetime) -> list[str]:
    return [directory.entry_id(kept.entry) async for kept in store.changed_since(kind, moment)]


async def test_what_goes_in_comes_out_whatever_a_text_looks_like(store: DirectoryStore) -> None:
    full = [
        device(place, name=text, note=text, labels=[text.replace(";", "").strip() or "x"], habit_days=7)
        for place, text in enumerate([*HARMFUL, "$$ROOT", "a.b", "\u202e"])
    ]
    full += [device(900, muted_until="2026-05-08T12:00:00.123Z", retired=True, site="S-1"), device(901)]
    place = entry(
        SITES, "S-1", time_zone="Africa/Kampala", days_off=["sunday"], holidays=["2026-12-20/2027-01-05"]
    )
    assert await store.write(DEVICES, [write(one) for one in full], "a1") == set(
        map(directory.entry_id, full)
    )
    assert await store.write(SITES, [write(place)], "a2") == {"S-1"}
    kept = await store.get(DEVICES, [directory.entry_id(one) for one in full])
    assert [one.entry for one in kept.values()] == [
        kept[directory.entry_id(one.entry)].entry for one in kept.values()
    ]
    assert {directory.entry_id(one): one for one in full} == {name: one.entry for name, one in kept.items()}
    assert {(one.version, one.action_id, one.is_deleted) for one in kept.values()} == {(1, "a1", False)}
    assert (await only(store, SITES, "S-1")).entry == place
    assert await store.get(SITES, ["PB-1", "S-2"]) == {}
    assert await store.get(SITES, []) == {}


async def test_an_entry_is_written_in_place_of_the_version_that_was_read(store: DirectoryStore) -> None:
    assert await store.write(DEVICES, [], "a0") == set()
    assert await store.write(DEVICES, [write(device(name="a"))], "a1") == {"PB-1"}
    # Another one that found none, or an older version, changes nothing; the others of its batch are written.
    assert await store.write(DEVICES, [write(device(name="b")), write(device(2))], "a2") == {"PB-2"}
    assert await store.write(DEVICES, [write(device(name="c"), 1), write(device(2), 7)], "a3") == {"PB-1"}
    assert await store.write(DEVICES, [write(device(name="d"), 1)], "a4") == set()
    kept = await only(store, DEVICES, "PB-1")
    assert (kept.entry, kept.version, kept.action_id) == (device(name="c"), 2, "a3")
    assert (await only(store, DEVICES, "PB-2")).version == 1


async def test_of_many_who_change_a_version_at_once_one_does(store: DirectoryStore) -> None:
    async def one(number: int, version: int) -> bool:
        name = f"{version}.{number}"
        return bool(await store.write(DEVICES, [write(device(name=name), version)], f"a{name}"))

    for version in range(3):
        won = await asyncio.gather(*(one(number, version) for number in range(6)))
        assert won.count(True) == 1
        kept = await only(store, DEVICES, "PB-1")
        assert (kept.version, kept.action_id) == (version + 1, f"a{version}.{won.index(True)}")


async def test_pages_go_by_id_without_the_deleted(store: DirectoryStore) -> None:
    await store.write(
        SITES, [write(entry(SITES, name)) for name in ("b", "B", "a", "a-1", "0", "_")[:5]], "a1"
    )
    await store.write(SITES, [write(entry(SITES, "a"), 1, is_deleted=True)], "a2")
    found: list[str] = []
    while page := await store.page(DirectoryQuery(kind=SITES, limit=2, after=found[-1] if found else None)):
        assert len(page) <= 2
        found += [directory.entry_id(kept.entry) for kept in page]
    assert found == ["0", "B", "a-1", "b"]
    assert await store.page(DirectoryQuery(kind=DEVICES, limit=9)) == []


async def test_a_deleted_entry_is_told_and_comes_back_in_a_later_version(store: DirectoryStore) -> None:
    await store.write(SITES, [write(entry(SITES, "S-1", name="a"))], "a1")
    assert await store.write(SITES, [write(entry(SITES, "S-1", name="a"), 1, is_deleted=True)], "a2") == {
        "S-1"
    }
    kept = await only(store, SITES, "S-1")
    assert (kept.is_deleted, kept.version) == (True, 2)
    assert await changed(store, SITES, EPOCH) == ["S-1"]
    assert await store.write(SITES, [write(entry(SITES, "S-1"))], "a3") == set()
    assert await store.write(SITES, [write(entry(SITES, "S-1"), 2)], "a4") == {"S-1"}
    kept = await only(store, SITES, "S-1")
    assert (kept.is_deleted, kept.version, kept.entry) == (False, 3, entry(SITES, "S-1"))


async def test_what_changed_since_a_moment(store: DirectoryStore) -> None:
    for number in range(3):
        await store.write(DEVICES, [write(device(number))], "a1")
    moments = [(await only(store, DEVICES, f"PB-{number}")).changed_at for number in range(3)]
    assert moments == sorted(moments)
    assert all(moment.tzinfo is not None for moment in moments)
    assert set(await changed(store, DEVICES, EPOCH)) == {"PB-0", "PB-1", "PB-2"}
    assert "PB-2" in await changed(store, DEVICES, moments[2])
    assert await changed(store, DEVICES, moments[2] + timedelta(milliseconds=1)) == []

    # By its own clock a change comes last, once the clock has moved on.
    while (await only(store, DEVICES, "PB-0")).changed_at <= moments[2]:
        version = (await only(store, DEVICES, "PB-0")).version
        await store.write(DEVICES, [write(device(0, note=str(version)), version)], "a2")
    assert await changed(store, DEVICES, moments[2] + timedelta(milliseconds=1)) == ["PB-0"]
    assert (await changed(store, DEVICES, EPOCH))[-1] == "PB-0"
    assert await changed(store, SITES, EPOCH) == []


async def test_whether_a_device_names_a_site(store: DirectoryStore) -> None:
    await store.write(DEVICES, [write(device(1, site="S-1")), write(device(2))], "a1")
    assert await store.has_devices("S-1")
    assert not await store.has_devices("S-2")
    await store.write(DEVICES, [write(device(1), 1)], "a2")
    assert not await store.has_devices("S-1")


async def test_the_devices_of_a_site_come_by_their_ids_without_the_deleted(store: DirectoryStore) -> None:
    await store.write(DEVICES, [write(device(number, site="S-1")) for number in (3, 1, 4, 2)], "a1")
    await store.write(DEVICES, [write(device(5, site="S-2")), write(device(6))], "a2")
    await store.write(DEVICES, [write(device(2, site="S-1"), 1, is_deleted=True)], "a3")
    found = [directory.entry_id(kept.entry) for kept in await store.devices_of_site("S-1", 10)]
    assert found == ["PB-1", "PB-3", "PB-4"]
    assert len(await store.devices_of_site("S-1", 2)) == 2
    assert await store.devices_of_site("S-3", 2) == []


async def test_the_ids_of_devices_are_told_from_a_moment_on_with_those_that_were_deleted(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "KNOWN_DEVICES_AT_ONCE", 2)
    assert [some async for some in store.device_ids(None)] == []
    await store.write(DEVICES, [write(device(number)) for number in range(5)], "a")
    await store.write(SITES, [write(entry(SITES, "S-1"))], "a")
    every = [some async for some in store.device_ids(None)]
    assert sorted(each for some in every for each in some.ids) == [
        (f"PB-{number}", False) for number in range(5)
    ]
    assert [some.changed_at for some in every] == sorted(some.changed_at for some in every)
    since = every[-1].changed_at + timedelta(milliseconds=1)
    await asyncio.sleep(0.002)  # the store's clock tells milliseconds
    await store.write(DEVICES, [write(device(3), version=1, is_deleted=True)], "b")
    assert [some.ids async for some in store.device_ids(since)] == [[("PB-3", True)]]
