"""Reads of very many stored events: what a replay needs of each, and the next while some are worked on."""

import asyncio
import struct
import zlib
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Iterator
from itertools import groupby
from typing import Any, Final

from bson import CodecOptions, decode_all
from pymongo import ASCENDING
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.cursor import AsyncRawBatchCursor

from pisync import limits, tasks
from pisync.domain.accumulator import StoredEvents
from pisync.stores.mongodb.connection import Document

# Of the errors all codes: to compute the first one's costs MongoDB a third of the whole read.
PROJECTION: Final = {"errors.message": 0}
_length: Final = struct.Struct("<i").unpack_from
# Where in a document the lowest byte of its bucket is, which is below 256: `_id` is its first member and
# `bucket` the first of that. Of a document that somebody else wrote otherwise another byte tells its group.
_BUCKET_AT: Final = len(b"size\x03_id\0size\x10bucket\0")
# Of how many bytes of one bucket, some 150 events, about an eighth is left when they are compressed together.
_PACKED_BYTES: Final = 32 * 1024
# No zone and no class of ours, so that the driver decodes a batch without calling into Python.
_OPTIONS: Final[CodecOptions[Document]] = CodecOptions()


async def lie_as_they_came(events: AsyncCollection[Document]) -> bool:
    """Whether events that came one after the other mostly lie near each other on disk, by a sample.

    Those do not that were migrated from the first version, or moved from one shard to another. Without the
    index over when they came, as after a restore without indexes, they cannot be read so.
    """
    if "received_at" not in await events.index_information():
        return False
    sample = await events.aggregate(
        [{"$sample": {"size": limits.REPLAY_PLACES_LOOKED_AT}}, {"$project": {"received_at": 1}}]
    )
    near = looked_at = 0
    async for place in sample:
        found = events.find({"received_at": {"$gte": place["received_at"]}}, {"_id": 1}, show_record_id=True)
        found = found.sort("received_at", ASCENDING).hint("received_at").limit(limits.REPLAY_PLACE_EVENTS)
        records = [document["$recordId"] async for document in found]
        for at, record in enumerate(records[1:], start=1):
            # Several shards give theirs in turn.
            before = records[max(0, at - limits.REPLAY_NEAR_BEFORE) : at]
            near += any(abs(record - other) <= limits.REPLAY_NEAR_RECORDS for other in before)
            looked_at += 1
    return near * 2 >= looked_at


async def replies(cursor: AsyncRawBatchCursor[Document]) -> AsyncGenerator[bytes]:
    """What a cursor finds, as BSON; while a reply, which is bounded, is worked on, the next comes."""

    async def reply() -> Any:
        return await anext(cursor, None)

    reading = asyncio.create_task(reply())
    try:
        while (found := await reading) is not None:
            reading = asyncio.create_task(reply())
            yield found
    finally:
        await tasks.cancel([reading])


def parts(reply: bytes) -> Iterator[bytes]:
    """A reply's documents, as many at a time as are worked on at once; each begins with its length."""
    start = end = 0
    while start < len(reply):
        for _ in range(limits.REPLAY_EVENTS_AT_ONCE):
            if end < len(reply):
                end += _length(reply, end)[0]
        yield reply[start:end]
        start = end


def documents(part: bytes) -> list[Document]:
    """Documents of a part."""
    return decode_all(part, _OPTIONS)


class Grouped:
    """Documents that were read in the order in which they lie on disk, grouped by their buckets.

    The order of their keys is another one: who reads in it fetches a page of documents once for each bucket
    that it has some of, unless MongoDB's cache holds all pages of a day. So they are read as they lie, and
    held here, compressed, until there are many of one bucket: a device is merged once for all of its events
    among them.
    """

    def __init__(self) -> None:
        self._packed: defaultdict[int, deque[bytes]] = defaultdict(deque)
        self._latest: defaultdict[int, bytearray] = defaultdict(bytearray)
        self._bytes: defaultdict[int, int] = defaultdict(int)
        self.bytes_held = 0
        # Of the bucket that is being given, what comes next.
        self._given: deque[bytes] = deque()

    def add(self, part: bytes) -> Document:
        """Hold the documents of a part; returns the last one."""
        groups, last, start = self._latest, 0, 0
        while start < len(part):  # for every event that is stored: no function is called that need not be
            last, start = start, start + _length(part, start)[0]
            groups[part[last + _BUCKET_AT]] += part[last:start]
        for name in [name for name, latest in groups.items() if len(latest) >= _PACKED_BYTES]:
            self._pack(name)
        return documents(part[last:])[0]

    def holds_more_than(self, bytes_max: int) -> bool:
        """Whether something has to be given."""
        return bool(self._given) or self.bytes_held > bytes_max

    def largest(self) -> Iterator[bytes]:
        """Parts of the bucket that has most; each is held until the next is asked for."""
        name = max(self._bytes, key=self._bytes.__getitem__, default=0)
        packed = self._packed[name]
        while self._given or packed:  # it goes on where it was interrupted
            if not self._given:
                some = packed.popleft()
                self._count(name, -len(some))
                self._given.extend(parts(zlib.decompress(some)))
            yield self._given[0]
            self._given.popleft()
        del self._packed[name]
        self._bytes.pop(name, None)

    def pack(self) -> None:
        """Compress what waits for more of its bucket: no more is to come."""
        for name in list(self._latest):
            self._pack(name)

    def _pack(self, name: int) -> None:
        packed = zlib.compress(self._latest.pop(name), zlib.Z_BEST_SPEED)
        self._packed[name].append(packed)
        self._count(name, len(packed))

    def _count(self, name: int, size: int) -> None:
        self._bytes[name] += size
        self.bytes_held += size


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
