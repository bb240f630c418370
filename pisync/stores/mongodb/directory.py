"""The directory in MongoDB: a document for each entry, replaced where its version is still what was read."""

from collections.abc import AsyncIterator, Collection, Sequence
from datetime import UTC, datetime
from typing import Final, cast

import msgspec
from bson import CodecOptions, decode_all
from pymongo import ASCENDING, IndexModel, UpdateOne
from pymongo.errors import BulkWriteError

from pisync import limits
from pisync.domain.directory import ENTRIES, Entry, Kind, entry_id
from pisync.stores.interfaces.directory import ChangedIds, DirectoryQuery, EntryWrite, KeptEntry
from pisync.stores.mongodb.connection import DUPLICATE_KEY, Document, MongoConnection, map_driver_errors

_PLAIN: Final[CodecOptions[Document]] = CodecOptions()
_BESIDE: Final = ("version", "changed_at", "action_id", "is_deleted")


class MongoDirectoryStore:
    """A `DirectoryStore` in a MongoDB database."""

    def __init__(self, connection: MongoConnection) -> None:
        self._entries = {kind: connection.database.get_collection(f"directory_{kind.value}") for kind in Kind}

    async def prepare(self) -> None:
        """Create the indexes where they are absent."""
        with map_driver_errors():
            for entries in self._entries.values():
                await entries.create_indexes([IndexModel([("changed_at", ASCENDING)], name="changed_at")])
            await self._entries[Kind.DEVICES].create_indexes([IndexModel([("site", ASCENDING)], name="site")])

    async def get(self, kind: Kind, identifiers: Collection[str]) -> dict[str, KeptEntry]:
        """Those of these entries that there are, deleted ones included, by id."""
        with map_driver_errors():
            found = self._entries[kind].find({"_id": {"$in": list(identifiers)}})
            # In one round trip: without the limit the driver would ask whether there are more.
            found = found.limit(len(identifiers)).batch_size(len(identifiers))
            return {document["_id"]: kept_entry(kind, document) async for document in found}

    async def page(self, query: DirectoryQuery) -> list[KeptEntry]:
        """A page of entries."""
        matching: Document = {"is_deleted": False}
        if query.after is not None:
            matching["_id"] = {"$gt": query.after}
        with map_driver_errors():
            found = self._entries[query.kind].find(matching).sort("_id", ASCENDING).limit(query.limit)
            return [kept_entry(query.kind, document) async for document in found]

    async def write(self, kind: Kind, writes: Sequence[EntryWrite], action_id: str) -> set[str]:
        """Write each entry whose version is still the one that was read, in one command."""
        written = {entry_id(write.entry) for write in writes}
        if not writes:
            return written
        updates = [_update(write, action_id) for write in writes]
        with map_driver_errors():
            try:
                result = await self._entries[kind].bulk_write(updates, ordered=False)
                if result.matched_count + result.upserted_count == len(writes):
                    return written
            except BulkWriteError as error:
                faults = error.details["writeErrors"]
                if error.details["writeConcernErrors"] or any(
                    fault["code"] != DUPLICATE_KEY for fault in faults
                ):
                    raise
            # Others changed some meanwhile; what was written is told by the version and our action.
            found = self._entries[kind].find({"_id": {"$in": list(written)}}, {"version": 1, "action_id": 1})
            present = {each["_id"]: (each["version"], each["action_id"]) async for each in found}
        return {
            entry_id(write.entry)
            for write in writes
            if present.get(entry_id(write.entry)) == (write.version + 1, action_id)
        }

    async def has_devices(self, site_id: str) -> bool:
        """Whether any device names the site."""
        with map_driver_errors():
            return await self._entries[Kind.DEVICES].find_one({"site": site_id}, {"_id": 1}) is not None

    async def devices_of_site(self, site_id: str, limit: int) -> list[KeptEntry]:
        """The devices that name the site, by their ids."""
        with map_driver_errors():
            found = self._entries[Kind.DEVICES].find({"site": site_id, "is_deleted": False})
            return [
                kept_entry(Kind.DEVICES, each) async for each in found.sort("_id", ASCENDING).limit(limit)
            ]

    async def changed_since(self, kind: Kind, moment: datetime) -> AsyncIterator[KeptEntry]:
        """All entries that changed at this moment or later, oldest first."""
        with map_driver_errors():
            changed = self._entries[kind].find({"changed_at": {"$gte": moment}})
            async for document in changed.sort("changed_at", ASCENDING):
                yield kept_entry(kind, document)

    async def device_ids(self, since: datetime | None) -> AsyncIterator[ChangedIds]:
        """The ids of devices that changed at this moment or later, as MongoDB sends them."""
        chosen: Document = {} if since is None else {"changed_at": {"$gte": since}}
        with map_driver_errors():
            # There may be a million, and the driver takes five times as long to give them one by one.
            found = self._entries[Kind.DEVICES].find_raw_batches(
                chosen,
                {"is_deleted": 1, "changed_at": 1},
                sort=[("changed_at", ASCENDING)],
                batch_size=limits.KNOWN_DEVICES_AT_ONCE,
            )
            async for reply in found:
                some = decode_all(cast("bytes", reply), _PLAIN)
                last: datetime = some[-1]["changed_at"]
                ids = [(each["_id"], each["is_deleted"]) for each in some]
                yield ChangedIds(ids, last.replace(tzinfo=UTC))


def _update(write: EntryWrite, action_id: str) -> UpdateOne:
    """The entry in place of the version that was read.

    It is a pipeline for the sake of MongoDB's clock, and so a literal: a text may begin as a field's path
    does.
    """
    members = {name: getattr(write.entry, name) for name in write.entry.__struct_fields__[1:]}
    document = {
        "_id": entry_id(write.entry),
        **members,
        "version": write.version + 1,
        "action_id": action_id,
        "is_deleted": write.is_deleted,
    }
    return UpdateOne(
        # Of an entry that is there after all, no document matches, and its insert is a duplicate.
        {"_id": document["_id"], "version": write.version or {"$exists": False}},
        [{"$replaceWith": {"$mergeObjects": [{"$literal": document}, {"changed_at": "$$NOW"}]}}],
        upsert=not write.version,
    )


def kept_entry(kind: Kind, document: Document) -> KeptEntry:
    """The entry of a document."""
    members = {name: value for name, value in document.items() if name not in _BESIDE}
    members[kind.id_member] = members.pop("_id")
    entry: Entry = msgspec.convert(members, ENTRIES[kind])
    return KeptEntry(
        entry=entry,
        version=document["version"],
        changed_at=document["changed_at"],
        action_id=document["action_id"],
        is_deleted=document["is_deleted"],
    )
