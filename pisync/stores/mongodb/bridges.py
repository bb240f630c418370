"""The bridges that there are, in MongoDB: which may have stored events, and which process has each now."""

from datetime import UTC, datetime

from pymongo import ReturnDocument

from pisync.stores.interfaces.bridges import Claim
from pisync.stores.mongodb.connection import MongoConnection, map_driver_errors


class MongoBridgeRegistry:
    """A `BridgeRegistry` in a MongoDB database."""

    def __init__(self, connection: MongoConnection) -> None:
        self._database = connection.database
        self._bridges = connection.database.get_collection("bridges")

    async def claim(self, bridge_id: str, instance: str, now: datetime) -> Claim:
        """Speak for a bridge from now on."""
        with map_driver_errors():
            before = await self._bridges.find_one_and_update(
                {"_id": bridge_id},
                {
                    "$set": {"instance": instance, "claimed_at": now},
                    "$setOnInsert": {"since": now},
                    "$min": {"replay_from": now},
                },
                upsert=True,
                return_document=ReturnDocument.BEFORE,
            )
        earlier = (before or {}).get("replay_from", now)
        return Claim(known_before=before is not None, replay_from=min(now, earlier))

    async def bridges(self) -> list[str]:
        """All bridges that may have stored events."""
        with map_driver_errors():
            return [found["_id"] async for found in self._bridges.find({}, {"_id": 1})]

    async def caught_up(self, bridge_id: str) -> None:
        """Record that the projection has a watermark of this life of the bridge."""
        with map_driver_errors():
            await self._bridges.update_one({"_id": bridge_id}, {"$unset": {"replay_from": ""}})

    async def holder(self, bridge_id: str) -> str | None:
        """The instance that claimed the bridge last."""
        with map_driver_errors():
            found = await self._bridges.find_one({"_id": bridge_id})
        return None if found is None else str(found["instance"])

    async def server_time(self) -> datetime:
        """What the clock of the primary says now."""
        with map_driver_errors():
            hello = await self._database.command("hello")
        moment: datetime = hello["localTime"]  # a command is decoded without the client's options: no zone
        return moment.replace(tzinfo=UTC)

    async def forget(self, bridge_id: str) -> None:
        """Retire a bridge."""
        with map_driver_errors():
            await self._bridges.delete_one({"_id": bridge_id})
