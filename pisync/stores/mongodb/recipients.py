"""Recipients in MongoDB, with the last attempts of each, which no change of an operator touches."""

from datetime import datetime
from typing import Final

import msgspec
from pymongo import ASCENDING
from pymongo.errors import DuplicateKeyError

from pisync import limits
from pisync.domain.recipients import Attempt, KeptRecipient, Recipient
from pisync.stores.mongodb.connection import Document, MongoConnection, map_driver_errors
from pisync.stores.mongodb.members import known

_ID: Final = "recipient_id"


class MongoRecipientStore:
    """A `RecipientStore` in a MongoDB database."""

    def __init__(self, connection: MongoConnection) -> None:
        self._recipients = connection.database.get_collection("recipients")

    async def all(self) -> list[KeptRecipient]:
        """Every recipient, by id."""
        with map_driver_errors():
            found = self._recipients.find().sort("_id", ASCENDING)
            return [_kept(document) async for document in found]

    async def get(self, recipient_id: str) -> KeptRecipient | None:
        """One recipient."""
        with map_driver_errors():
            found = await self._recipients.find_one({"_id": recipient_id})
        return None if found is None else _kept(found)

    async def write(self, recipient: Recipient, version: int, now: datetime) -> bool:
        """Keep a recipient where it is in this version."""
        members: Document = msgspec.to_builtins(recipient)
        del members[_ID]
        change = {"$set": {"members": members, "version": version + 1, "changed_at": now}}
        # Another version stands in the way of the insert, so that it fails for its id.
        matching = {"_id": recipient.recipient_id, "version": version}
        with map_driver_errors():
            try:
                result = await self._recipients.update_one(matching, change, upsert=version == 0)
            except DuplicateKeyError:
                return False
        return bool(result.matched_count or result.upserted_id)

    async def delete(self, recipient_id: str, version: int) -> bool:
        """Delete a recipient where it is in this version."""
        with map_driver_errors():
            result = await self._recipients.delete_one({"_id": recipient_id, "version": version})
        return bool(result.deleted_count)

    async def attempted(self, recipient_id: str, attempt: Attempt) -> None:
        """Keep what became of a message."""
        kept = {"at": attempt.at, "message_id": attempt.message_id, "why": attempt.why}
        failed = attempt.why is not None
        change = {
            "attempts": {
                "$slice": [
                    {"$concatArrays": [{"$ifNull": ["$attempts", []]}, [{"$literal": kept}]]},
                    -limits.RECIPIENT_ATTEMPTS_KEPT,
                ]
            },
            "failures": {"$add": [{"$ifNull": ["$failures", 0]}, 1]} if failed else 0,
            "failing_since": {"$ifNull": ["$failing_since", attempt.at]} if failed else None,
        }
        with map_driver_errors():
            await self._recipients.update_one({"_id": recipient_id}, [{"$set": change}])


def _kept(document: Document) -> KeptRecipient:
    return KeptRecipient(
        recipient=msgspec.convert({_ID: document["_id"], **document["members"]}, Recipient),
        version=document["version"],
        changed_at=document["changed_at"],
        attempts=tuple(Attempt(**known(Attempt, each)) for each in document.get("attempts") or ()),
        failures=document.get("failures") or 0,
        failing_since=document.get("failing_since"),
    )
