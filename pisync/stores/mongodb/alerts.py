"""Alerts in MongoDB: what operators are told, and what was told already."""

import secrets
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import BulkWriteError

from pisync.domain.alerts import Alert, CloseReason, Rule, new_alert_id
from pisync.stores.interfaces.alerts import AlertQuery
from pisync.stores.mongodb.connection import DUPLICATE_KEY, Document, MongoConnection, map_driver_errors


class MongoAlertStore:
    """An `AlertStore` in a MongoDB database.

    A unique partial index allows one open alert for a device and a rule. `_id` is the alert's id, which
    sorts by when it was opened.
    """

    def __init__(self, connection: MongoConnection) -> None:
        self._alerts = connection.database.get_collection("alerts")

    async def prepare(self) -> None:
        """Create the indexes where they are absent."""
        with map_driver_errors():
            await self._alerts.create_indexes(
                [
                    IndexModel(
                        [("device_id", ASCENDING), ("rule", ASCENDING)],
                        name="one_open_of_rule",
                        unique=True,
                        partialFilterExpression={"is_open": True},
                    ),
                    IndexModel([("device_id", ASCENDING), ("_id", DESCENDING)], name="device"),
                    IndexModel([("is_open", ASCENDING), ("_id", DESCENDING)], name="state"),
                    IndexModel(
                        [("rule", ASCENDING), ("is_open", ASCENDING), ("_id", DESCENDING)], name="rule"
                    ),
                    IndexModel(
                        [("published", ASCENDING), ("_id", ASCENDING)],
                        name="unpublished",
                        partialFilterExpression={"published": False},
                    ),
                ]
            )

    async def open(self, rule: Rule, streaks: Mapping[str, int], now: datetime) -> set[str]:
        """Open alerts, in one write; returns the devices that had none open."""
        documents = [
            {
                "_id": new_alert_id(now, secrets.token_hex(8)),
                "device_id": device_id,
                "rule": rule.value,
                "streak": streak,
                "opened_at": now,
                "closed_at": None,
                "is_open": True,
                "published": False,
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
                opened -= {str(documents[fault["index"]]["device_id"]) for fault in faults}
        return opened

    async def resolve(
        self,
        rule: Rule,
        device_ids: Collection[str],
        now: datetime,
        reason: CloseReason = CloseReason.RECOVERED,
    ) -> set[str]:
        """Close open alerts, in one write; returns the devices that had one."""
        if not device_ids:
            return set()
        with map_driver_errors():
            matching = {"device_id": {"$in": list(device_ids)}, "rule": rule.value, "is_open": True}
            open_ones = self._alerts.find(matching, {"device_id": 1}).batch_size(len(device_ids) + 1)
            found = {alert["_id"]: alert["device_id"] async for alert in open_ones}
            closed = {"is_open": False, "closed_at": now, "close_reason": reason.value, "published": False}
            result = await self._alerts.update_many(
                {"_id": {"$in": list(found)}, "is_open": True}, {"$set": closed}
            )
            if result.modified_count not in {0, len(found)}:
                # Another bridge was at it, too. Should both have chosen the same millisecond, both say so.
                ours = self._alerts.find({"_id": {"$in": list(found)}, "closed_at": now}, {"device_id": 1})
                return {alert["device_id"] async for alert in ours}
        return set(found.values()) if result.modified_count else set()

    async def open_devices(self, rule: Rule) -> list[str]:
        """The devices with an open alert of the rule."""
        with map_driver_errors():
            matching = {"rule": rule.value, "is_open": True}
            return [found["device_id"] async for found in self._alerts.find(matching, {"device_id": 1})]

    async def count_open(self) -> dict[Rule, int]:
        """How many alerts of each rule are open; the index `rule` knows it."""
        with map_driver_errors():
            return {
                rule: await self._alerts.count_documents({"rule": rule.value, "is_open": True})
                for rule in Rule
            }

    async def find(self, query: AlertQuery) -> list[Alert]:
        """A page of alerts, newest first."""
        matching: Document = {}
        if query.is_open is not None:
            matching["is_open"] = query.is_open
        if query.rule is not None:
            matching["rule"] = query.rule.value
        if query.device_id is not None:
            matching["device_id"] = query.device_id
        of_ids: Document = {}
        if query.alert_ids is not None:
            of_ids["$in"] = list(query.alert_ids)
        if query.before is not None:
            of_ids["$lt"] = query.before
        if of_ids:
            matching["_id"] = of_ids
        with map_driver_errors():
            cursor = self._alerts.find(matching).sort("_id", DESCENDING).limit(query.limit)
            cursor = cursor.batch_size(query.limit)  # in one round trip
            return [_alert(found) async for found in cursor]

    async def open_alerts(self, device_ids: Collection[str]) -> dict[tuple[str, Rule], Alert]:
        """The open alerts of these devices, by device and rule."""
        with map_driver_errors():
            found = self._alerts.find({"device_id": {"$in": list(device_ids)}, "is_open": True})
            alerts = [_alert(document) async for document in found]
        return {(alert.device_id, alert.rule): alert for alert in alerts}

    async def unpublished(self, limit: int) -> list[Alert]:
        """Alerts whose present state was not published yet, oldest first."""
        with map_driver_errors():
            cursor = self._alerts.find({"published": False}).sort("_id", ASCENDING).limit(limit)
            return [_alert(found) async for found in cursor]

    async def publish_again(self, closed_since: datetime) -> None:
        """Count open alerts, and those closed since then, as not published."""
        with map_driver_errors():
            for matching in ({"is_open": True}, {"is_open": False, "closed_at": {"$gte": closed_since}}):
                await self._alerts.update_many(matching, {"$set": {"published": False}})

    async def published(self, alerts: Sequence[Alert]) -> bool:
        """Record that this state of each alert was published; returns whether each of them still has it."""
        matched = 0
        with map_driver_errors():
            for is_open in (True, False):
                ids = [alert.alert_id for alert in alerts if (alert.closed_at is None) is is_open]
                if ids:
                    result = await self._alerts.update_many(
                        {"_id": {"$in": ids}, "is_open": is_open}, {"$set": {"published": True}}
                    )
                    matched += result.matched_count
        return matched == len(alerts)


def _alert(document: dict[str, Any]) -> Alert:
    reason = document.get("close_reason")
    return Alert(
        alert_id=document["_id"],
        device_id=document["device_id"],
        rule=Rule(document["rule"]),
        streak=document["streak"],
        opened_at=document["opened_at"],
        closed_at=document["closed_at"],
        close_reason=None if reason is None else CloseReason(reason),
    )
