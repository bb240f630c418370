"""The bases of devices in MongoDB: the state that a device's deleted events came to.

`device_bases`, `_id: {bucket, device_id}`. A state is merged into what is stored where that is still what was
read, so that nobody undoes what another one merged. `received_at` is when a deleted event was received, or
something was added to one, the newest of these.
"""

from collections.abc import AsyncGenerator, Collection, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
from pymongo import ASCENDING, IndexModel, UpdateOne
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import BulkWriteError

from pisync import limits
from pisync.clock import EPOCH, from_ms, to_ms
from pisync.domain.device_state import DeviceState
from pisync.domain.identity import bucket_of
from pisync.stores.mongodb.connection import DUPLICATE_KEY, Document

COLLECTION: Final = "device_bases"
_pack: Final = msgspec.msgpack.Encoder().encode
unpack: Final = msgspec.msgpack.Decoder(DeviceState).decode


class Bases:
    """The collection; errors are the driver's."""

    def __init__(self, database: AsyncDatabase[Document]) -> None:
        self._bases = database.get_collection(COLLECTION)

    async def prepare(self) -> None:
        """Create the index by which a catch-up finds that it needs none of them."""
        await self._bases.create_indexes([IndexModel([("received_at", ASCENDING)], name="received_at")])

    async def of(self, device_ids: Collection[str]) -> dict[str, DeviceState]:
        """The bases of those of the devices that have one."""
        return {device_id: unpack(state) for device_id, state in (await self._packed(device_ids)).items()}

    async def all(self, since: datetime | None, bucket: int | None) -> AsyncGenerator[dict[str, DeviceState]]:
        """Those of one bucket, or of all, some at a time; `since`: with a receipt then or later."""
        asked: Document = {}
        if bucket is not None:
            asked["_id"] = {"$gte": {"bucket": bucket}, "$lt": {"bucket": bucket + 1}}
        if since is not None:
            asked["received_at"] = {"$gte": since}
        found: dict[str, DeviceState] = {}
        async for base in self._bases.find(asked, {"state": 1}).batch_size(limits.BASES_AT_ONCE):
            found[base["_id"]["device_id"]] = unpack(base["state"])
            if len(found) == limits.REPLAY_MERGED_AT_ONCE:
                yield found
                found = {}
        if found:
            yield found

    async def keep(self, states: Mapping[str, DeviceState], enriched_at: datetime | None) -> None:
        """Merge the states into what is stored, until all of it is in there."""
        while writes := self._writes(states, await self._packed(states), enriched_at):
            try:
                done = await self._bases.bulk_write(writes, ordered=False)
            except BulkWriteError as error:
                if any(fault["code"] != DUPLICATE_KEY for fault in error.details["writeErrors"]):
                    raise
            else:
                if done.matched_count + done.upserted_count == len(writes):
                    return

    def _writes(
        self, states: Mapping[str, DeviceState], stored: Mapping[str, bytes], enriched_at: datetime | None
    ) -> list[UpdateOne]:
        writes = []
        enriched_ms = 0 if enriched_at is None else to_ms(enriched_at.replace(tzinfo=EPOCH.tzinfo))
        for device_id, state in states.items():
            there = stored.get(device_id)
            merged = state if there is None else unpack(there).merge(state)
            if (packed := _pack(merged)) != there:
                received = from_ms(max(merged.received_ms or 0, enriched_ms))
                changes = {"$set": {"state": packed}, "$max": {"received_at": received}}
                asked = {"_id": _id(device_id), "state": there}
                writes.append(UpdateOne(asked, changes, upsert=there is None))
        return writes

    async def _packed(self, device_ids: Collection[str]) -> dict[str, bytes]:
        asked = {"_id": {"$in": [_id(device_id) for device_id in device_ids]}}
        found = self._bases.find(asked, {"state": 1}).batch_size(len(device_ids) + 1)
        return {base["_id"]["device_id"]: base["state"] async for base in found}


def its_base(device_id: str) -> list[Document]:
    """The stages that find one device's base in the collection, with its `state`."""
    return [{"$match": {"_id": _id(device_id)}}, {"$project": {"_id": 0, "state": 1}}]


def _id(device_id: str) -> dict[str, Any]:
    return {"bucket": bucket_of(device_id), "device_id": device_id}
