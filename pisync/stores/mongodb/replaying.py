"""Reads of very many stored events: what a replay needs of each, and the next while some are worked on."""

import asyncio
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
# No zone and no class of ours, so that the driver decodes a batch without calling into Python.
_OPTIONS: Final[CodecOptions[Document]] = CodecOptions()


async def documents(cursor: AsyncRawBatchCursor[Document]) -> AsyncGenerator[list[Document]]:
    """What a cursor finds, reply after reply, each of bounded size; the next is read meanwhile."""

    async def reply() -> Any:
        return await anext(cursor, None)

    reading = asyncio.create_task(reply())
    try:
        while (found := await reading) is not None:
            reading = asyncio.create_task(reply())
            if batch := decode_all(found, _OPTIONS):
                yield batch
    finally:
        await tasks.cancel([reading])


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
