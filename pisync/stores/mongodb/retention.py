"""Retention of events in MongoDB: reads what is old by its index, and deletes what was read."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from bson.codec_options import CodecOptions
from pymongo import ASCENDING, DeleteMany
from pymongo.asynchronous.collection import AsyncCollection

from pisync import limits
from pisync.clock import EPOCH, from_ms, to_ms
from pisync.domain.accumulator import StoredEvents
from pisync.domain.device_state import DeviceState
from pisync.stores.interfaces.retention import RetentionProgress
from pisync.stores.mongodb import replaying
from pisync.stores.mongodb.bases import Bases
from pisync.stores.mongodb.connection import Document, MongoConnection, map_driver_errors

# The document of `retention`.
_ONLY: Final = "sync_events"
# What may be added to an event, by its name in one that was read, and how it is still absent in a stored one.
_ABSENT: Final[dict[str, Document]] = {
    "device_type": {"device_type": None},
    "sync_duration_ms": {"sync_duration_ms": None},
    "code": {"errors": {"$in": [None, []]}},
}


class MongoRetentionStore:
    """A `RetentionStore` of a MongoDB database."""

    def __init__(self, connection: MongoConnection) -> None:
        events = connection.database.get_collection("sync_events")
        # As a replay reads them: times in UTC without a zone.
        self._events: AsyncCollection[Document] = events.with_options(CodecOptions(tz_aware=False))
        self._bases = Bases(connection.database)
        self._progress = connection.database.get_collection("retention")

    async def oldest_ms(self) -> int | None:
        """When the oldest event was received; one key of the index."""
        with map_driver_errors():
            found = self._events.find({}, {"_id": 0, "received_at": 1}, hint="received_at")
            oldest = await found.sort("received_at", ASCENDING).limit(1).to_list()
        return _ms(oldest[0]["received_at"]) if oldest else None

    async def old(self, before_ms: int) -> StoredEvents:
        """The oldest events, in the order of their receipt, in which they lie on disk, too."""
        asked = {"received_at": {"$lt": from_ms(before_ms)}}
        with map_driver_errors():
            found = self._events.find(asked, replaying.PROJECTION, hint="received_at")
            found = found.sort("received_at", ASCENDING).limit(limits.RETENTION_EVENTS_AT_ONCE)
            documents = await found.batch_size(limits.RETENTION_EVENTS_AT_ONCE).to_list()
        return StoredEvents(documents=replaying.with_codes(documents))

    async def keep(self, states: Mapping[str, DeviceState], enriched_at: datetime | None = None) -> None:
        """Merge states into the bases of their devices."""
        with map_driver_errors():
            await self._bases.keep(states, enriched_at)

    async def delete(self, batch: StoredEvents) -> int:
        """Delete exactly what was read, as it was: nothing but what is absent can be added to an event."""
        same: defaultdict[tuple[str, ...], list[Any]] = defaultdict(list)
        for document in batch.documents:
            same[tuple(name for name in _ABSENT if document.get(name) is None)].append(document["_id"])
        # One that came again is received later than all that was old.
        newest = max(document["received_at"] for document in batch.documents)
        writes: list[Any] = []
        for names, ids in same.items():
            asked: Document = {"_id": {"$in": ids}, "received_at": {"$lte": newest}}
            for name in names:
                asked |= _ABSENT[name]
            writes.append(DeleteMany(asked, hint="_id_"))
        with map_driver_errors():
            return (await self._events.bulk_write(writes, ordered=False)).deleted_count

    async def progress(self) -> RetentionProgress | None:
        """What was written down last."""
        with map_driver_errors():
            found = await self._progress.find_one({"_id": _ONLY})
        if found is None:
            return None
        oldest = found["oldest"]
        return RetentionProgress(
            days=found["days"],
            before_ms=to_ms(found["before"]),
            oldest_ms=None if oldest is None else to_ms(oldest),
            waits_for=found["waits_for"],
            at_ms=to_ms(found["at"]),
            doubted_ms=None if found["doubted_since"] is None else to_ms(found["doubted_since"]),
        )

    async def save(self, progress: RetentionProgress) -> None:
        """Write down how far it is; what was once deleted stays deleted."""
        oldest_ms = progress.oldest_ms
        changes = {
            "days": progress.days,
            "oldest": None if oldest_ms is None else from_ms(oldest_ms),
            "waits_for": progress.waits_for,
            "at": from_ms(progress.at_ms),
            "doubted_since": None if progress.doubted_ms is None else from_ms(progress.doubted_ms),
        }
        before = {"before": from_ms(progress.before_ms)}
        with map_driver_errors():
            await self._progress.update_one({"_id": _ONLY}, {"$set": changes, "$max": before}, upsert=True)


def _ms(moment: datetime) -> int:
    return to_ms(moment.replace(tzinfo=EPOCH.tzinfo))
