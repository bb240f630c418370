"""The keys in Redis: their names, and which shard holds a device.

Keys of a shard (a hash tag, so one slot of a Redis Cluster), devices being spread by the CRC-32 of their id:

| key | what |
|---|---|
| `pisync:3:{42}:heads` | hash: device → its facts but for its failures, packed (`packing.py`) |
| `pisync:3:{42}:failures:ID` | string of its failures, the newest `limits.FAILURES_KEPT_MAX` and a few more |
| `pisync:3:{42}:by:failures`, `by:streak`, `by:last_seen` | sorted sets of the devices with failures |
| `pisync:3:{42}:by:changed` | sorted set of all devices, by the number of the call that changed them last |
| `pisync:3:{42}:alerting:streak` | set of the devices whose alert of that rule is open and confirmed |
| `pisync:3:{42}:epoch` | which projection this is; without it there is none |
| `pisync:3:{42}:watermarks` | hash: bridge → all its events received before this are merged |
| `pisync:3:{42}:merged_until` | hash: bridge → all its events stored before this are merged (below) |
| `pisync:3:{42}:catching_up` | sorted set: bridges that catch up, by until when they keep alerts silent |
| `pisync:3:{42}:catching_up_since` | hash: the same bridges, since when (s) |
| `pisync:3:{42}:pending` | there while a rebuild is not complete |
| `pisync:3:{42}:dropped` | there from when a rebuild takes the shard's epoch away until there is a new one |
| `pisync:3:{42}:quiet` | there for the first minutes of a rebuild, in which it keeps alerts silent |

The number behind `pisync:` is that of the layout: a program that knows another one finds no projection, and
builds one, instead of misreading this. A `merged_until` is a time by Redis's own clock (ms); or `stopped:`
and the instance of the bridge that ended with nothing left to merge; it is absent while that catches up.
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
# All keys of all shards, as SCAN matches them, and those of former layouts.
PATTERN: Final = "pisync:3:{*}:*"
FORMER_PATTERNS: Final = ("pisync:{*}:*", "pisync:2:{*}:*")
# Hash tags, one a shard, such that shard n lies in the nth sixteenth of the slots of a Redis Cluster: nodes
# with equal ranges of slots have equally many shards. Otherwise they mean nothing.
TAGS: Final = ("10", "3", "61", "43", "11", "2", "60", "42", "12", "1", "63", "41", "13", "0", "62", "40")
# What every key of a shard begins with.
ROOTS: Final = tuple(f"pisync:3:{{{tag}}}" for tag in TAGS)


def shard(device_id: str) -> str:
    """The root of the shard that holds a device."""
    return ROOTS[zlib.crc32(device_id.encode()) % limits.SHARDS]


def root_of(key: str) -> str:
    """The root of the shard that holds a key."""
    return key[: key.index("}") + 1]


def epoch(root: str) -> str:
    """The key of a shard's epoch, which scripts are called with: it exists, and the root is in its name.

    A key that does not exist would make a Redis Cluster that moves the slot answer ASK.
    """
    return f"{root}:epoch"
