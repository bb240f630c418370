"""Dead letters in MongoDB: kept, listed, read, replays recorded, and how long they are kept."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from pymongo import ASCENDING, DESCENDING, IndexModel, UpdateOne
from pymongo.errors import OperationFailure

from pisync.domain.events import Reason
from pisync.domain.payloads import HEAD_BYTES_MAX
from pisync.errors import ConfigurationError
from pisync.stores.interfaces.dead_letters import (
    DeadLetter,
    DeadLetterEntry,
    DeadLetterQuery,
    KeptDeadLetter,
    Replay,
    identity,
)
from pisync.stores.mongodb.connection import (
    AUTHENTICATION_FAILED,
    UNAUTHORIZED,
    Document,
    MongoConnection,
    map_driver_errors,
)

NAMESPACE_NOT_FOUND, INDEX_NOT_FOUND, INDEX_OPTIONS_CONFLICT = 26, 27, 85

_RETENTION: Final = "retention"
# By MongoDB's clock, which also decides when a letter is old: a bridge whose clock is behind would have its
# letters deleted a minute after they came.
_EXPIRES_FROM: Final = "expires_from"
_NEWEST: Final = [("received_at", DESCENDING), ("_id", DESCENDING)]


class MongoDeadLetterStore:
    """A `DeadLetterStore` in a MongoDB database."""

    def __init__(self, connection: MongoConnection) -> None:
        self._database = connection.database
        self._dead_letters = connection.database.get_collection("dead_letters")

    async def prepare(self) -> None:
        """Create the indexes where they are absent.

        Raises:
            ConfigurationError: MongoDB does not accept our credentials or lacks permissions for them.
        """
        with _administering():
            await self._dead_letters.create_indexes(
                [
                    IndexModel(_NEWEST, name="newest"),
                    IndexModel([("device_id", ASCENDING), *_NEWEST], name="device"),
                    IndexModel([("reason", ASCENDING), *_NEWEST], name="reason"),
                ]
            )

    async def apply_retention(self, days: int | None) -> None:
        """Let MongoDB delete a letter so many days after it last came; None: keep all for good.

        Raises:
            ConfigurationError: MongoDB does not accept our credentials or lacks permissions for them.
        """
        with _administering():
            if days is None:
                await self._keep_for_good()
                return
            expire_after_s = days * 24 * 3600
            try:
                await self._dead_letters.create_index(
                    [(_EXPIRES_FROM, ASCENDING)], name=_RETENTION, expireAfterSeconds=expire_after_s
                )
            except OperationFailure as error:
                if error.code != INDEX_OPTIONS_CONFLICT:
                    raise
                changed = {"name": _RETENTION, "expireAfterSeconds": expire_after_s}
                await self._database.command({"collMod": self._dead_letters.name, "index": changed})

    async def _keep_for_good(self) -> None:
        try:
            await self._dead_letters.drop_index(_RETENTION)
        except OperationFailure as error:
            if error.code not in {NAMESPACE_NOT_FOUND, INDEX_NOT_FOUND}:
                raise

    async def add(self, dead_letters: Sequence[DeadLetter], received_at: datetime) -> None:
        """Keep the dead letters, each once; returns once all are durable."""
        if not dead_letters:
            return
        with map_driver_errors():
            await self._dead_letters.bulk_write(
                [_upsert(dead_letter, received_at) for dead_letter in dead_letters], ordered=False
            )

    async def find(self, query: DeadLetterQuery) -> list[DeadLetterEntry]:
        """One page, newest first: one range scan of an index.

        MongoDB 6.0 cannot cut binary data, so payloads come whole, and are cut while they come: one reply of
        at most 16 MiB is in memory at a time.
        """
        with map_driver_errors():
            cursor = self._dead_letters.find(_filter(query)).sort(_NEWEST).limit(query.limit)
            return [_entry(found) async for found in cursor]

    async def get(self, dead_letter_id: str) -> KeptDeadLetter | None:
        """One dead letter."""
        with map_driver_errors():
            found = await self._dead_letters.find_one({"_id": dead_letter_id})
        return None if found is None else KeptDeadLetter(entry=_entry(found), raw=found["raw"])

    async def record_replay(self, dead_letter_id: str, replay: Replay) -> None:
        """Record the replay."""
        outcome = {"stored": replay.stored, "duplicates": replay.duplicates, "rejected": replay.rejected}
        with map_driver_errors():
            await self._dead_letters.update_one(
                {"_id": dead_letter_id},
                {"$set": {"replayed_at": replay.replayed_at, "replay_outcome": outcome}},
            )


def _upsert(dead_letter: DeadLetter, received_at: datetime) -> UpdateOne:
    return UpdateOne(
        {"_id": identity(dead_letter)},
        {
            "$setOnInsert": {
                "topic": dead_letter.topic,
                "device_id": dead_letter.device_id,
                "reason": dead_letter.reason.value,
                "detail": dead_letter.detail,
                "raw": dead_letter.raw,
                "received_at": received_at,
            },
            "$max": {"last_received_at": received_at},
            "$currentDate": {_EXPIRES_FROM: True},
        },
        upsert=True,
    )


@contextmanager
def _administering() -> Iterator[None]:
    with map_driver_errors():
        try:
            yield
        except OperationFailure as error:
            if error.code in {AUTHENTICATION_FAILED, UNAUTHORIZED}:
                raise ConfigurationError(f"PISYNC_MONGODB_URL: {error}") from None
            raise


def _filter(query: DeadLetterQuery) -> Document:
    conditions: list[Document] = []
    if query.reason is not None:
        conditions.append({"reason": query.reason.value})
    if query.device_id is not None:
        conditions.append({"device_id": query.device_id})
    if query.before is not None:
        conditions.append({"received_at": {"$lt": query.before}})
    if query.after is not None:
        conditions.append({"received_at": {"$gt": query.after}})
    if query.replayed is not None:
        conditions.append({"replayed_at": {"$ne" if query.replayed else "$eq": None}})
    if query.position is not None:
        end = query.position
        conditions += [
            {"received_at": {"$lte": end.received_at}},  # bounds the range of the index
            {"$or": [{"received_at": {"$lt": end.received_at}}, {"_id": {"$lt": end.dead_letter_id}}]},
        ]
    return {"$and": conditions} if conditions else {}


def _entry(document: dict[str, Any]) -> DeadLetterEntry:
    raw: bytes = document["raw"]
    replayed_at = document.get("replayed_at")
    return DeadLetterEntry(
        dead_letter_id=document["_id"],
        topic=document["topic"],
        device_id=document["device_id"],
        reason=Reason(document["reason"]),
        detail=document["detail"],
        received_at=document["received_at"],
        last_received_at=document["last_received_at"],
        size_bytes=len(raw),
        head=raw[:HEAD_BYTES_MAX],
        replay=None if replayed_at is None else Replay(replayed_at=replayed_at, **document["replay_outcome"]),
    )
