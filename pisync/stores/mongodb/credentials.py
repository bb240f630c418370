"""Devices' credentials in MongoDB: a document each, replaced where its version is what was read."""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta

from pymongo import ASCENDING, IndexModel, UpdateOne
from pymongo.errors import BulkWriteError

from pisync import limits
from pisync.domain.credentials import (
    Credential,
    CredentialCounts,
    DeviceCredentials,
    Kind,
    Source,
    Standing,
)
from pisync.stores.interfaces.credentials import CredentialsQuery, CredentialsWrite, KeptCredentials
from pisync.stores.mongodb.connection import DUPLICATE_KEY, Document, MongoConnection, map_driver_errors
from pisync.stores.mongodb.members import known

_UNTIL = "valid_until"


class MongoCredentialStore:
    """A `CredentialStore` in a MongoDB database.

    `valid_until` is kept beside the credentials that it follows from, for its index; null: all are revoked.
    """

    def __init__(self, connection: MongoConnection) -> None:
        self._kept = connection.database.get_collection("device_credentials")

    async def prepare(self) -> None:
        """Create the indexes where they are absent."""
        with map_driver_errors():
            await self._kept.create_indexes(
                [
                    IndexModel([("changed_at", ASCENDING)], name="changed_at"),
                    IndexModel([(_UNTIL, ASCENDING), ("_id", ASCENDING)], name=_UNTIL),
                ]
            )

    async def get(self, device_ids: Collection[str]) -> dict[str, KeptCredentials]:
        """Those of these devices that ever had a credential."""
        if not device_ids:
            return {}
        with map_driver_errors():
            found = self._kept.find({"_id": {"$in": list(device_ids)}})
            found = found.limit(len(device_ids)).batch_size(len(device_ids))
            return {document["_id"]: _kept(document) async for document in found}

    async def page(self, query: CredentialsQuery) -> list[KeptCredentials]:
        """A page of devices."""
        matching: Document = {}
        if query.after is not None:
            matching["_id"] = {"$gt": query.after}
        if query.standing is not None:
            matching[_UNTIL] = _range(query.standing, query.now)
        if query.until is not None:
            ending = {_UNTIL: {"$gt": query.now, "$lt": query.until}}
            matching = {"$and": [matching, ending]} if matching else ending
        with map_driver_errors():
            found = self._kept.find(matching).sort("_id", ASCENDING).limit(query.limit)
            return [_kept(document) async for document in found.batch_size(query.limit)]

    async def write(self, writes: Sequence[CredentialsWrite]) -> set[str]:
        """Write those whose version is still the one that was read, in one command."""
        written: set[str] = set()
        if not writes:
            return written
        with map_driver_errors():
            try:
                result = await self._kept.bulk_write([_update(write) for write in writes], ordered=False)
                refused = len(writes) - result.matched_count - result.upserted_count
            except BulkWriteError as error:
                faults = error.details["writeErrors"]
                if error.details["writeConcernErrors"] or any(
                    fault["code"] != DUPLICATE_KEY for fault in faults
                ):
                    raise
                refused = len(writes)
            if not refused:
                return {write.entry.device_id for write in writes}
            # Others changed some meanwhile: what is there now tells whose write it was.
            found = self._kept.find({"_id": {"$in": [write.entry.device_id for write in writes]}})
            present = {document["_id"]: _kept(document) async for document in found}
        for write in writes:
            kept = present.get(write.entry.device_id)
            if kept is not None and (kept.entry, kept.version) == (write.entry, write.version + 1):
                written.add(write.entry.device_id)
        return written

    async def counts(self, now: datetime) -> CredentialCounts:
        """How many devices there are of each standing, by the index alone."""
        with map_driver_errors():
            return CredentialCounts(
                active=await self._kept.count_documents({_UNTIL: {"$gt": now}}),
                expired=await self._kept.count_documents({_UNTIL: {"$lte": now}}),
                revoked=await self._kept.count_documents({_UNTIL: None}),
                expiring={
                    days: await self._kept.count_documents(
                        {_UNTIL: {"$gt": now, "$lt": now + timedelta(days=days)}}
                    )
                    for days in limits.EXPIRY_WARNED_DAYS
                },
            )

    async def changed_since(self, moment: datetime) -> AsyncIterator[KeptCredentials]:
        """All that changed at this moment or later, oldest first."""
        with map_driver_errors():
            changed = self._kept.find({"changed_at": {"$gte": moment}})
            async for document in changed.sort("changed_at", ASCENDING):
                yield _kept(document)


def _range(standing: Standing, now: datetime) -> Document | None:
    """What `valid_until` is of those."""
    if standing is Standing.REVOKED:
        return None
    return {"$gt" if standing is Standing.ACTIVE else "$lte": now}


def _update(write: CredentialsWrite) -> UpdateOne:
    """The credentials in place of the version that was read; a pipeline for the sake of MongoDB's clock."""
    document = {
        "_id": write.entry.device_id,
        "credentials": [
            asdict(each) | {"kind": each.kind.value, "source": each.source.value}
            for each in write.entry.credentials
        ],
        _UNTIL: write.entry.valid_until,
        "version": write.version + 1,
    }
    return UpdateOne(
        # Of one that is there after all, no document matches, and its insert is a duplicate.
        {"_id": document["_id"], "version": write.version or {"$exists": False}},
        [{"$replaceWith": {"$mergeObjects": [{"$literal": document}, {"changed_at": "$$NOW"}]}}],
        upsert=not write.version,
    )


def _kept(document: Document) -> KeptCredentials:
    return KeptCredentials(
        entry=DeviceCredentials(
            device_id=document["_id"],
            credentials=tuple(
                Credential(
                    **known(Credential, each) | {"kind": Kind(each["kind"]), "source": Source(each["source"])}
                )
                for each in document["credentials"]
            ),
        ),
        version=document["version"],
        changed_at=document["changed_at"],
    )
