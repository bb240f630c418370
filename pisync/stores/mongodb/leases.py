"""Leases in MongoDB: a document a duty, and the server's clock decides in one command."""

from typing import Any

from pymongo import ASCENDING, ReturnDocument
from pymongo.errors import DuplicateKeyError

from pisync.clock import EPOCH
from pisync.stores.interfaces.leases import Lease
from pisync.stores.mongodb.connection import Document, MongoConnection, map_driver_errors


class MongoLeaseStore:
    """A `LeaseStore` in a MongoDB database."""

    def __init__(self, connection: MongoConnection) -> None:
        self._leases = connection.database.get_collection("leases")

    async def take(self, duty: str, holder: str, ttl_s: float) -> int | None:
        """Have the duty, unless another holder has it."""
        has_ended: Document = {"$lte": [{"$ifNull": ["$until", EPOCH]}, "$$NOW"]}
        free = {"$or": [has_ended, {"$eq": ["$holder", {"$literal": holder}]}]}
        term = {"$add": [{"$ifNull": ["$term", 0]}, {"$cond": [has_ended, 1, 0]}]}
        end = {"$add": ["$$NOW", round(ttl_s * 1000)]}
        change = {
            "holder": {"$cond": [free, {"$literal": holder}, "$holder"]},
            "until": {"$cond": [free, end, "$until"]},
            "term": {"$cond": [free, term, "$term"]},
        }
        with map_driver_errors():
            try:
                found: Any = await self._leases.find_one_and_update(
                    {"_id": duty}, [{"$set": change}], upsert=True, return_document=ReturnDocument.AFTER
                )
            except DuplicateKeyError:  # another one was the first to take it
                return None
        return int(found["term"]) if found["holder"] == holder else None

    async def release(self, duty: str, holder: str) -> None:
        """Let others take the duty at once."""
        with map_driver_errors():
            await self._leases.update_one({"_id": duty, "holder": holder}, [{"$set": {"until": "$$NOW"}}])

    async def leases(self) -> list[Lease]:
        """Of each duty that was ever taken."""
        wanted = {"holder": 1, "until": 1, "is_held": {"$gt": ["$until", "$$NOW"]}}
        with map_driver_errors():
            return [
                Lease(found["_id"], found["holder"], found["until"], found["is_held"])
                async for found in self._leases.find({}, wanted).sort("_id", ASCENDING)
            ]
