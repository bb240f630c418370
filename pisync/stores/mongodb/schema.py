"""The version of the events' key in MongoDB: what a program may work with, and what it must refuse.

| version | `_id` of an event |
|---|---|
| 1 | `{device_id, timestamp}`; no version is written down |
| 2 | `{bucket, day, device_id, timestamp}` |

Beside it stands `oldest`, the oldest version of a program that may work with what is stored. A change that
such a program need not know (a member, a collection, an index) has a version of its own and leaves `oldest`:
programs of both work beside each other, and the newer ones read what either writes. Once none of the older is
left, a later version raises `oldest`. Both only ever rise. Where none is written down, it is the version.
"""

from typing import Any, Final

from pymongo import ASCENDING, IndexModel
from pymongo.asynchronous.collection import AsyncCollection

from pisync.errors import ConfigurationError
from pisync.stores.mongodb.by_device import FAILURES_INDEX, IS_FAILURE, KEY
from pisync.stores.mongodb.connection import Document

Events = AsyncCollection[Document]
VERSION: Final = 2
OLDEST: Final = 2
# Documents are compared by their first members: texts follow all numbers.
OF_VERSION_1: Final[Document] = {"_id": {"$gte": {"device_id": ""}}}

_INDEXES: Final = (
    IndexModel([("received_at", ASCENDING)], name="received_at"),
    IndexModel([("enriched_at", ASCENDING)], name="enriched_at", sparse=True),
    # With the number of errors, or counting would read every event for the filter, which is the index's own.
    IndexModel(
        [(name, ASCENDING) for name in (*KEY, "total_errors")],
        name=FAILURES_INDEX,
        partialFilterExpression=IS_FAILURE,
    ),
)


async def check(events: Events) -> None:
    """Return where all events are of the version that this program knows.

    Raises:
        ConfigurationError: they are not; the text says what to do.
    """
    await refuse_newer(events)
    version = await written_version(events)
    if (version is None or version >= OLDEST) and not await has_version_1(events):
        return
    raise ConfigurationError(
        f"MongoDB holds events of an older version than this program's ({VERSION}): stop all programs of the"
        " older version, run `pisync migrate`, and start again; until then the broker keeps what devices send"
    )


async def refuse_newer(events: Events) -> None:
    """Return where the events are not of a newer version.

    Raises:
        ConfigurationError: they are, or what is written down is no version.
    """
    version, oldest = await _written(events)
    if version is None or (_is_number(version) and version in range(1, VERSION + 1)):
        return
    if _is_number(version) and version > VERSION:
        if _is_number(oldest) and oldest <= VERSION:
            return
        raise ConfigurationError(
            f"MongoDB holds events of version {version}, which a newer program made; this one knows them up"
            f" to version {VERSION}: update it"
        )
    raise ConfigurationError(
        f"the collection `schema` of MongoDB says {version!r} of `{events.name}`, which is no version that a"
        " program writes: write the number there that it had"
    )


async def written_version(events: Events) -> Any:
    """The version that is written down, of whatever type; None: there is none."""
    version, _ = await _written(events)
    return version


async def _written(events: Events) -> tuple[Any, Any]:
    """The version and the oldest of a program, of whatever type; None: there is none."""
    found = await events.database["schema"].find_one({"_id": events.name})
    return (None, None) if found is None else (found.get("version", 0), found.get("oldest"))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


async def write_version(events: Events, version: int) -> None:
    """Write it down, in place of a lower one, and what programs it takes at least."""
    oldest = min(version, OLDEST)
    await events.database["schema"].update_one(
        {"_id": events.name}, {"$max": {"version": version, "oldest": oldest}}, upsert=True
    )


async def has_version_1(events: Events) -> bool:
    """Whether any event still has the key of version 1."""
    return await events.find_one(OF_VERSION_1, {"_id": 1}, hint="_id_") is not None


async def create_indexes(events: Events) -> None:
    """Create what is absent."""
    await events.create_indexes(list(_INDEXES))
