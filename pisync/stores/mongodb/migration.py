"""Moves events from the key of version 1 to the present one.

A copy under the new key is durable before the old document is deleted, so that a run may be killed anywhere
and another goes on: what was copied and not deleted is copied again, which changes nothing. No bridge starts
before it is done (`pisync/stores/mongodb/schema.py`).
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from pymongo import ASCENDING
from pymongo.errors import BulkWriteError, OperationFailure

from pisync import clock, limits
from pisync.domain.identity import bucket_of, day_of
from pisync.errors import PiSyncError
from pisync.stores.interfaces.events import InsertOutcome
from pisync.stores.mongodb import schema
from pisync.stores.mongodb.connection import DUPLICATE_KEY, Document, MongoConnection, map_driver_errors
from pisync.stores.mongodb.enrichment import compare_and_enrich
from pisync.stores.mongodb.schema import Events

# Indexes of version 1, which the present ones replace.
_REPLACED: Final = ("failures", "failures_by_device")


async def migrate(connection: MongoConnection, progress: Callable[[int, int], None]) -> int:
    """Bring all events to the present version; returns how many were moved.

    Args:
        connection: the database.
        progress: called with how many are moved, and of about how many.

    Raises:
        ConfigurationError: they are of a newer version.
        PiSyncError: bridges of the older version run, or two events have one identity and other content.
        MongodbUnavailable: it is unavailable; another run goes on from there.
    """
    events = connection.database.get_collection("sync_events")
    moved = 0
    with map_driver_errors():
        await schema.refuse_newer(events)
        if await schema.has_version_1(events):
            await _refuse_while_bridges_run(events)
            # Bridges of this version ran already, and their projection has all that was received before some
            # time: it learns of what is moved now as of what was enriched.
            written = await schema.written_version(events)
            is_known = written is not None and written >= schema.VERSION
            marks: Document = {"enriched_at": clock.now()} if is_known else {}
            # From here on a bridge that finds no event of version 1 does not take that for a new database.
            await schema.write_version(events, 1)
            for name in _REPLACED:
                with suppress(OperationFailure):  # it is not there
                    await events.drop_index(name)
            total = await events.estimated_document_count()
            await schema.create_indexes(events)
            while await schema.has_version_1(events):
                after: Document | None = None
                while batch := await _next(events, after):
                    await _move(events, batch, marks)
                    after = batch[-1]["_id"]
                    moved += len(batch)
                    progress(moved, total)
        await schema.create_indexes(events)
        await schema.write_version(events, schema.VERSION)
    return moved


async def _refuse_while_bridges_run(events: Events) -> None:
    """Bridges of version 1 know of no version, and would go on storing under the old key."""

    async def floors() -> list[Document]:
        return await events.database["bridge_floors"].find().to_list()

    before = await floors()
    if not before:
        return
    await asyncio.sleep(limits.MIGRATION_LOOK_S)
    if await floors() != before:
        raise PiSyncError(
            "bridges are running: stop all of them first, of whatever version, and the api; nothing was"
            " changed, and the broker keeps what devices send meanwhile"
        )


async def _next(events: Events, after: Document | None) -> list[Document]:
    """The next documents in the order of the old key, as many as one reply holds."""
    reply = await events.database.command(
        {
            "find": events.name,
            "filter": schema.OF_VERSION_1 if after is None else {"_id": {"$gt": after}},
            "sort": {"_id": ASCENDING},
            "hint": "_id_",
            "limit": limits.MIGRATION_BATCH_EVENTS,
            "batchSize": limits.MIGRATION_BATCH_EVENTS,
            "singleBatch": True,
            "readConcern": {"level": "majority"},
        }
    )
    found: list[Document] = reply["cursor"]["firstBatch"]
    return found


async def _move(events: Events, batch: Sequence[Document], marks: Document) -> None:
    copies = [document | marks | {"_id": _present_key(document["_id"])} for document in batch]
    try:
        await events.insert_many(copies, ordered=False)
    except BulkWriteError as error:
        faults = error.details["writeErrors"]
        if error.details["writeConcernErrors"] or any(fault["code"] != DUPLICATE_KEY for fault in faults):
            raise
        # An earlier run was killed between the two writes, or the event came again under the new key.
        there = {fault["index"]: copies[fault["index"]] for fault in faults}
        outcomes = await compare_and_enrich(events, there, clock.now())
        for index, outcome in outcomes.items():
            if outcome in {InsertOutcome.CONFLICT, InsertOutcome.REFUSED}:
                key = copies[index]["_id"]
                raise PiSyncError(
                    f"the event of {key['device_id']} at {clock.rfc3339(key['timestamp'])} is stored with"
                    " other content under its new key; delete one of the two, and run this again"
                ) from None
    await events.delete_many({"_id": {"$in": [document["_id"] for document in batch]}})


def _present_key(key: Document) -> Document:
    # A command is decoded without the client's options: no zone.
    moment: datetime = key["timestamp"].replace(tzinfo=UTC)
    return {
        "bucket": bucket_of(key["device_id"]),
        "day": day_of(moment),
        "device_id": key["device_id"],
        "timestamp": moment,
    }
