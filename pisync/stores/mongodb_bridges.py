"""The bridges that there are, in MongoDB: which ids have stored events, and which process has each now."""

from datetime import datetime

from pymongo import ReturnDocument

from pisync.stores.mongodb import MongoConnection, mapped


class MongoBridgeRegistry:
    """A `BridgeRegistry` in a MongoDB database."""

    def __init__(self, connection: MongoConnection) -> None:
        self._bridges = connection.database.get_collection("bridges")

    async def claim(self, bridge_id: str, instance: str, now: datetime) -> bool:
        """Speak for a bridge from now on; returns whether there was such a bridge before."""
        with mapped():
            before = await self._bridges.find_one_and_update(
                {"_id": bridge_id},
                {"$set": {"instance": instance, "claimed_at": now}, "$setOnInsert": {"since": now}},
                upsert=True,
                return_document=ReturnDocument.BEFORE,
            )
        return before is not None

    async def holder(self, bridge_id: str) -> str | None:
        """The instance that claimed the bridge last."""
        with mapped():
            found = await self._bridges.find_one({"_id": bridge_id})
        return None if found is None else str(found["instance"])

    async def forget(self, bridge_id: str) -> None:
        """Retire a bridge."""
        with mapped():
            await self._bridges.delete_one({"_id": bridge_id})
