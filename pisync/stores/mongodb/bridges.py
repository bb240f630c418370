"""The bridges that there are, in MongoDB: which may have stored events, and which process has each now."""

from datetime import datetime

from pymongo import ReturnDocument

from pisync.clock import EPOCH
from pisync.stores.interfaces.bridges import BridgeRecord, Claim
from pisync.stores.mongodb.connection import MongoConnection, map_driver_errors, server_time


class MongoBridgeRegistry:
    """A `BridgeRegistry` in a MongoDB database."""

    def __init__(self, connection: MongoConnection) -> None:
        self._database = connection.database
        self._bridges = connection.database.get_collection("bridges")
        # Apart, because a floor outlives its bridge.
        self._floors = connection.database.get_collection("bridge_floors")

    async def claim(self, bridge_id: str, instance: str, now: datetime) -> Claim:
        """Speak for a bridge from now on."""
        with map_driver_errors():
            # From here on an instance that had the bridge before, and still runs, cannot raise the floor.
            kept = await self._floors.find_one_and_update(
                {"_id": bridge_id},
                {
                    "$set": {"instance": instance},
                    "$max": {"floor": now},
                    "$unset": {"has_stopped": True},
                },
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
            before = await self._bridges.find_one_and_update(
                {"_id": bridge_id},
                {"$set": {"instance": instance, "claimed_at": now}, "$setOnInsert": {"since": now}},
                upsert=True,
                return_document=ReturnDocument.BEFORE,
            )
        return Claim(known_before=before is not None, floor=(kept or {})["floor"], instance=instance)

    async def raise_floor(
        self, bridge_id: str, instance: str, floor: datetime, stored_until: datetime
    ) -> bool:
        """Have no later life give an earlier time of receipt, unless another instance has the bridge."""
        with map_driver_errors():
            raised = await self._floors.update_one(
                {"_id": bridge_id, "instance": instance},
                {"$max": {"floor": floor, "stored_until": stored_until}},
            )
        return raised.matched_count == 1

    async def stop(self, bridge_id: str, instance: str) -> None:
        """Say that this instance stores nothing more."""
        with map_driver_errors():
            await self._floors.update_one(
                {"_id": bridge_id, "instance": instance}, {"$set": {"has_stopped": True}}
            )

    async def stored_until(self) -> dict[str, datetime]:
        """Before when nothing more of a bridge will be stored."""
        # The bridges first: one that is forgotten in between is still waited for, and none is overlooked.
        known = await self.bridges()
        with map_driver_errors():
            floors = {kept["_id"]: kept async for kept in self._floors.find()}
        kept = [(bridge_id, floors.get(bridge_id, {"floor": EPOCH})) for bridge_id in known]
        return {
            bridge_id: floor.get("stored_until") or floor["floor"]
            for bridge_id, floor in kept
            if not floor.get("has_stopped")
        }

    async def bridges(self) -> list[str]:
        """All bridges that may have stored events."""
        with map_driver_errors():
            return [found["_id"] async for found in self._bridges.find({}, {"_id": 1})]

    async def instances(self) -> dict[str, str]:
        """The same bridges, each with the instance that claimed it last."""
        with map_driver_errors():
            found = self._bridges.find({}, {"instance": 1})
            return {bridge["_id"]: str(bridge.get("instance", "")) async for bridge in found}

    async def records(self) -> list[BridgeRecord]:
        """The same bridges, with all that is known of them here, by their ids."""
        with map_driver_errors():
            return [
                BridgeRecord(
                    bridge_id=found["_id"],
                    instance=str(found.get("instance", "")),
                    claimed_at=found["claimed_at"],
                )
                async for found in self._bridges.find({}).sort("_id")
            ]

    async def holder(self, bridge_id: str) -> str | None:
        """The instance that claimed the bridge last."""
        with map_driver_errors():
            found = await self._bridges.find_one({"_id": bridge_id})
        return None if found is None else str(found["instance"])

    async def server_time(self) -> datetime:
        """What the clock of the primary says now."""
        with map_driver_errors():
            return await server_time(self._database)

    async def forget(self, bridge_id: str) -> None:
        """Retire a bridge; only its floor is kept."""
        with map_driver_errors():
            await self._bridges.delete_one({"_id": bridge_id})
