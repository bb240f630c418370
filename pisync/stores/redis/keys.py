"""The names of keys in Redis."""

import zlib
from typing import Final

from pisync import limits

# Which bridge rebuilds, and how far any replay is; both expire when nobody renews them.
REBUILDER: Final = "pisync:rebuilder"


PROGRESS: Final = "pisync:replay"


def root(number: int) -> str:
    """What every key of a shard begins with."""
    return f"pisync:{{{number:02}}}"


_ROOTS: Final = tuple(root(number) for number in range(limits.SHARDS))


def shard(device_id: str) -> str:
    """The root of the shard that holds a device."""
    return _ROOTS[zlib.crc32(device_id.encode()) % limits.SHARDS]
