"""Counts the events in MongoDB by when they were received, in MongoDB itself: few groups are sent here."""

from collections.abc import Collection
from typing import Any, Final

from pymongo import ASCENDING, DESCENDING

from pisync import limits
from pisync.clock import from_ms, to_ms
from pisync.domain.events import Outcome
from pisync.domain.identity import bucket_of
from pisync.domain.rollups import MINUTE_MS, Alike, Span, Unit, figures_of
from pisync.stores.interfaces.rollups import Counted
from pisync.stores.mongodb.connection import Document, MongoConnection, map_driver_errors
from pisync.stores.mongodb.reading import FIRST_CODE, key


def _place(value: Any, bounds: tuple[float, ...]) -> Document:
    """The place of the first bound that a value does not exceed."""
    branches = [{"case": {"$lte": [value, bound]}, "then": place} for place, bound in enumerate(bounds)]
    return {"$switch": {"branches": branches, "default": len(bounds)}}


_MINUTE: Final = {"$dateTrunc": {"date": "$received_at", "unit": "minute"}}
_SUCCESS: Final = {"$eq": ["$total_errors", 0]}
_PARTIAL_OR_FAILED: Final = {
    "$cond": [{"$gt": ["$total_files_synced", 0]}, Outcome.PARTIAL.value, Outcome.FAILED.value]
}
# Of 50,000 events some hundreds of groups are left.
_ALIKE: Final = {
    "outcome": {"$cond": [_SUCCESS, Outcome.SUCCESS.value, _PARTIAL_OR_FAILED]},
    "device_type": "$device_type",
    "lateness": _place({"$subtract": ["$received_at", "$_id.timestamp"]}, limits.LATENESS_MS),
    "speed": _place("$internet_speed", limits.SPEEDS_MBIT),
    "code": {"$cond": [_SUCCESS, "", FIRST_CODE]},
}
_SUMS: Final = {"events": {"$sum": 1}, "files": {"$sum": "$total_files_synced"}}
_OUTCOMES: Final = {outcome.value: outcome for outcome in Outcome}


class MongoReceivedEvents:
    """`ReceivedEvents` of a MongoDB database."""

    def __init__(self, connection: MongoConnection) -> None:
        self._events = connection.database.get_collection("sync_events")

    async def counted(self, span: Span) -> Counted:
        """The figures of the first events of a span."""
        with map_driver_errors():
            span = await self._first(span)
            first_ms = Unit.MINUTE.floor(span.start_ms)
            # Of a drain it is one minute, and telling minutes apart costs an eighth.
            minute = {} if span.end_ms <= first_ms + MINUTE_MS else {"minute": _MINUTE}
            groups = await self._events.aggregate(
                [
                    {"$match": _within("received_at", span)},
                    {"$group": {"_id": {**_ALIKE, **minute}, **_SUMS}},
                ],
                hint="received_at",
            )
            parts: dict[int, list[Alike]] = {}
            async for group in groups:
                key = group["_id"]
                alike = Alike(
                    group["events"],
                    int(group["files"]),
                    _OUTCOMES[key["outcome"]],
                    key.get("device_type"),
                    key["lateness"],
                    key["speed"],
                    key["code"],
                )
                parts.setdefault(to_ms(key["minute"]) if minute else first_ms, []).append(alike)
        return Counted(span=span, minutes={start: figures_of(same) for start, same in parts.items()})

    async def _first(self, span: Span) -> Span:
        """The span up to where it has more events than are counted at once; a millisecond, at least."""
        beyond = (
            self._events.find(_within("received_at", span), {"_id": 0, "received_at": 1})
            .sort("received_at", ASCENDING)
            .hint("received_at")
            .skip(limits.ROLLUP_EVENTS_AT_ONCE)
            .limit(1)
        )
        async for found in beyond:
            return Span(span.start_ms, max(to_ms(found["received_at"]), span.start_ms + 1))
        return span

    async def count(self, span: Span) -> int:
        """How many events were received in a span."""
        with map_driver_errors():
            return await self._events.count_documents(_within("received_at", span), hint="received_at")

    async def newest_before(self, moment_ms: int) -> int | None:
        """When the newest event before a moment was received."""
        with map_driver_errors():
            found = await self._events.find_one(
                {"received_at": {"$lt": from_ms(moment_ms)}},
                {"_id": 0, "received_at": 1},
                sort=[("received_at", DESCENDING)],
                hint="received_at",
            )
        return None if found is None else to_ms(found["received_at"])

    async def enriched_minutes(self, span: Span) -> list[int]:
        """The minutes of those to which something was added."""
        stages: list[Document] = [{"$match": _within("enriched_at", span)}, {"$group": {"_id": _MINUTE}}]
        with map_driver_errors():
            found = await self._events.aggregate(stages, hint="enriched_at")
            return sorted([to_ms(group["_id"]) async for group in found])

    async def received_then(self, device_ids: Collection[str], moment_ms: int) -> dict[str, int]:
        """The newest event of each device that was received then: of one batch of a bridge, or of few."""
        matching: Document = {
            "received_at": from_ms(moment_ms),
            "_id.bucket": {"$in": sorted({bucket_of(device_id) for device_id in device_ids})},
            "_id.device_id": {"$in": list(device_ids)},
        }
        found: dict[str, int] = {}
        with map_driver_errors():
            async for document in self._events.find(matching, {"_id": 1}, hint="received_at"):
                device_id, timestamp_ms = key(document)
                found[device_id] = max(timestamp_ms, found.get(device_id, timestamp_ms))
        return found


def _within(name: str, span: Span) -> Document:
    return {name: {"$gte": from_ms(span.start_ms), "$lt": from_ms(span.end_ms)}}
