"""Counts dead letters by reason: a bounded range of an index for each count, and one command for all."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from pymongo import ASCENDING
from pymongo.asynchronous.collection import AsyncCollection

from pisync import limits
from pisync.clock import EPOCH
from pisync.domain.events import Reason
from pisync.stores.interfaces.dead_letters import LetterCounts, LetterTally
from pisync.stores.mongodb.connection import Document

# The indexes that open letters are counted by, of all reasons and of one.
OPEN: Final = [("replayed_at", ASCENDING)]
OPEN_OF_REASON: Final = [("reasons", ASCENDING), *OPEN]
# That a member is absent is read in the document; that it is no moment, in the key of an index.
_IS_OPEN: Final[Document] = {"replayed_at": {"$not": {"$gte": EPOCH}}}


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
        for which, chosen in (("open", _IS_OPEN), ("received", {"received_at": {"$gt": since}})):
            yield [
                {"$match": own | chosen},
                {"$limit": limits.DEAD_LETTERS_COUNTED_MAX},
                {"$count": "count"},
                {"$set": {"reason": None if reason is None else reason.value, "which": which}},
            ]
