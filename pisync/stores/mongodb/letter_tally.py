"""Counts dead letters by reason: a bounded range of an index for each count, and one command for all."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from pymongo import ASCENDING
from pymongo.asynchronous.collection import AsyncCollection

from pisync import limits
from pisync.domain.events import Reason
from pisync.stores.interfaces.dead_letters import LetterCounts, LetterTally
from pisync.stores.mongodb.connection import Document

# The index that open letters are counted by.
OPEN: Final = [("replayed_at", ASCENDING), ("reasons", ASCENDING)]


async def tally(dead_letters: AsyncCollection[Document], since: datetime) -> LetterTally:
    """How many are open, and how many came after a moment."""
    first, *others = _counts(since)
    steps = first + [{"$unionWith": {"coll": dead_letters.name, "pipeline": each}} for each in others]
    counted: dict[tuple[str | None, str], int] = {}
    found = await dead_letters.aggregate(steps, batchSize=len(others) + 2)
    for row in await found.to_list():
        counted[row["reason"], row["which"]] = row["count"]

    def counts(reason: str | None) -> LetterCounts:
        return LetterCounts(counted.get((reason, "open"), 0), counted.get((reason, "received"), 0))

    by_reason = {reason: counts(reason.value) for reason in Reason}
    return LetterTally(counts(None), {reason: each for reason, each in by_reason.items() if any(each)})


def _counts(since: datetime) -> Iterator[list[dict[str, Any]]]:
    """The steps of each count; one that counts nothing gives no row."""
    for reason in (None, *Reason):
        own: Document = {} if reason is None else {"reasons": reason.value}
        for which, chosen in (("open", {"replayed_at": None}), ("received", {"received_at": {"$gt": since}})):
            yield [
                {"$match": own | chosen},
                {"$limit": limits.DEAD_LETTERS_COUNTED_MAX},
                {"$count": "count"},
                {"$set": {"reason": None if reason is None else reason.value, "which": which}},
            ]
