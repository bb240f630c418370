"""Spreads the events over the shards of a cluster: a range of `_id` for each bucket.

The shard key is `{_id: 1}`: an event's `_id` begins with its bucket, and the index over it is there anyway.
Of all collections `sync_events` alone grows without end; the others stay on the database's own shard.
"""

from dataclasses import dataclass
from typing import Any, Final

from bson.min_key import MinKey
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import OperationFailure

from pisync import clock, limits
from pisync.errors import ConfigurationError, PiSyncError
from pisync.stores.mongodb.connection import (
    AUTHENTICATION_FAILED,
    UNAUTHORIZED,
    Document,
    MongoConnection,
    map_driver_errors,
)

COLLECTION: Final = "sync_events"
SHARD_KEY: Final = {"_id": 1}
WRITTEN_DOWN: Final = "sharding"
"""The document of `schema` that says what was done, the newest time last."""

_MONGOS: Final = "isdbgrid"
_ALREADY_INITIALIZED: Final = 23
_IN_SCHEMA_MAX: Final = -50


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharded:
    """What a run found and did: on which shards, where it split, how many ranges it moved.

    `had_events`: where there are events, moving them is the balancer's, which goes by their bytes.
    """

    shards: tuple[str, ...]
    split_at: tuple[int, ...]
    moved: int
    had_events: bool


async def shard(connection: MongoConnection) -> Sharded:
    """Have the events be sharded by bucket; may be repeated, and does what is not done yet.

    Raises:
        ConfigurationError: this is no mongos, or its user may not shard.
        PiSyncError: the collection is sharded by another key.
        MongodbUnavailable: it is unavailable; another run goes on from there.
    """
    with map_driver_errors():
        try:
            return await shard_database(connection.database)
        except OperationFailure as error:
            if error.code in {AUTHENTICATION_FAILED, UNAUTHORIZED}:
                raise ConfigurationError(
                    "PISYNC_MONGODB_URL: this user may not shard a collection, or not write down that it did;"
                    " use one, for this command alone, with the role clusterManager on admin beside readWrite"
                    f" and dbAdmin on the database (MongoDB's code is {error.code})"
                ) from None
            raise


async def shard_database(database: AsyncDatabase[Document]) -> Sharded:
    """The same; errors are the driver's."""
    admin = database.client.admin
    if (await admin.command("hello")).get("msg") != _MONGOS:
        raise ConfigurationError(
            "PISYNC_MONGODB_URL names no mongos but a single server or a replica set, which has no shards;"
            " nothing was changed. Start config servers, shards and a mongos, add the shards there"
            " (`sh.addShard`), and name the mongos; without shards there is nothing to do"
        )
    namespace = f"{database.name}.{COLLECTION}"
    had_events = await database[COLLECTION].find_one({}, {"_id": 1}) is not None
    found = (await admin.command("listShards"))["shards"]
    shards = tuple(sorted(each["_id"] for each in found if not each.get("draining")))
    if not shards:
        raise PiSyncError(
            "the cluster has no shard that takes ranges; nothing was changed. Add one (`sh.addShard`)"
        )
    await admin.command({"enableSharding": database.name})
    try:
        await admin.command({"shardCollection": namespace, "key": SHARD_KEY})
    except OperationFailure as error:
        if error.code != _ALREADY_INITIALIZED:
            raise
        raise PiSyncError(
            f"{namespace} is sharded already, and not by {{_id: 1}}; nothing was changed. MongoDB"
            " gives it another key with `reshardCollection`"
        ) from None
    # A range may begin within a bucket, too, as the balancer splits.
    beginnings = [each["min"]["_id"] for each in await _chunks(database, namespace)]
    split_at = tuple(bucket for bucket in range(1, limits.BUCKETS) if {"bucket": bucket} not in beginnings)
    for bucket in split_at:
        await admin.command({"split": namespace, "middle": {"_id": {"bucket": bucket}}})
    moved = 0 if had_events else await _spread(database, namespace, shards)
    done = Sharded(shards=shards, split_at=split_at, moved=moved, had_events=had_events)
    await _write_down(database, done)
    return done


async def _spread(database: AsyncDatabase[Document], namespace: str, shards: tuple[str, ...]) -> int:
    """Give each shard as many buckets that follow one another: no balancer moves ranges without bytes."""
    moved = 0
    for chunk in await _chunks(database, namespace):
        wanted = shards[_bucket(chunk) * len(shards) // limits.BUCKETS]
        if chunk["shard"] != wanted:
            bounds = [chunk["min"], chunk["max"]]
            await database.client.admin.command({"moveChunk": namespace, "bounds": bounds, "to": wanted})
            moved += 1
    return moved


async def _chunks(database: AsyncDatabase[Document], namespace: str) -> list[Document]:
    """The ranges that there are, as the config servers have them."""
    config = database.client["config"]
    collection = await config["collections"].find_one({"_id": namespace})
    if collection is None:
        raise PiSyncError(f"the cluster does not know {namespace} yet; run this again")
    return await config["chunks"].find({"uuid": collection["uuid"]}).sort("min", 1).to_list()


def _bucket(chunk: Document) -> int:
    """The bucket that a range begins with, or in: the first begins before all.

    Keys of version 1, which have none, come after all others.
    """
    beginning: Any = chunk["min"]["_id"]
    return 0 if isinstance(beginning, MinKey) else int(beginning.get("bucket", limits.BUCKETS - 1))


async def _write_down(database: AsyncDatabase[Document], done: Sharded) -> None:
    run = {
        "at": clock.now(),
        "collection": COLLECTION,
        "key": SHARD_KEY,
        "shards": list(done.shards),
        "split_at": list(done.split_at),
        "moved": done.moved,
        "had_events": done.had_events,
    }
    await database["schema"].update_one(
        {"_id": WRITTEN_DOWN}, {"$push": {"runs": {"$each": [run], "$slice": _IN_SCHEMA_MAX}}}, upsert=True
    )
