"""Reads of very many stored events: what a replay needs of each, and the next while some are worked on."""

import asyncio
import struct
from collections.abc import AsyncGenerator, Iterator
from itertools import groupby
from typing import Any, Final, Self

import msgspec
from bson import CodecOptions, decode_all
from pymongo.asynchronous.cursor import AsyncRawBatchCursor

from pisync import limits, tasks
from pisync.domain.accumulator import StoredEvents
from pisync.stores.mongodb.connection import Document

# Of the errors all codes: to compute the first one's costs MongoDB a third of the whole read.
PROJECTION: Final = {"errors.message": 0}
_length: Final = struct.Struct("<i").unpack_from
# No zone and no class of ours, so that the driver decodes a batch without calling into Python.
_OPTIONS: Final[CodecOptions[Document]] = CodecOptions()


async def documents(cursor: AsyncRawBatchCursor[Document]) -> AsyncGenerator[list[Document]]:
    """What a cursor finds, some at a time; while a reply, which is bounded, is worked on, the next comes."""

    async def reply() -> Any:
        return await anext(cursor, None)

    reading = asyncio.create_task(reply())
    try:
        while (found := await reading) is not None:
            reading = asyncio.create_task(reply())
            for part in _parts(found):
                yield decode_all(part, _OPTIONS)
                await asyncio.sleep(0)  # live traffic beside it waits for no more than this
    finally:
        await tasks.cancel([reading])


def _parts(reply: bytes) -> Iterator[bytes]:
    """A reply's documents, as many at a time as are worked on at once; each begins with its length."""
    start = end = 0
    while start < len(reply):
        for _ in range(limits.REPLAY_EVENTS_AT_ONCE):
            if end < len(reply):
                end += _length(reply, end)[0]
        yield reply[start:end]
        start = end


class DaysRange(msgspec.Struct, frozen=True):
    """The days, as numbers such as 20260508, of which a replay of everything reads bucket after bucket.

    Documents lie in the order in which they were stored, which is about that of their days. So the pages that
    have those of one bucket have those of the others, too: read for all of them while the cache holds them,
    they are read once, and not once for each bucket.
    """

    start: int = 0
    end: int | None = None
    """The first day that is none of them; None where it is not known yet."""

    @classmethod
    def until(cls, start: int, day: int | None) -> Self:
        """Those from a day until another, or that day alone; None: until the last."""
        return cls(start, _BEHIND_ALL if day is None else max(day, start + 1))

    def following(self) -> "DaysRange | None":
        """What comes after them; None: nothing."""
        return None if self.end is None or self.end == _BEHIND_ALL else DaysRange(self.end)

    def ranges(self, after: Any) -> Iterator[Document]:
        """What identities have to be, of one find after the other; only those behind `after`."""
        if self == ALL_DAYS:
            yield {} if after is None else {"_id": {"$gt": after}}
            return
        first = 0 if after is None else after["bucket"]
        for bucket in range(first, limits.BUCKETS):
            start = {"bucket": bucket, "day": self.start}
            bounds = {"$gte": start} if after is None or bucket > first else {"$gt": after}
            yield {"_id": {**bounds, "$lt": {"bucket": bucket, "day": self.end}}}


# No day is as late.
_BEHIND_ALL: Final = 99_991_232
ALL_DAYS: Final = DaysRange(0, _BEHIND_ALL)


def from_day(start: int) -> Document:
    """The events of the first bucket from a day on: a fair sample of a fleet."""
    return {"_id": {"$gte": {"bucket": 0, "day": start}, "$lt": {"bucket": 1}}}


def batches(found: list[Document]) -> Iterator[StoredEvents]:
    """Documents that come bucket after bucket, as batches of a replay; each is of one bucket."""
    with_codes(found)
    if (bucket := _bucket(found[0])) == _bucket(found[-1]):
        yield StoredEvents(documents=found, bucket=bucket)
    else:
        for bucket, some in groupby(found, _bucket):
            yield StoredEvents(documents=list(some), bucket=bucket)


def with_codes(found: list[Document]) -> list[Document]:
    """The same documents, each with the code of its first error in place of its errors."""
    for document in found:
        if "errors" in document:
            errors = document.pop("errors")
            if errors:
                document["code"] = errors[0]["code"][: limits.ERROR_CODE_CHARS_MAX]
    return found


def _bucket(document: Document) -> int:
    bucket: int = document["_id"]["bucket"]
    return bucket
