"""Counts dead letters by reason: a bounded range of an index for each count, and one command for all."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final

from pymongo import ASCENDING
from pymongo.asynchronous.collection import AsyncCollection

from pisync import limits
from pisync.clock import EPOCH
from pisync.domain.events import Reason
from pisync.stores.interfaces.dead_letters import DeviceTally, LetterCounts, LetterTally
from pisync.stores.mongodb.connection import Document

# The indexes that open letters are counted by, of all reasons and of one.
OPEN: Final = [("replayed_at", ASCENDING)]
OPEN_OF_REASON: Final = [("reasons", ASCENDING), *OPEN]
_DEVICE: Final = "device"
# That a member is absent is read in the document; that it is no moment, in the key of an index.
_IS_OPEN: Final[Document] = {"replayed_at": {"$not": {"$gte": EPOCH}}}


async def tally(dead_letters: AsyncCollection[Document], since: datetime) -> LetterTally:
    """How many are open, and how many came after a moment."""
    return _tally(await _rows(dead_letters, [*_counts(since)]))


async def tally_by_device(dead_letters: AsyncCollection[Document], since: datetime) -> DeviceTally:
    """The same, and how many of the open ones of each reason are of which device."""
    rows = await _rows(dead_letters, [*_counts(since), *_devices()])
    open_of = {(Reason(row["reason"]), row["_id"]): row["count"] for row in rows if row["which"] == _DEVICE}
    return DeviceTally(_tally(row for row in rows if row["which"] != _DEVICE), open_of)


async def _rows(dead_letters: AsyncCollection[Document], parts: list[list[Document]]) -> list[Document]:
    """What all of these count, in one command."""
    first, *others = parts
    steps = first + [{"$unionWith": {"coll": dead_letters.name, "pipeline": each}} for each in others]
    most = len(Reason) * limits.DEAD_LETTERS_COUNTED_MAX + len(parts) + 1
    found = await dead_letters.aggregate(steps, batchSize=most)
    return await found.to_list()


def _tally(rows: Iterable[Document]) -> LetterTally:
    counted = {(row["reason"], row["which"]): row["count"] for row in rows}

    def counts(reason: str | None) -> LetterCounts:
        return LetterCounts(counted.get((reason, "open"), 0), counted.get((reason, "received"), 0))

    by_reason = {reason: counts(reason.value) for reason in Reason}
    return LetterTally(counts(None), {reason: each for reason, each in by_reason.items() if any(each)})


def _devices() -> Iterator[list[Document]]:
    """The steps that count the open letters of each reason by device."""
    for reason in Reason:
        yield [
            {"$match": {"reasons": reason.value} | _IS_OPEN},
            {"$limit": limits.DEAD_LETTERS_COUNTED_MAX},
            {"$group": {"_id": "$device_id", "count": {"$sum": 1}}},
            {"$set": {"reason": reason.value, "which": _DEVICE}},
        ]


def _counts(since: datetime) -> Iterator[list[Document]]:
    """The steps of each count; one that counts nothing gives no row."""
    for reason in (None, *Reason):
        own: Document = {} if reason is None else {"reasons": reason.value}
        for which, chosen in (("open", _IS_OPEN), ("received", {"received_at": {"$gt": since}})):
            yield [
                {"$match": own | chosen},
                {"$limit": limits.DEAD_LETTERS_COUNTED_MAX},
                {"$count": "count"},
                {"$set": {"reason": None if reason is None else reason.value, "which": which}},
            ]
