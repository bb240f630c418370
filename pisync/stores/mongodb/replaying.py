"""Reads of very many stored events: what a replay needs of each, and the next while some are worked on."""

import asyncio
import struct
from collections.abc import AsyncGenerator, Iterator
from itertools import groupby
from typing import Any, Final

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


def batches(found: list[Document], *, by_bucket: bool) -> Iterator[StoredEvents]:
    """The documents as batches of a replay; where they come bucket after bucket, each of one bucket."""
    for document in found:
        if "errors" in document:
            errors = document.pop("errors")
            if errors:
                document["code"] = errors[0]["code"][: limits.ERROR_CODE_CHARS_MAX]
    if not by_bucket:
        yield StoredEvents(documents=found)
    elif (bucket := _bucket(found[0])) == _bucket(found[-1]):
        yield StoredEvents(documents=found, bucket=bucket)
    else:
        for bucket, some in groupby(found, _bucket):
            yield StoredEvents(documents=list(some), bucket=bucket)


def _bucket(document: Document) -> int:
    bucket: int = document["_id"]["bucket"]
    return bucket
