"""Alerts in MongoDB: what operators are told, and what was told already."""

from datetime import datetime
from typing import Any

from bson import ObjectId
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import DuplicateKeyError

from pisync.stores.interfaces import Alert, AlertQuery
from pisync.stores.mongodb import Document, MongoConnection, mapped


class MongoAlertStore:
    """An `AlertStore` in a MongoDB database; a unique partial index allows one open alert for a device."""

    def __init__(self, connection: MongoConnection) -> None:
        self._alerts = connection.database.get_collection("alerts")

    async def prepare(self) -> None:
        """Create the indexes where they are absent."""
        with mapped():
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

    async def open(self, device_id: str, streak: int, now: datetime) -> bool:
        """Open an alert; False where one is open."""
        with mapped():
            try:
                await self._alerts.insert_one(
                    {
                        "device_id": device_id,
                        "streak": streak,
                        "opened_at": now,
                        "closed_at": None,
                        "is_open": True,
                        "announced": False,
                    }
                )
            except DuplicateKeyError:
                return False
        return True

    async def resolve(self, device_id: str, now: datetime) -> bool:
        """Close the open alert; False where none is open."""
        with mapped():
            result = await self._alerts.update_one(
                {"device_id": device_id, "is_open": True},
                {"$set": {"is_open": False, "closed_at": now, "announced": False}},
            )
        return result.modified_count == 1

    async def open_devices(self) -> list[str]:
        """The devices with an open alert."""
        with mapped():
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
        with mapped():
            cursor = self._alerts.find(matching).sort("_id", DESCENDING).limit(query.limit)
            return [_alert(found) async for found in cursor]

    async def unannounced(self, limit: int) -> list[Alert]:
        """Alerts whose present state was not published yet."""
        with mapped():
            return [_alert(found) async for found in self._alerts.find({"announced": False}).limit(limit)]

    async def announce_again(self, closed_since: datetime) -> None:
        """Count open alerts, and those closed since then, as not published."""
        with mapped():
            for matching in ({"is_open": True}, {"is_open": False, "closed_at": {"$gte": closed_since}}):
                await self._alerts.update_many(matching, {"$set": {"announced": False}})

    async def announced(self, alert: Alert) -> None:
        """Record that this state of the alert was published."""
        with mapped():
            await self._alerts.update_one(
                {"_id": ObjectId(alert.alert_id), "is_open": alert.closed_at is None},
                {"$set": {"announced": True}},
            )


def _alert(document: dict[str, Any]) -> Alert:
    return Alert(
        alert_id=str(document["_id"]),
        device_id=document["device_id"],
        streak=document["streak"],
        opened_at=document["opened_at"],
        closed_at=document["closed_at"],
    )
