"""Reads of stored events, bounded by bytes: the `errors` of one may have hundreds of KiB."""

from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import repeat
from typing import Any, Final

from bson.int64 import Int64
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.cursor import AsyncCursor

from pisync import limits
from pisync.clock import to_ms
from pisync.domain.events import CONTENT, ErrorDetail
from pisync.stores.mongodb.connection import Document

Key = tuple[str, int]
WITHOUT_ERRORS: Final[dict[str, Any]] = {name: 1 for name in (*CONTENT, "received_at") if name != "errors"}
# Of the errors the code of the first, empty where there is none; no state of a device needs more.
FIRST_CODE: Final = {"$substrCP": [{"$first": "$errors.code"}, 0, limits.ERROR_CODE_CHARS_MAX]}
FIRST_MESSAGE: Final = {"$substrCP": [{"$first": "$errors.message"}, 0, limits.SAMPLE_CHARS_MAX]}
WITH_FIRST_CODE: Final = {**WITHOUT_ERRORS, "code": FIRST_CODE}
_SIZE: Final = {"$bsonSize": "$$ROOT"}


def key(document: Document) -> Key:
    """What tells a document from every other, as a key of a dictionary."""
    return document["_id"]["device_id"], to_ms(document["_id"]["timestamp"])


def with_size() -> dict[str, Any]:
    """The projection that gives the `size` of each document, and the errors of those that are small."""
    is_small = {"$lte": [_SIZE, limits.EVENT_BYTES_AT_ONCE]}
    return {**WITHOUT_ERRORS, "size": _SIZE, "errors": {"$cond": [is_small, "$errors", "$$REMOVE"]}}


def is_large(found: Document) -> bool:
    """Whether a document that was read so came without the errors that it may have."""
    size: int = found["size"]
    return size > limits.EVENT_BYTES_AT_ONCE


def first_of(found: list[Document], bytes_max: int) -> list[Document]:
    """The first documents, one at least, that have so many bytes together at most."""
    total = 0
    for index, document in enumerate(found):
        total += document["size"]
        if total > bytes_max and index:
            return found[:index]
    return found


async def with_errors(events: AsyncCollection[Document], found: list[Document]) -> list[Document]:
    """The documents, with the errors of those that came without them: in one round trip, if there are any."""
    ids = [document["_id"] for document in found if is_large(document)]
    if not ids:
        return found
    some = _of_ids(events, ids, {"errors": 1})
    errors = {_values(document): document.get("errors") async for document in some}
    return [
        document | {"errors": errors.get(_values(document))} if is_large(document) else document
        for document in found
    ]


async def first_errors(events: AsyncCollection[Document], ids: Sequence[Document]) -> dict[Key, ErrorDetail]:
    """Of these events the first error, in one round trip; of those that tell of none, none."""
    if not ids:
        return {}
    found = _of_ids(events, ids, {"code": FIRST_CODE, "message": FIRST_MESSAGE})
    return {
        key(document): ErrorDetail(code=document["code"], message=document["message"])
        async for document in found
        if document["code"] or document["message"]
    }


def with_plain_integers(found: list[Document]) -> list[Document]:
    """The documents, whose integers of 2³¹ and more the driver made of a class of its own: plain now.

    The driver would do it, too, but reads the whole reply twice then (`_PlainIntegers` in `connection.py`).
    """
    for name in CONTENT:
        # One look at all documents, in C: hardly any has one.
        if Int64 in map(type, map(dict.get, found, repeat(name))):
            for document in found:
                if name in document:
                    document[name] = _plain(document[name])
    for document in found:
        if document.get("errors"):
            document["errors"] = _plain(document["errors"])
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Int64):
        return int(value)
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return value


def _of_ids(
    events: AsyncCollection[Document], ids: Sequence[Document], projection: Document
) -> AsyncCursor[Document]:
    """In one round trip: without the limit the driver would ask whether there are more."""
    return events.find({"_id": {"$in": ids}}, projection).limit(len(ids)).batch_size(len(ids))


def _values(document: Document) -> tuple[Any, ...]:
    return tuple(document["_id"].values())


async def stored(
    events: AsyncCollection[Document], bare: Sequence[Document], full: Sequence[Document]
) -> AsyncIterator[list[Document]]:
    """The documents with these ids, in any order, some bare of errors; few of their bytes at once."""
    if bare:
        cursor = _of_ids(events, bare, WITHOUT_ERRORS)
        while some := await cursor.to_list(limits.COMPARED_AT_ONCE):
            yield some
    if full:
        large: list[Document] = []
        cursor = _of_ids(events, full, with_size())
        while some := await cursor.to_list(limits.COMPARED_AT_ONCE):
            large += filter(is_large, some)
            yield [found for found in some if not is_large(found)]
        for some in _split(large):
            yield await with_errors(events, some)


def _split(found: list[Document]) -> Iterator[list[Document]]:
    while found:
        some = first_of(found, limits.COMPARED_BYTES_MAX)
        yield some
        found = found[len(some) :]
