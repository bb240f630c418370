"""Writes of dead letters: each letter once, in commands that are bounded by what they hold.

A letter that is there is marked as having come again. Where many of the last ones were, those of the next are
looked for first: an insert of one that is there costs an error, which is more than the look and the mark.
"""

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from pymongo.asynchronous.collection import AsyncCollection

from pisync import clock, limits
from pisync.domain.dead_letters import DeadLetter
from pisync.domain.events import Reason
from pisync.domain.payloads import HEAD_BYTES_MAX
from pisync.errors import MongodbUnavailable
from pisync.stores.mongodb.connection import DUPLICATE_KEY, Document, server_time
from pisync.stores.mongodb.known_share import KnownShare

# By MongoDB's clock, which also decides when a letter is old: a bridge whose clock is behind would have its
# letters deleted a minute after they came.
EXPIRES_FROM: Final = "expires_from"
# `Reason.value` costs as much as the rest of a part.
_NAMES: Final = {reason: reason.value for reason in Reason}


class LetterWrites:
    """Writes into a collection of dead letters."""

    def __init__(self, dead_letters: AsyncCollection[Document]) -> None:
        self._dead_letters = dead_letters
        self._clock = _ServerClock(dead_letters)
        self._known = KnownShare()

    async def write(self, letters: Sequence[DeadLetter], received_at: datetime) -> list[DeadLetter]:
        """Keep letters, all of them distinct; returns those that are new, once all are durable."""
        new: list[DeadLetter] = []
        for some in _writes(letters):
            of_these = await self._write(some, received_at)
            self._known.note(known=len(some) - len(of_these), count=len(some))
            new += of_these
        return new

    async def _write(self, letters: Sequence[DeadLetter], received_at: datetime) -> list[DeadLetter]:
        present: set[str] = set()
        if self._known.is_worth_a_look(len(letters)):
            present = await self._present(letters)
        others = [letter for letter in letters if letter.dead_letter_id not in present]
        if others:
            present |= await self._insert(others, received_at)
        if present and await self._mark(present, received_at) < len(present):
            raise MongodbUnavailable("a dead letter that was there a moment ago was deleted")
        return [letter for letter in others if letter.dead_letter_id not in present]

    async def _insert(self, letters: Sequence[DeadLetter], received_at: datetime) -> set[str]:
        """Insert them in one command, which is cheaper than upserts; returns the ids that were there."""
        # An insert cannot ask for MongoDB's clock, and an update after it costs as much as the insert.
        expires_from = await self._clock.now()
        reply = await self._command(
            {
                "insert": self._dead_letters.name,
                "ordered": False,
                "documents": [_document(letter, received_at, expires_from) for letter in letters],
            }
        )
        faults = reply.get("writeErrors", ())
        if other := next((fault for fault in faults if fault["code"] != DUPLICATE_KEY), None):
            raise MongodbUnavailable(f"{other.get('errmsg')}")
        return {letters[fault["index"]].dead_letter_id for fault in faults}

    async def _mark(self, ids: Collection[str], received_at: datetime) -> int:
        """Write down that these came again, in one command; returns how many of them there are."""
        changes = {"$max": {"last_received_at": received_at}, "$currentDate": {EXPIRES_FROM: True}}
        statement = {"q": {"_id": {"$in": list(ids)}}, "u": changes, "multi": True}
        reply = await self._command({"update": self._dead_letters.name, "updates": [statement]})
        if faults := reply.get("writeErrors"):
            raise MongodbUnavailable(f"{faults[0].get('errmsg')}")
        marked: int = reply["n"]
        return marked

    async def _present(self, letters: Sequence[DeadLetter]) -> set[str]:
        """Those of the ids that are there, in one round trip; the mark that follows waits for the journal."""
        ids = [letter.dead_letter_id for letter in letters]
        found = self._dead_letters.find({"_id": {"$in": ids}}, {"_id": 1})
        return {letter["_id"] async for letter in found.limit(len(ids)).batch_size(len(ids))}

    async def _command(self, command: Document) -> Document:
        concern = {"writeConcern": self._dead_letters.write_concern.document}
        reply: Document = await self._dead_letters.database.command(command | concern)
        if "writeConcernError" in reply:
            raise MongodbUnavailable(f"{reply['writeConcernError']}")
        return reply


class _ServerClock:
    """MongoDB's clock, asked now and then and reckoned in between by a clock that nobody sets."""

    def __init__(self, dead_letters: AsyncCollection[Document]) -> None:
        self._database = dead_letters.database
        self._said: tuple[datetime, float, datetime] | None = None

    async def now(self) -> datetime:
        """What it says now, to the second or so."""
        if self._said is not None:
            theirs, asked_s, ours = self._said
            passed_s = time.monotonic() - asked_s
            # A machine that slept, or whose clock was set, knows no more how much time passed.
            is_sure = abs((clock.now() - ours).total_seconds() - passed_s) < limits.SERVER_CLOCK_DOUBT_S
            if is_sure and passed_s < limits.CLOCK_CHECK_INTERVAL_S:
                return theirs + timedelta(seconds=passed_s)
        theirs = await server_time(self._database)
        self._said = theirs, time.monotonic(), clock.now()
        return theirs


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


def _document(letter: DeadLetter, received_at: datetime, expires_from: datetime) -> Document:
    """A letter as it is stored: the first of its bytes apart, so that lists need not read the rest."""
    document: Document = {
        "_id": letter.dead_letter_id,
        "topic": letter.topic,
        "device_id": letter.device_id,
        "holds": letter.holds.value,
        "reasons": [_NAMES[reason] for reason in letter.rejected],
        "counts": list(letter.rejected.values()),
        "parts": [[part.index, _NAMES[part.reason], part.detail, part.size_bytes] for part in letter.parts],
        "size_bytes": letter.size_bytes,
        "kept_bytes": letter.kept_bytes,
        "head": letter.raw[:HEAD_BYTES_MAX],
        "received_at": received_at,
        "last_received_at": received_at,
        EXPIRES_FROM: expires_from,
    }
    if len(letter.raw) > HEAD_BYTES_MAX:
        document["rest"] = letter.raw[HEAD_BYTES_MAX:]
    return document
