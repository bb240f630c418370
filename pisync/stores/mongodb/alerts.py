"""Alerts in MongoDB: what operators are told, and what was told already."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from bson import ObjectId
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import BulkWriteError

from pisync.domain.alerts import Alert
from pisync.stores.interfaces.alerts import AlertQuery
from pisync.stores.mongodb.connection import DUPLICATE_KEY, Document, MongoConnection, map_driver_errors


class MongoAlertStore:
    """An `AlertStore` in a MongoDB database; a unique partial index allows one open alert for a device."""

    def __init__(self, connection: MongoConnection) -> None:
        self._alerts = connection.database.get_collection("alerts")

    async def prepare(self) -> None:
        """Create the indexes where they are absent."""
        with map_driver_errors():
            await self._alerts.create_indexes(
                [
                    IndexModel(
                        [("device_id", ASCENDING)],
                        name="one_open",
                        unique=True,
                        partialFilterExpression={"is_open": True},
                    ),
                    IndexModel([("device_id", ASCENDING), ("_id", DESCENDING)], name="device"),
                    IndexModel([("is_open", ASCENDING), ("_id", DESCENDING)], name="state"),
                    IndexModel(
                        [("announced", ASCENDING)],
                        name="unannounced",
                        partialFilterExpression={"announced": False},
                    ),
                ]
            )

    async def open(self, streaks: Mapping[str, int], now: datetime) -> set[str]:
        """Open alerts, in one write; returns the devices that had none open."""
        documents = [
            {
                "device_id": device_id,
                "streak": streak,
                "opened_at": now,
                "closed_at": None,
                "is_open": True,
                "announced": False,
            }
            for device_id, streak in streaks.items()
        ]
        opened = set(streaks)
        if not documents:
            return opened
        with map_driver_errors():
            try:
                await self._alerts.insert_many(documents, ordered=False)
            except BulkWriteError as error:
                faults = (error.details or {}).get("writeErrors", [])
                if not faults or any(fault["code"] != DUPLICATE_KEY for fault in faults):
                    raise
                opened -= {documents[fault["index"]]["device_id"] for fault in faults}
        return opened

    async def resolve(self, device_ids: Collection[str], now: datetime) -> set[str]:
        """Close open alerts, in one write; returns the devices that had one."""
        if not device_ids:
            return set()
        with map_driver_errors():
            matching = {"device_id": {"$in": list(device_ids)}, "is_open": True}
            open_ones = self._alerts.find(matching, {"device_id": 1}).batch_size(len(device_ids) + 1)
            found = {alert["_id"]: alert["device_id"] async for alert in open_ones}
            result = await self._alerts.update_many(
                {"_id": {"$in": list(found)}, "is_open": True},
                {"$set": {"is_open": False, "closed_at": now, "announced": False}},
            )
            if result.modified_count not in {0, len(found)}:
                # Another bridge was at it, too. Should both have chosen the same millisecond, both say so.
                ours = self._alerts.find({"_id": {"$in": list(found)}, "closed_at": now}, {"device_id": 1})
                return {alert["device_id"] async for alert in ours}
        return set(found.values()) if result.modified_count else set()

    async def open_devices(self) -> list[str]:
        """The devices with an open alert."""
        with map_driver_errors():
            return [
                found["device_id"] async for found in self._alerts.find({"is_open": True}, {"device_id": 1})
            ]

    async def find(self, query: AlertQuery) -> list[Alert]:
        """A page of alerts, newest first."""
        matching: Document = {}
        if query.is_open is not None:
            matching["is_open"] = query.is_open
        if query.device_id is not None:
            matching["device_id"] = query.device_id
        if query.before is not None:
            matching["_id"] = {"$lt": ObjectId(query.before)}
        with map_driver_errors():
            cursor = self._alerts.find(matching).sort("_id", DESCENDING).limit(query.limit)
            return [_alert(found) async for found in cursor]

    async def open_alerts(self, device_ids: Collection[str]) -> dict[str, Alert]:
        """The open alert of each of these devices that has one."""
        with map_driver_errors():
            found = self._alerts.find({"device_id": {"$in": list(device_ids)}, "is_open": True})
            return {alert["device_id"]: _alert(alert) async for alert in found}

    async def unannounced(self, limit: int) -> list[Alert]:
        """Alerts whose present state was not published yet."""
        with map_driver_errors():
            return [_alert(found) async for found in self._alerts.find({"announced": False}).limit(limit)]

    async def announce_again(self, closed_since: datetime) -> None:
        """Count open alerts, and those closed since then, as not published."""
        with map_driver_errors():
            for matching in ({"is_open": True}, {"is_open": False, "closed_at": {"$gte": closed_since}}):
                await self._alerts.update_many(matching, {"$set": {"announced": False}})

    async def announced(self, alerts: Sequence[Alert]) -> None:
        """Record that this state of each alert was published."""
        with map_driver_errors():
            for is_open in (True, False):
                ids = [ObjectId(alert.alert_id) for alert in alerts if (alert.closed_at is None) is is_open]
                if ids:
                    await self._alerts.update_many(
                        {"_id": {"$in": ids}, "is_open": is_open}, {"$set": {"announced": True}}
                    )


def _alert(document: dict[str, Any]) -> Alert:
    return Alert(
        alert_id=str(document["_id"]),
        device_id=document["device_id"],
        streak=document["streak"],
        opened_at=document["opened_at"],
        closed_at=document["closed_at"],
    )
