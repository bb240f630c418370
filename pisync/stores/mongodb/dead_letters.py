"""Dead letters in MongoDB: kept, listed, read, purged, replays recorded, and how many and how long."""

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from bson.int64 import Int64
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import BulkWriteError, OperationFailure

from pisync import limits
from pisync.domain.dead_letters import DeadLetter, Holds, Part, distinct, newest
from pisync.domain.events import Reason
from pisync.domain.payloads import HEAD_BYTES_MAX
from pisync.stores.interfaces.dead_letters import (
    Correction,
    DeadLetterEntry,
    DeadLetterFilter,
    DeadLetterQuery,
    DroppedLetters,
    KeptDeadLetter,
    Replay,
)
from pisync.stores.mongodb.connection import (
    AUTHENTICATION_FAILED,
    DUPLICATE_KEY,
    UNAUTHORIZED,
    Document,
    MongoConnection,
    map_driver_errors,
    not_permitted,
    server_time,
)

NAMESPACE_NOT_FOUND, INDEX_NOT_FOUND, INDEX_OPTIONS_CONFLICT = 26, 27, 85

_RETENTION: Final = "retention"
# By MongoDB's clock, which also decides when a letter is old: a bridge whose clock is behind would have its
# letters deleted a minute after they came.
_EXPIRES_FROM: Final = "expires_from"
# `Reason.value` costs as much as the rest of a part.
_NAMES: Final = {reason: reason.value for reason in Reason}
_NEWEST: Final = [("received_at", DESCENDING), ("_id", DESCENDING)]


class MongoDeadLetterStore:
    """A `DeadLetterStore` in a MongoDB database."""

    def __init__(self, connection: MongoConnection) -> None:
        self._database = connection.database
        self._dead_letters = connection.database.get_collection("dead_letters")
        self._drops = connection.database.get_collection("dead_letter_drops")
        self._unchecked = _Unchecked()

    async def prepare(self) -> None:
        """Create the indexes where they are absent.

        Raises:
            ConfigurationError: MongoDB does not accept our credentials or lacks permissions for them.
        """
        with _administering():
            await self._dead_letters.create_indexes(
                [
                    IndexModel(_NEWEST, name="newest"),
                    IndexModel(
                        [("device_id", ASCENDING), *_NEWEST, ("kept_bytes", ASCENDING)], name="device"
                    ),
                    IndexModel([("reasons", ASCENDING), *_NEWEST], name="reason"),
                ]
            )
            await self._drops.create_index([("dropped_at", DESCENDING)], name="latest")

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

    async def add(self, dead_letters: Sequence[DeadLetter], received_at: datetime) -> list[DroppedLetters]:
        """Keep the dead letters, each once; returns once all are durable, with those that gave way."""
        kept, dropped = newest(distinct(dead_letters))
        new: list[DeadLetter] = []
        for letters in _writes(kept):
            known = await self._insert(letters, received_at)
            if known:
                with map_driver_errors():
                    await self._dead_letters.update_many(
                        {"_id": {"$in": list(known)}},
                        {"$max": {"last_received_at": received_at}, "$currentDate": {_EXPIRES_FROM: True}},
                    )
            new += [letter for letter in letters if letter.dead_letter_id not in known]
        if suspects := self._unchecked.add(new):
            dropped += await self._make_room(suspects)
        return await self._told(dropped, received_at)

    async def _insert(self, letters: Sequence[DeadLetter], received_at: datetime) -> set[str]:
        """Insert them in one command, which is cheaper than upserts; returns the ids that were there."""
        with map_driver_errors():
            # An insert cannot ask for MongoDB's clock, and an update after it costs as much as the insert.
            expires_from = await server_time(self._database)
            try:
                await self._dead_letters.insert_many(
                    [_document(letter, received_at) | {_EXPIRES_FROM: expires_from} for letter in letters],
                    ordered=False,
                )
            except BulkWriteError as error:
                faults = error.details["writeErrors"]
                if error.details["writeConcernErrors"] or any(
                    fault["code"] != DUPLICATE_KEY for fault in faults
                ):
                    raise
                return {fault["op"]["_id"] for fault in faults}
        return set()

    async def _told(self, dropped: Mapping[str | None, int], now: datetime) -> list[DroppedLetters]:
        """Write down whose letters gave way, and say so."""
        with map_driver_errors():
            for device_id, count in dropped.items():
                await self._drops.update_one(
                    {"_id": device_id},
                    {"$inc": {"dropped": count}, "$max": {"dropped_at": now}},
                    upsert=True,
                )
        return [
            DroppedLetters(device_id=device_id, dropped=count, dropped_at=now)
            for device_id, count in dropped.items()
        ]

    async def _make_room(self, device_ids: Collection[str | None]) -> Counter[str | None]:
        """Delete the oldest letters of those of these devices that have too many, or too many bytes."""
        dropped = Counter[str | None]()
        with map_driver_errors():
            sums = await self._dead_letters.aggregate(
                [
                    {"$match": {"device_id": {"$in": list(device_ids)}}},
                    {"$group": {"_id": "$device_id", "count": {"$sum": 1}, "size": {"$sum": "$kept_bytes"}}},
                ]
            )
            async for device in sums:
                own = {"device_id": device["_id"]}
                if device["count"] > limits.DEVICE_DEAD_LETTERS_MAX:
                    dropped[device["_id"]] += await self._drop_beyond_count(own)
                if device["size"] > limits.DEVICE_DEAD_LETTER_BYTES_MAX:
                    dropped[device["_id"]] += await self._drop_beyond_bytes(own)
        self._unchecked.checked(device_ids)
        return +dropped  # without those that another batch made room for meanwhile

    async def _drop_beyond_count(self, own: Document) -> int:
        by_age = self._dead_letters.find(own, {"received_at": 1}).sort(_NEWEST)
        async for letter in by_age.skip(limits.DEVICE_DEAD_LETTERS_MAX).limit(1):
            return await self._drop_from(own, letter)
        return 0

    async def _drop_beyond_bytes(self, own: Document) -> int:
        size = 0
        by_age = self._dead_letters.find(own, {"received_at": 1, "kept_bytes": 1}).sort(_NEWEST)
        async for letter in by_age:
            size += letter["kept_bytes"]
            if size > limits.DEVICE_DEAD_LETTER_BYTES_MAX:
                await by_age.close()
                return await self._drop_from(own, letter)
        return 0

    async def _drop_from(self, own: Document, letter: Document) -> int:
        """Delete a letter of a device, and all older ones."""
        older = {"received_at": {"$lt": letter["received_at"]}}
        as_old = {"received_at": letter["received_at"], "_id": {"$lte": letter["_id"]}}
        return (await self._dead_letters.delete_many(own | {"$or": [older, as_old]})).deleted_count

    async def ping_writes(self) -> None:
        """Return when a write would be durable now.

        An update that matches nothing needs no right but that for `record_replay`, and waits for the locks
        and for the majority as every write does.
        """
        with map_driver_errors():
            await self._dead_letters.update_one({"_id": ""}, {"$set": {"replayed_at": None}})

    async def find(self, query: DeadLetterQuery) -> list[DeadLetterEntry]:
        """One page, newest first: one range scan of an index, and only the heads of the payloads."""
        conditions = _conditions(query)
        if query.position is not None:
            end = query.position
            conditions += [
                {"received_at": {"$lte": end.received_at}},  # bounds the range of the index
                {"$or": [{"received_at": {"$lt": end.received_at}}, {"_id": {"$lt": end.dead_letter_id}}]},
            ]
        with map_driver_errors():
            cursor = (
                self._dead_letters.find(_all_of(conditions), {"rest": 0}).sort(_NEWEST).limit(query.limit)
            )
            return [_entry(found) async for found in cursor]

    async def get(self, dead_letter_id: str) -> KeptDeadLetter | None:
        """One dead letter."""
        with map_driver_errors():
            found = await self._dead_letters.find_one({"_id": dead_letter_id})
        if found is None:
            return None
        return KeptDeadLetter(entry=_entry(found), raw=found["head"] + found.get("rest", b""))

    async def dropped(self, device_id: str | None) -> list[DroppedLetters]:
        """Whose letters gave way, the latest first."""
        chosen: Document = {} if device_id is None else {"_id": device_id}
        with map_driver_errors():
            found = self._drops.find(chosen).sort("dropped_at", DESCENDING).limit(limits.DROPS_LISTED_MAX)
            return [
                DroppedLetters(device_id=drop["_id"], dropped=drop["dropped"], dropped_at=drop["dropped_at"])
                async for drop in found
            ]

    async def record_replay(self, dead_letter_id: str, replay: Replay) -> None:
        """Record the replay, but not over another one where it stored nothing."""
        own: Document = {"_id": dead_letter_id}
        chosen = own if replay.stored else own | {"replayed_at": None}
        done = {"replayed_at": replay.replayed_at, "replay_outcome": _outcome(replay)}
        with map_driver_errors():
            await self._dead_letters.update_one(chosen, {"$set": done})

    async def claim_correction(self, dead_letter_id: str, correction: Correction, attempt: str) -> bool:
        """Write down with which correction they are sent: a new one where none holds, or the same again."""
        field = _correction_field(correction)
        own: Document = {"_id": dead_letter_id}
        new = {
            "offset_ms": Int64(correction.offset_ms),
            "stated": correction.stated,
            "confirmed_by": correction.confirmed_by,
            "confirmed_at": correction.confirmed_at,
            "attempt": attempt,
        }
        with map_driver_errors():
            free = own | {
                f"{field}.attempt": None,
                f"{field}.outcome": None,
            }  # matches where there is none, too
            if (await self._dead_letters.update_one(free, {"$set": {field: new}})).matched_count:
                return True
            same = own | {f"{field}.offset_ms": correction.offset_ms}
            again = await self._dead_letters.update_one(same, {"$set": {f"{field}.attempt": attempt}})
            return again.matched_count == 1

    async def settle_correction(
        self, dead_letter_id: str, correction: Correction, attempt: str, outcome: Replay | None
    ) -> None:
        """Record what the attempt took in, and that it has ended."""
        field = _correction_field(correction)
        same: Document = {"_id": dead_letter_id, f"{field}.offset_ms": correction.offset_ms}
        with map_driver_errors():
            if outcome is not None:
                taken = {f"{field}.outcome": _outcome(outcome), f"{field}.settled_at": outcome.replayed_at}
                chosen = same if outcome.stored else same | {f"{field}.outcome": None}
                await self._dead_letters.update_one(chosen, {"$set": taken})
            await self._dead_letters.update_one(
                same | {f"{field}.attempt": attempt}, {"$set": {f"{field}.attempt": None}}
            )

    async def count(self, chosen: DeadLetterFilter) -> int:
        """How many there are of these."""
        with map_driver_errors():
            return await self._dead_letters.count_documents(_all_of(_conditions(chosen)))

    async def purge(self, chosen: DeadLetterFilter) -> int:
        """Delete these, the newest first."""
        with map_driver_errors():
            found = self._dead_letters.find(_all_of(_conditions(chosen)), {"_id": 1})
            ids = [letter["_id"] async for letter in found.sort(_NEWEST).limit(limits.PURGE_MAX)]
            return (await self._dead_letters.delete_many({"_id": {"$in": ids}})).deleted_count


class _Unchecked:
    """Counts new letters of each device, so that what a device has is seldom summed up in MongoDB.

    A device that was not seen before, or is forgotten here, is looked at with its first letter.
    """

    def __init__(self) -> None:
        self._counts: OrderedDict[str | None, tuple[int, int]] = OrderedDict()

    def add(self, letters: Iterable[DeadLetter]) -> list[str | None]:
        """Count new letters; returns the devices that should be looked at."""
        suspects: dict[str | None, None] = {}
        for letter in letters:
            device_id = letter.device_id
            count, size = self._counts.get(device_id, (limits.DEVICE_DEAD_LETTERS_UNCHECKED, 0))
            count, size = count + 1, size + letter.kept_bytes
            self._counts[device_id] = (count, size)
            self._counts.move_to_end(device_id)
            if (
                count > limits.DEVICE_DEAD_LETTERS_UNCHECKED
                or size > limits.DEVICE_DEAD_LETTER_BYTES_UNCHECKED
            ):
                suspects[device_id] = None
        while len(self._counts) > limits.DEAD_LETTER_DEVICES_REMEMBERED:
            self._counts.popitem(last=False)
        return list(suspects)

    def checked(self, device_ids: Iterable[str | None]) -> None:
        """These were looked at, and have no more than they may."""
        for device_id in device_ids:
            if device_id in self._counts:
                self._counts[device_id] = (0, 0)


def _writes(letters: Iterable[DeadLetter]) -> Iterator[list[DeadLetter]]:
    """The letters in writes that are bounded by what is written, not by the messages that it came from."""
    write: list[DeadLetter] = []
    size = 0
    for letter in letters:
        if write and size + letter.kept_bytes > limits.DEAD_LETTER_WRITE_BYTES_MAX:
            yield write
            write, size = [], 0
        write.append(letter)
        size += letter.kept_bytes
    if write:
        yield write


def _document(letter: DeadLetter, received_at: datetime) -> Document:
    """A letter as it is stored: the first of its bytes apart, so that lists need not read the rest."""
    document: Document = {
        "_id": letter.dead_letter_id,
        "topic": letter.topic,
        "device_id": letter.device_id,
        "holds": letter.holds.value,
        "reasons": [reason.value for reason in letter.rejected],
        "counts": list(letter.rejected.values()),
        "parts": [[part.index, _NAMES[part.reason], part.detail, part.size_bytes] for part in letter.parts],
        "size_bytes": letter.size_bytes,
        "kept_bytes": letter.kept_bytes,
        "head": letter.raw[:HEAD_BYTES_MAX],
        "received_at": received_at,
        "last_received_at": received_at,
    }
    if len(letter.raw) > HEAD_BYTES_MAX:
        document["rest"] = letter.raw[HEAD_BYTES_MAX:]
    return document


@contextmanager
def _administering() -> Iterator[None]:
    with map_driver_errors():
        try:
            yield
        except OperationFailure as error:
            if error.code in {AUTHENTICATION_FAILED, UNAUTHORIZED}:
                raise not_permitted(error) from None
            raise


def _conditions(chosen: DeadLetterFilter) -> list[Document]:
    conditions: list[Document] = []
    if chosen.reason is not None:
        conditions.append({"reasons": chosen.reason.value})
    if chosen.device_id is not None:
        conditions.append({"device_id": chosen.device_id})
    if chosen.before is not None:
        conditions.append({"received_at": {"$lt": chosen.before}})
    if chosen.after is not None:
        conditions.append({"received_at": {"$gt": chosen.after}})
    if chosen.replayed is not None:
        conditions.append({"replayed_at": {"$ne" if chosen.replayed else "$eq": None}})
    return conditions


def _all_of(conditions: Sequence[Document]) -> Document:
    return {"$and": list(conditions)} if conditions else {}


def _outcome(replay: Replay) -> Document:
    return {"stored": replay.stored, "duplicates": replay.duplicates, "rejected": replay.rejected}


def _correction_field(correction: Correction) -> str:
    return f"corrections.{correction.reason.value}"


def _corrections(found: Mapping[str, Document]) -> Iterator[Correction]:
    """The corrections that took something in, or may have."""
    for reason, one in found.items():
        outcome = one.get("outcome")
        if outcome is not None or one["attempt"] is not None:
            yield Correction(
                reason=Reason(reason),
                offset_ms=int(one["offset_ms"]),
                stated=one["stated"],
                confirmed_by=one["confirmed_by"],
                confirmed_at=one["confirmed_at"],
                outcome=None if outcome is None else Replay(replayed_at=one["settled_at"], **outcome),
            )


def _entry(document: dict[str, Any]) -> DeadLetterEntry:
    replayed_at = document.get("replayed_at")
    return DeadLetterEntry(
        dead_letter_id=document["_id"],
        topic=document["topic"],
        device_id=document["device_id"],
        holds=Holds(document["holds"]),
        parts=tuple(
            Part(index=index, reason=Reason(reason), detail=detail, size_bytes=size_bytes)
            for index, reason, detail, size_bytes in document["parts"]
        ),
        rejected=dict(zip(map(Reason, document["reasons"]), document["counts"], strict=True)),
        received_at=document["received_at"],
        last_received_at=document["last_received_at"],
        size_bytes=document["size_bytes"],
        head=document["head"],
        replay=None if replayed_at is None else Replay(replayed_at=replayed_at, **document["replay_outcome"]),
        corrections=tuple(_corrections(document.get("corrections", {}))),
    )
