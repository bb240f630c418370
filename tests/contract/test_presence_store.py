"""What every store of presence does: join what is said, in any order, as the domain does."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta

import msgspec
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pisync.domain.directory import DirectoryDevice, Kind
from pisync.domain.presence import Presence, join
from pisync.stores.interfaces.device_notes import DeviceNotesReader
from pisync.stores.interfaces.directory import DirectoryStore, EntryWrite
from pisync.stores.interfaces.presence import PresenceStore
from pisync.stores.memory.device_notes import MemoryDeviceNotes
from pisync.stores.memory.directory import MemoryDirectoryStore
from pisync.stores.memory.presence import MemoryPresenceStore
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.device_notes import MongoDeviceNotes
from pisync.stores.mongodb.directory import MongoDirectoryStore
from pisync.stores.mongodb.presence import MongoPresenceStore
from tests.support.presence import presences
from tests.support.samples import NOW


@pytest_asyncio.fixture
async def store(event_store_url: str | None) -> AsyncIterator[PresenceStore]:
    if event_store_url is None:
        yield MemoryPresenceStore()
        return
    connection = MongoConnection(event_store_url)
    made = MongoPresenceStore(connection)
    await made.prepare()
    await made.prepare()
    yield made
    await connection.close()


numbers = iter(range(1_000_000))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(presences, min_size=1, max_size=12))
async def test_what_was_said_is_joined_as_the_domain_does(store: PresenceStore, said: list[Presence]) -> None:
    device_id = f"PB-{next(numbers)}"
    said = [msgspec.structs.replace(each, device_id=device_id) for each in said]
    expected = said[0]
    for each in said:
        expected = join(each, expected)
    await store.join(said[:5])
    for each in reversed(said[3:]):
        await store.join([each])
    assert await store.of([device_id, "unknown"]) == {device_id: expected}


async def test_it_is_read_together_with_the_entry_of_the_directory(
    event_store_url: str | None,
) -> None:
    said = Presence(device_id="PB-1", began_at=NOW, is_offline=False, heard_at=NOW, is_told=True)
    write = EntryWrite(entry=DirectoryDevice(device_id="PB-1", name="One", labels=("a",)), version=0)
    async with AsyncExitStack() as stack:
        presence: PresenceStore
        directory: DirectoryStore
        notes: DeviceNotesReader
        if event_store_url is None:
            presence, directory = memory = MemoryPresenceStore(), MemoryDirectoryStore()
            notes = MemoryDeviceNotes(memory[1], memory[0])
        else:
            connection = MongoConnection(event_store_url)
            stack.push_async_callback(connection.close)
            presence, directory = MongoPresenceStore(connection), MongoDirectoryStore(connection)
            notes = MongoDeviceNotes(connection)
        assert await notes.of("PB-1") == (None, None)
        await presence.join([said, msgspec.structs.replace(said, device_id="PB-2")])
        assert await notes.of("PB-1") == (None, said)
        await directory.write(Kind.DEVICES, [write], "0")
        [kept] = (await directory.get(Kind.DEVICES, ["PB-1"])).values()
        assert kept.entry == write.entry
        assert await notes.of("PB-1") == (kept, said)
        assert (await notes.of("PB-2")).entry is None


async def test_of_many_each_has_its_own(store: PresenceStore) -> None:
    said = [
        Presence(
            device_id=f"PB-{number}",
            began_at=NOW,
            is_offline=bool(number % 2),
            heard_at=NOW + timedelta(minutes=number),
            is_told=True,
        )
        for number in range(10)
    ]
    await store.join(said)
    await store.join([])
    assert await store.of([f"PB-{number}" for number in range(5)]) == {
        each.device_id: each for each in said[:5]
    }
    assert await store.of([]) == {}
