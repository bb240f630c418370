"""Events in MongoDB: the truth.

`_id: {device_id, timestamp}` is an event's identity, so that an insert is its own duplicate check and a
device's history is one range of the `_id` index. Every write waits for the majority and its journal.
"""

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, Final, Self

from bson.codec_options import CodecOptions
from bson.errors import InvalidDocument
from bson.max_key import MaxKey
from bson.min_key import MinKey
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.cursor import AsyncCursor
from pymongo.errors import (
    DocumentTooLarge,
    OperationFailure,
)

from pisync import limits
from pisync.clock import rfc3339_of_utc, to_ms
from pisync.domain.events import SyncEvent, add_content, from_content, rows
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.events import (
    FailureCounts,
    HistoryEntry,
    HistoryQuery,
    InsertOutcome,
    OutcomeFilter,
    ReplayPosition,
)
from pisync.stores.mongodb.connection import (
    AUTHENTICATION_FAILED,
    DUPLICATE_KEY,
    REFUSALS,
    UNAUTHORIZED,
    Document,
    MongoConnection,
    map_driver_errors,
    not_permitted,
)

_OUTCOMES: Final[dict[OutcomeFilter, Document]] = {
    OutcomeFilter.SUCCESS: {"total_errors": 0},
    OutcomeFilter.PARTIAL: {"total_errors": {"$gt": 0}, "total_files_synced": {"$gt": 0}},
    OutcomeFilter.FAILED: {"total_errors": {"$gt": 0}, "total_files_synced": 0},
    OutcomeFilter.FAILURE: {"total_errors": {"$gt": 0}},
}


class MongoEventStore:
    """An `EventStore` in a MongoDB database."""

    def __init__(self, connection: MongoConnection) -> None:
        self._connection = connection
        self._events = connection.database.get_collection("sync_events")
        # Datetimes without a zone: the driver makes them without calling into Python.
        self._without_zone: AsyncCollection[Document] = self._events.with_options(
            CodecOptions(tz_aware=False)
        )

    @classmethod
    def connect(cls, url: str) -> Self:
        """A store with a connection of its own.

        Raises:
            ConfigurationError: the connection string cannot be understood.
        """
        return cls(MongoConnection(url))

    async def prepare(self) -> None:
        """Create the indexes where they are absent.

        Raises:
            ConfigurationError: MongoDB does not accept our credentials or lacks permissions for them.
        """
        with map_driver_errors():
            try:
                await self._events.create_indexes(
                    [
                        IndexModel([("received_at", ASCENDING)], name="received_at"),
                        IndexModel(
                            [("_id.device_id", ASCENDING), ("_id.timestamp", ASCENDING)],
                            name="failures",
                            partialFilterExpression={"total_errors": {"$gt": 0}},
                        ),
                    ]
                )
            except OperationFailure as error:
                if error.code in {AUTHENTICATION_FAILED, UNAUTHORIZED}:
                    raise not_permitted(error) from None
                raise

    async def ping(self) -> None:
        """Return when MongoDB answers."""
        with map_driver_errors():
            await self._connection.client.admin.command("ping")

    async def insert(self, events: Sequence[SyncEvent], received_at: datetime) -> list[InsertOutcome]:
        """Keep the events; returns what became of each, in order, once all are durable."""
        if not events:
            return []
        received = received_at.replace(tzinfo=None)  # the encoder asks an aware one for its offset every time
        with map_driver_errors():
            return await self._insert(documents(events, received))

    async def _insert(self, documents: list[Document]) -> list[InsertOutcome]:
        # The command itself: the driver's insert_many looks at each document again, which took as long as
        # encoding it. The callers of `insert` repeat it anyway, which is what the driver's retry would do.
        command = {
            "insert": self._events.name,
            "ordered": False,
            "writeConcern": self._events.write_concern.document,
            "documents": documents,
        }
        try:
            reply = await self._connection.database.command(command)
        except (InvalidDocument, DocumentTooLarge, OverflowError):
            # The driver names no culprit: halve until it stands alone.
            if len(documents) == 1:
                return [InsertOutcome.REFUSED]
            middle = len(documents) // 2
            return await self._insert(documents[:middle]) + await self._insert(documents[middle:])
        if "writeConcernError" in reply:
            raise MongodbUnavailable(f"{reply['writeConcernError']}")
        outcomes = [InsertOutcome.STORED] * len(documents)
        suspects = []
        for fault in reply.get("writeErrors", ()):
            if fault["code"] == DUPLICATE_KEY:
                suspects.append(fault["index"])
            elif fault["code"] in REFUSALS:
                outcomes[fault["index"]] = InsertOutcome.REFUSED
            else:
                raise MongodbUnavailable(f"{fault.get('errmsg')}")
        if suspects:
            await self._compare(documents, suspects, outcomes)
        return outcomes

    async def _compare(
        self, documents: list[Document], suspects: list[int], outcomes: list[InsertOutcome]
    ) -> None:
        """Tell a repetition from another content under the same key."""
        keys = [documents[index]["_id"] for index in suspects]
        kept = {_key(found): found async for found in self._events.find({"_id": {"$in": keys}})}
        for index in suspects:
            if _key(documents[index]) not in kept:
                raise MongodbUnavailable("an event that was there a moment ago was deleted")  # write it again
            same = _content(documents[index]) == _content(kept[_key(documents[index])])
            outcomes[index] = InsertOutcome.DUPLICATE if same else InsertOutcome.CONFLICT

    async def history(self, query: HistoryQuery) -> list[HistoryEntry]:
        """One page of a device's history, newest first."""
        with map_driver_errors():
            return [_entry(found) async for found in _newest(self._events, query)]

    async def page(self, query: HistoryQuery) -> list[dict[str, Any]]:
        """The same page, as rows."""
        with map_driver_errors():
            return _rows(await _newest(self._without_zone, query).to_list())

    async def knows(self, device_id: str) -> bool:
        """Whether any event of the device is stored."""
        return bool(await self.history(HistoryQuery(device_id=device_id, limit=1)))

    async def replay(
        self, since: datetime | None, position: ReplayPosition | None = None
    ) -> AsyncIterator[list[HistoryEntry]]:
        """All events received since then, by device where it is all of them, else by time of receipt."""
        position = ReplayPosition() if position is None else position
        if position.until is None:
            # Not what comes in meanwhile, or a replay beside a drain would run after it and read it again.
            with map_driver_errors():
                newest = await self._events.find_one(
                    {}, {"received_at": 1}, sort=[("received_at", DESCENDING)]
                )
            if newest is None:
                return
            position.until = newest["received_at"]
        order = "_id" if since is None else "received_at"
        bounds: Document = {"received_at": {"$lte": position.until}}
        if since is not None:
            # Several events may have the time at which it was interrupted: merging them again is harmless.
            bounds["received_at"]["$gte"] = since if position.after is None else position.after
        elif position.after is not None:
            bounds["_id"] = {"$gt": position.after}
        cursor = self._events.find(bounds, {"errors.message": 0}).sort(order, ASCENDING)
        cursor = cursor.hint("_id_" if since is None else "received_at")
        async with cursor.batch_size(limits.REPLAY_BATCH_EVENTS):
            with map_driver_errors():
                while batch := await cursor.to_list(limits.REPLAY_BATCH_EVENTS):
                    yield [_replayed(found) for found in batch]
                    position.after = batch[-1][order]

    async def count(self, since: datetime | None) -> int:
        """About how many events that is."""
        with map_driver_errors():
            if since is None:
                return await self._events.estimated_document_count()
            return await self._events.count_documents(
                {"received_at": {"$gte": since}}, hint="received_at", maxTimeMS=limits.COUNT_TIMEOUT_MS
            )

    async def failing(self, device_ids: Collection[str], in_a_row: int) -> set[str]:
        """Those whose newest events are all failures: in one round trip, a few keys of the index each."""
        newest: list[Document] = [
            {"$match": {"$expr": {"$and": [{"$gt": ["$_id", "$$low"]}, {"$lt": ["$_id", "$$high"]}]}}},
            {"$sort": {"_id": DESCENDING}},
            {"$limit": in_a_row},
            {"$match": {"total_errors": {"$gt": 0}}},
            {"$project": {"_id": 1}},
        ]
        bounds = {
            "low": {"device_id": "$device_id", "timestamp": MinKey()},
            "high": {"device_id": "$device_id", "timestamp": MaxKey()},
        }
        pipeline: list[Document] = [
            {"$documents": [{"device_id": device_id} for device_id in device_ids]},
            {"$lookup": {"from": self._events.name, "let": bounds, "pipeline": newest, "as": "failures"}},
            {"$match": {"failures": {"$size": in_a_row}}},
            {"$project": {"device_id": 1}},
        ]
        with map_driver_errors():
            # One more than can come, or the answer could end with a cursor that wants another round trip.
            found = await self._connection.database.aggregate(pipeline, batchSize=len(device_ids) + 1)
            return {row["device_id"] async for row in found}

    async def failure_counts(self, device_id: str, since: datetime | None) -> FailureCounts:
        """Exact counts, from the index over failures."""

        async def count(after: Document) -> int:
            bounds = {"_id.timestamp": after} if after else {}
            return await self._events.count_documents(
                {"_id.device_id": device_id, "total_errors": {"$gt": 0}, **bounds}, hint="failures"
            )

        with map_driver_errors():
            successes = await self.history(
                HistoryQuery(device_id=device_id, limit=1, outcome=OutcomeFilter.SUCCESS)
            )
            total = await count({})
            return FailureCounts(
                total=total,
                since=total if since is None else await count({"$gte": since}),
                streak=await count({"$gt": successes[0].event.timestamp}) if successes else total,
            )

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.close()


def documents(events: Iterable[SyncEvent], received_at: datetime) -> list[Document]:
    """The events as they are kept: the identity is the `_id`."""
    return [
        add_content(
            event,
            {
                "_id": {"device_id": event.device_id, "timestamp": event.timestamp},
                "received_at": received_at,
            },
        )
        for event in events
    ]


def _key(document: Document) -> tuple[str, int]:
    return document["_id"]["device_id"], to_ms(document["_id"]["timestamp"])


def _content(document: Document) -> Document:
    return {name: value for name, value in document.items() if name not in {"_id", "received_at"}}


def _newest(events: AsyncCollection[Document], query: HistoryQuery) -> AsyncCursor[Document]:
    """A range of the `_id` index, in one round trip: a batch holds the whole page."""
    bounds = {
        "$gt": {"device_id": query.device_id, "timestamp": query.after or MinKey()},
        "$lt": {"device_id": query.device_id, "timestamp": query.before or MaxKey()},
    }
    matching = {} if query.outcome is None else _OUTCOMES[query.outcome]
    found = events.find({"_id": bounds, **matching}).sort("_id", DESCENDING)
    return found.limit(query.limit).batch_size(query.limit)


def _rows(found: list[Document]) -> list[dict[str, Any]]:
    times = [moment for event in found for moment in (event["_id"]["timestamp"], event["received_at"])]
    texts = iter(rfc3339_of_utc(times))
    return rows(zip(found, texts, texts, strict=True))


def _event(document: Document) -> SyncEvent:
    return from_content(document["_id"]["device_id"], document["_id"]["timestamp"], document)


def _replayed(document: Document) -> HistoryEntry:
    """The event with the code of its first error alone."""
    errors = document.pop("errors", None)
    if errors:
        document["errors"] = [{"code": errors[0]["code"], "message": ""}]
    return _entry(document)


def _entry(document: Document) -> HistoryEntry:
    return HistoryEntry(event=_event(document), received_at=document["received_at"])
