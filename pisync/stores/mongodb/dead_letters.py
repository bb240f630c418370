"""Dead letters in MongoDB: kept for how long, listed, read, purged, and what was replayed of them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from bson.int64 import Int64
from pymongo import ASCENDING, IndexModel
from pymongo.errors import OperationFailure

from pisync import limits
from pisync.domain.dead_letters import DeadLetter, Holds, Part, distinct, newest
from pisync.domain.events import Reason
from pisync.stores.interfaces.dead_letters import (
    Correction,
    DeadLetterEntry,
    DeadLetterFilter,
    DeadLetterQuery,
    DeviceTally,
    DroppedLetters,
    KeptDeadLetter,
    LetterTally,
    Replay,
)
from pisync.stores.mongodb.connection import (
    AUTHENTICATION_FAILED,
    UNAUTHORIZED,
    Document,
    MongoConnection,
    map_driver_errors,
    not_permitted,
)
from pisync.stores.mongodb.letter_room import NEWEST, LetterRoom
from pisync.stores.mongodb.letter_tally import OPEN, OPEN_OF_REASON, tally, tally_by_device
from pisync.stores.mongodb.letter_writes import EXPIRES_FROM, LetterWrites
from pisync.stores.mongodb.members import known

NAMESPACE_NOT_FOUND, INDEX_NOT_FOUND, INDEX_OPTIONS_CONFLICT = 26, 27, 85

_RETENTION: Final = "retention"


class MongoDeadLetterStore:
    """A `DeadLetterStore` in a MongoDB database."""

    def __init__(self, connection: MongoConnection) -> None:
        self._database = connection.database
        self._dead_letters = connection.database.get_collection("dead_letters")
        self._writes = LetterWrites(self._dead_letters)
        self._room = LetterRoom(self._dead_letters, connection.database.get_collection("dead_letter_drops"))

    async def prepare(self) -> None:
        """Create the indexes where they are absent.

        Raises:
            ConfigurationError: MongoDB does not accept our credentials or lacks permissions for them.
        """
        with _administering():
            await self._dead_letters.create_indexes(
                [
                    IndexModel(NEWEST, name="newest"),
                    IndexModel([("device_id", ASCENDING), *NEWEST, ("kept_bytes", ASCENDING)], name="device"),
                    IndexModel([("reasons", ASCENDING), *NEWEST], name="reason"),
                    IndexModel(OPEN, name="open"),
                    IndexModel(OPEN_OF_REASON, name="open_of_reason"),
                ]
            )
            await self._room.prepare()

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
                    [(EXPIRES_FROM, ASCENDING)], name=_RETENTION, expireAfterSeconds=expire_after_s
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
        with map_driver_errors():
            new = await self._writes.write(kept, received_at)
            dropped += await self._room.make(new)
            return await self._room.tell(dropped, received_at)

    async def record_dropped(self, dropped: Mapping[str | None, int], now: datetime) -> None:
        """Remember how many messages of devices were left out without a letter."""
        with map_driver_errors():
            await self._room.tell(dropped, now)

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
            cursor = self._dead_letters.find(_all_of(conditions), {"rest": 0}).sort(NEWEST).limit(query.limit)
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
        with map_driver_errors():
            return await self._room.dropped(device_id)

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

    async def tally(self, since: datetime) -> LetterTally:
        """How many are open, and how many came after a moment, in one command."""
        with map_driver_errors():
            return await tally(self._dead_letters, since)

    async def tally_by_device(self, since: datetime) -> DeviceTally:
        """The same, and by device, in one command."""
        with map_driver_errors():
            return await tally_by_device(self._dead_letters, since)

    async def purge(self, chosen: DeadLetterFilter) -> int:
        """Delete these, the newest first."""
        with map_driver_errors():
            found = self._dead_letters.find(_all_of(_conditions(chosen)), {"_id": 1})
            ids = [letter["_id"] async for letter in found.sort(NEWEST).limit(limits.PURGE_MAX)]
            return (await self._dead_letters.delete_many({"_id": {"$in": ids}})).deleted_count


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


def _replay(replayed_at: datetime, outcome: Document) -> Replay:
    return Replay(**known(Replay, outcome | {"replayed_at": replayed_at}))


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
                outcome=None if outcome is None else _replay(one["settled_at"], outcome),
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
        replay=None if replayed_at is None else _replay(replayed_at, document["replay_outcome"]),
        corrections=tuple(_corrections(document.get("corrections", {}))),
    )
