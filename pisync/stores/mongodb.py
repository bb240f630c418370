"""Events and dead letters in MongoDB: the truth. Nothing else in PiSync speaks to MongoDB.

`_id: {device_id, timestamp}` is an event's identity, so that an insert is its own duplicate check and a
device's history is one range of the `_id` index. Every write waits for the majority and its journal.
"""

import asyncio
import warnings
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, Final, Self

from bson.errors import InvalidDocument
from bson.max_key import MaxKey
from bson.min_key import MinKey
from pymongo import ASCENDING, DESCENDING, AsyncMongoClient, IndexModel, UpdateOne
from pymongo.errors import (
    BulkWriteError,
    DocumentTooLarge,
    InvalidURI,
    OperationFailure,
    PyMongoError,
)
from pymongo.errors import (
    ConfigurationError as MongoConfigurationError,
)

from pisync import limits
from pisync.clock import to_ms
from pisync.errors import ConfigurationError, EventStoreUnavailable
from pisync.events import ErrorDetail, Outcome, SyncEvent
from pisync.stores.dead_letters import identity
from pisync.stores.interfaces import DeadLetter, FailureCounts, HistoryEntry, HistoryQuery, Stored

Document = dict[str, Any]

DUPLICATE_KEY: Final = 11000
# Errors that say this document can never be stored; any other may pass and is tried again.
# BadValue, TypeMismatch, InvalidBSON, DocumentValidationFailure, BSONObjectTooLarge
REFUSALS: Final = frozenset({2, 14, 22, 121, 10334})
AUTHENTICATION_FAILED, UNAUTHORIZED = 18, 13

SERVER_SELECTION_TIMEOUT_MS: Final = 5000
SOCKET_TIMEOUT_MS: Final = 20_000
CLOSE_TIMEOUT_S: Final = 1.0

_OUTCOMES: Final[dict[Outcome, Document]] = {
    Outcome.SUCCESS: {"total_errors": 0},
    Outcome.PARTIAL: {"total_errors": {"$gt": 0}, "total_files_synced": {"$gt": 0}},
    Outcome.FAILED: {"total_errors": {"$gt": 0}, "total_files_synced": 0},
}


class MongoConnection:
    """A client and its database, which the stores in MongoDB share; connects on first use."""

    def __init__(self, url: str) -> None:
        """Parse the connection string, which names the database.

        Raises:
            ConfigurationError: the connection string cannot be understood.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # the driver only warns of options it does not know
                self.client: AsyncMongoClient[Document] = AsyncMongoClient(
                    url,
                    w="majority",
                    journal=True,
                    tz_aware=True,
                    appname="pisync",
                    serverSelectionTimeoutMS=SERVER_SELECTION_TIMEOUT_MS,
                    connectTimeoutMS=SERVER_SELECTION_TIMEOUT_MS,
                    socketTimeoutMS=SOCKET_TIMEOUT_MS,
                )
            self.database = self.client.get_default_database()
        except (InvalidURI, MongoConfigurationError, ValueError, UserWarning) as error:
            raise ConfigurationError(f"PISYNC_MONGODB_URL: {error}") from None

    async def close(self) -> None:
        """Let go of the connections; the driver's goodbye to a server that is away is not waited for."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self.client.close()


class MongoEventStore:
    """An `EventStore` in a MongoDB database."""

    def __init__(self, connection: MongoConnection) -> None:
        self._connection = connection
        self._events = connection.database.get_collection("sync_events")
        self._dead_letters = connection.database.get_collection("dead_letters")

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
        with mapped():
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
                    raise ConfigurationError(f"PISYNC_MONGODB_URL: {error}") from None
                raise

    async def ping(self) -> None:
        """Return when MongoDB answers."""
        with mapped():
            await self._connection.client.admin.command("ping")

    async def insert(self, events: Sequence[SyncEvent], received_at: datetime) -> list[Stored]:
        """Keep the events; returns what became of each, in order, once all are durable."""
        if not events:
            return []
        with mapped():
            return await self._insert([_document(event, received_at) for event in events])

    async def _insert(self, documents: list[Document]) -> list[Stored]:
        outcomes = [Stored.STORED] * len(documents)
        try:
            await self._events.insert_many(documents, ordered=False)
        except BulkWriteError as error:
            details = error.details or {}
            if details.get("writeConcernErrors"):
                raise EventStoreUnavailable(f"MongoDB: {details['writeConcernErrors'][0]}") from None
            suspects = []
            for fault in details.get("writeErrors", ()):
                if fault["code"] == DUPLICATE_KEY:
                    suspects.append(fault["index"])
                elif fault["code"] in REFUSALS:
                    outcomes[fault["index"]] = Stored.REFUSED
                else:
                    raise EventStoreUnavailable(f"MongoDB: {fault.get('errmsg')}") from None
            await self._compare(documents, suspects, outcomes)
        except (InvalidDocument, DocumentTooLarge, OverflowError):
            # The driver names no culprit: halve until it stands alone.
            if len(documents) == 1:
                return [Stored.REFUSED]
            middle = len(documents) // 2
            return await self._insert(documents[:middle]) + await self._insert(documents[middle:])
        return outcomes

    async def _compare(self, documents: list[Document], suspects: list[int], outcomes: list[Stored]) -> None:
        """Tell a repetition from another content under the same key."""
        keys = [documents[index]["_id"] for index in suspects]
        kept = {_key(found): found async for found in self._events.find({"_id": {"$in": keys}})}
        for index in suspects:
            same = _content(documents[index]) == _content(kept[_key(documents[index])])
            outcomes[index] = Stored.DUPLICATE if same else Stored.CONFLICT

    async def add_dead_letters(self, letters: Sequence[DeadLetter], received_at: datetime) -> None:
        """Keep the dead letters, each once; returns once all are durable."""
        if not letters:
            return
        with mapped():
            await self._dead_letters.bulk_write(
                [_dead_letter(letter, received_at) for letter in letters], ordered=False
            )

    async def history(self, query: HistoryQuery) -> list[HistoryEntry]:
        """One page of a device's history, newest first: one range scan of the `_id` index."""
        bounds = {
            "$gt": {"device_id": query.device_id, "timestamp": query.after or MinKey()},
            "$lt": {"device_id": query.device_id, "timestamp": query.before or MaxKey()},
        }
        matching = {} if query.outcome is None else _OUTCOMES[query.outcome]
        cursor = self._events.find({"_id": bounds, **matching}).sort("_id", DESCENDING).limit(query.limit)
        with mapped():
            return [_entry(found) async for found in cursor]

    async def knows(self, device_id: str) -> bool:
        """Whether any event of the device is stored."""
        return bool(await self.history(HistoryQuery(device_id=device_id, limit=1)))

    async def replay(self, since: datetime | None) -> AsyncIterator[list[SyncEvent]]:
        """All events received since then, by device where it is all of them, else by time of receipt."""
        cursor = self._events.find({} if since is None else {"received_at": {"$gte": since}})
        cursor = cursor.hint("_id_" if since is None else "received_at").batch_size(
            limits.REPLAY_BATCH_EVENTS
        )
        async with cursor:
            with mapped():
                while batch := await cursor.to_list(limits.REPLAY_BATCH_EVENTS):
                    yield [_entry(found).event for found in batch]

    async def count(self, since: datetime | None) -> int:
        """About how many events that is."""
        with mapped():
            if since is None:
                return await self._events.estimated_document_count()
            return await self._events.count_documents({"received_at": {"$gte": since}}, hint="received_at")

    async def failure_counts(self, device_id: str, since: datetime | None) -> FailureCounts:
        """Exact counts, from the index over failures."""

        async def count(after: Document) -> int:
            bounds = {"_id.timestamp": after} if after else {}
            return await self._events.count_documents(
                {"_id.device_id": device_id, "total_errors": {"$gt": 0}, **bounds}, hint="failures"
            )

        with mapped():
            successes = await self.history(
                HistoryQuery(device_id=device_id, limit=1, outcome=Outcome.SUCCESS)
            )
            total = await count({})
            return FailureCounts(
                total=total,
                since=total if since is None else await count({"$gte": since}),
                streak=await count({"$gt": successes[0].event.timestamp}) if successes else total,
            )

    async def close(self) -> None:
        """Let go of the connections."""
        await self._connection.close()


@contextmanager
def mapped() -> Iterator[None]:
    """Driver errors become ours: whatever is not known to be permanent may be tried again."""
    try:
        yield
    except PyMongoError as error:
        raise EventStoreUnavailable(f"MongoDB: {str(error)[:300]}") from error


def _document(event: SyncEvent, received_at: datetime) -> Document:
    document = {
        "_id": {"device_id": event.device_id, "timestamp": event.timestamp},
        "received_at": received_at,
        "total_files_synced": event.total_files_synced,
        "total_errors": event.total_errors,
        "internet_speed": event.internet_speed,
    }
    if event.device_type is not None:
        document["device_type"] = event.device_type
    if event.sync_duration_ms is not None:
        document["sync_duration_ms"] = event.sync_duration_ms
    if event.errors is not None:
        document["errors"] = [{"code": error.code, "message": error.message} for error in event.errors]
    return document


def _key(document: Document) -> tuple[str, int]:
    return document["_id"]["device_id"], to_ms(document["_id"]["timestamp"])


def _content(document: Document) -> Document:
    return {name: value for name, value in document.items() if name not in {"_id", "received_at"}}


def _entry(document: Document) -> HistoryEntry:
    errors = document.get("errors")
    return HistoryEntry(
        event=SyncEvent(
            device_id=document["_id"]["device_id"],
            timestamp=document["_id"]["timestamp"],
            total_files_synced=document["total_files_synced"],
            total_errors=document["total_errors"],
            internet_speed=document["internet_speed"],
            device_type=document.get("device_type"),
            sync_duration_ms=document.get("sync_duration_ms"),
            errors=None if errors is None else [ErrorDetail(**error) for error in errors],
        ),
        received_at=document["received_at"],
    )


def _dead_letter(letter: DeadLetter, received_at: datetime) -> UpdateOne:
    return UpdateOne(
        {"_id": identity(letter)},
        {
            "$setOnInsert": {
                "topic": letter.topic,
                "device_id": letter.device_id,
                "reason": letter.reason.value,
                "detail": letter.detail,
                "raw": letter.raw,
                "received_at": received_at,
            },
            "$max": {"last_received_at": received_at},
        },
        upsert=True,
    )
