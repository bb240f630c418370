"""What `pisync init-db` prints and does around the work."""

import uvloop
from rich.console import Console

from pisync import limits
from pisync.settings import CommonSettings
from pisync.stores.mongodb import sharding
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.events import MongoEventStore


def run(settings: CommonSettings, *, shard: bool) -> None:
    """Make the indexes, and the shards.

    Raises:
        PiSyncError: it is not done, and why.
    """
    uvloop.run(_main(settings, shard=shard))


async def _main(settings: CommonSettings, *, shard: bool) -> None:
    console = Console(highlight=False)
    connection = MongoConnection(settings.mongodb_url)
    try:
        events = MongoEventStore(connection)
        await events.check_version()
        done = await sharding.shard(connection) if shard else None
        await events.prepare()
        for line in ["The events have their indexes.", *([] if done is None else told(done))]:
            console.print(line, soft_wrap=True)
    finally:
        await connection.close()


def told(done: sharding.Sharded) -> list[str]:
    """What was done, in sentences."""
    where = ", ".join(done.shards)
    lines = [
        f"{sharding.COLLECTION} is sharded by {{_id: 1}}, of which the bucket comes first.",
        f"Split at {len(done.split_at)} of {limits.BUCKETS - 1} buckets; the others were split before.",
    ]
    if done.had_events:
        lines.append(f"There are events: spreading them over {where} is the balancer's, and takes its time.")
    else:
        lines.append(f"Moved {done.moved} ranges, so that {where} have as many buckets each.")
    return [*lines, f"Written down in `schema`, document `{sharding.WRITTEN_DOWN}`."]
