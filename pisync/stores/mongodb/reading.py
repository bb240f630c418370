"""Reads of stored events, bounded by bytes: the `errors` of one may have hundreds of KiB."""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from pymongo.asynchronous.collection import AsyncCollection

from pisync import limits
from pisync.clock import to_ms
from pisync.domain.events import CONTENT
from pisync.stores.mongodb.connection import Document

Key = tuple[str, int]
WITHOUT_ERRORS: Final = {name: 1 for name in (*CONTENT, "received_at") if name != "errors"}
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


async def errors_of(events: AsyncCollection[Document], found: Iterable[Document]) -> Mapping[Key, Any]:
    """The errors of documents that came without them, in one round trip."""
    ids = [document["_id"] for document in found]
    if not ids:
        return {}
    some = events.find({"_id": {"$in": ids}}, {"errors": 1}).batch_size(len(ids))
    return {key(document): document.get("errors") async for document in some}


async def stored(
    events: AsyncCollection[Document], bare: Sequence[Document], full: Sequence[Document]
) -> AsyncIterator[Document]:
    """The documents with these ids, in any order, some bare of errors; few of their bytes at once."""
    if bare:
        async for found in events.find({"_id": {"$in": bare}}, WITHOUT_ERRORS).batch_size(len(bare)):
            yield found
    if full:
        large: list[Document] = []
        async for found in events.find({"_id": {"$in": full}}, with_size()).batch_size(len(full)):
            if is_large(found):
                large.append(found)
            else:
                yield found
        for some in _split(large):
            errors = await errors_of(events, some)
            for found in some:
                yield found | {"errors": errors.get(key(found))}


def _split(found: list[Document]) -> Iterator[list[Document]]:
    while found:
        some = first_of(found, limits.COMPARED_BYTES_MAX)
        yield some
        found = found[len(some) :]
