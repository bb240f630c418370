"""The keys in Redis: their names, and which shard holds a device.

Keys of a shard (a hash tag, so one slot of a Redis Cluster), devices being spread by the CRC-32 of their id:

| key | what |
|---|---|
| `pisync:{07}:device:ID` | hash: `last_success`, `last_seen`, `last_event` |
| `pisync:{07}:failures:ID` | sorted set of failure times, the newest `limits.FAILURES_KEPT_MAX` |
| `pisync:{07}:by:failures`, `by:streak`, `by:last_seen` | sorted sets of the failing devices |
| `pisync:{07}:alerting:streak` | set of the devices whose alert of that rule is open and confirmed |
| `pisync:{07}:epoch` | which projection this is; without it there is none |
| `pisync:{07}:watermarks` | hash: bridge → all its events received before this are merged |
| `pisync:{07}:merged_until` | hash: bridge → all its events stored before this are merged (below) |
| `pisync:{07}:catching_up` | sorted set: bridges that catch up, by until when they keep alerts silent |
| `pisync:{07}:catching_up_since` | hash: the same bridges, since when (s) |
| `pisync:{07}:pending` | there while a rebuild is not complete |
| `pisync:{07}:quiet` | there for the first minutes of a rebuild, in which it keeps alerts silent |

A `merged_until` is a time by Redis's own clock (ms); or `stopped:` and the instance of the bridge that ended
with nothing left to merge. It is absent while the bridge catches up.
"""

import zlib
from typing import Final

from pisync import limits
from pisync.domain.alerts import Rule

# Which bridge rebuilds, and how far any replay is; both expire when nobody renews them.
REBUILDER: Final = "pisync:rebuilder"
PROGRESS: Final = "pisync:replay"
# How many keys each Redis process had evicted when the projection was begun: a hash, by its run id.
EVICTED: Final = "pisync:evicted"
# Which bridge compares everything; it expires when nobody renews it.
COMPARER: Final = "pisync:comparer"
# What follows a shard's root in the key of its confirmed alerts; the scripts name it too.
ALERTING: Final = f"alerting:{Rule.STREAK}"
# All keys of all shards, as SCAN matches them.
PATTERN: Final = "pisync:{[0-9][0-9]}:*"


def root(number: int) -> str:
    """What every key of a shard begins with."""
    return f"pisync:{{{number:02}}}"


ROOTS: Final = tuple(root(number) for number in range(limits.SHARDS))


def shard(device_id: str) -> str:
    """The root of the shard that holds a device."""
    return ROOTS[zlib.crc32(device_id.encode()) % limits.SHARDS]


def root_of(key: str) -> str:
    """The root of the shard that holds a key."""
    return key[: len(ROOTS[0])]
