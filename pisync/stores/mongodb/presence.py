"""Presence in MongoDB: a document for each device, whose members are maximums, which the server joins.

Documents are compared member by member, in their order: `status` and `pending` are what they are ranked by.
"""

from collections.abc import Collection, Sequence

from pymongo import ASCENDING, IndexModel, UpdateOne

from pisync import limits
from pisync.domain.presence import Pending, Presence
from pisync.stores.mongodb.connection import Document, MongoConnection, map_driver_errors
from pisync.stores.mongodb.members import known


class MongoPresenceStore:
    """A `PresenceStore` in a MongoDB database; what was not heard of for long is deleted."""

    def __init__(self, connection: MongoConnection) -> None:
        self._presence = connection.database.get_collection("presence")

    async def prepare(self) -> None:
        """Create the index where it is absent."""
        expiry = IndexModel(
            [("heard_at", ASCENDING)], name="expiry", expireAfterSeconds=limits.PRESENCE_EXPIRY_S
        )
        with map_driver_errors():
            await self._presence.create_indexes([expiry])

    async def join(self, presences: Sequence[Presence]) -> None:
        """Join each with what is kept of its device, in one command."""
        if not presences:
            return
        updates = [
            UpdateOne({"_id": each.device_id}, {"$max": _members(each)}, upsert=True) for each in presences
        ]
        with map_driver_errors():
            await self._presence.bulk_write(updates, ordered=False)

    async def of(self, device_ids: Collection[str]) -> dict[str, Presence]:
        """What is known of these devices, in one round trip."""
        if not device_ids:
            return {}
        with map_driver_errors():
            found = self._presence.find({"_id": {"$in": list(device_ids)}})
            found = found.limit(len(device_ids)).batch_size(len(device_ids))
            return {document["_id"]: kept_presence(document) async for document in found}


def _members(presence: Presence) -> Document:
    began_at, is_offline, heard_at, is_told, firmware = presence.rank
    members: Document = {
        "heard_at": heard_at,
        "status": {
            "began_at": began_at,
            "is_offline": is_offline,
            "heard_at": heard_at,
            "is_told": is_told,
            "firmware": firmware,
        },
    }
    pending = presence.pending
    if pending is not None:
        members["pending"] = {
            "began_at": pending.began_at,
            "heard_at": pending.heard_at,
            "count": pending.count,
            "oldest": pending.oldest,
        }
    return members


def kept_presence(document: Document) -> Presence:
    """The presence of a document."""
    pending = document.get("pending")
    return Presence(
        device_id=document["_id"],
        pending=None if pending is None else Pending(**known(Pending, pending)),
        **known(Presence, document["status"]),
    )
