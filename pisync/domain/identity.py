"""An event's identity as a key whose order is the order in which events are stored and found.

`bucket` and `day` follow from the device and the timestamp, so that they tell no two events apart that those
do not: an insert of the key is the duplicate check. They lead it so that inserts touch the pages of the days
that arrive, and so that all of a device lies in one bucket, by which a cluster may be split.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from zlib import crc32

from pisync import limits
from pisync.domain.events import SyncEvent

MEMBERS: Final = ("bucket", "day", "device_id", "timestamp")
"""The members of a key; their order is part of it."""

_FIRST: Final = date(1970, 1, 1)


def bucket_of(device_id: str) -> int:
    """The bucket in which all events of the device are."""
    return crc32(device_id.encode()) % limits.BUCKETS


def day_of(moment: datetime) -> int:
    """The UTC date of an aware moment as a number such as 20260508."""
    return _number(moment.astimezone(UTC).date())


def day_since_1970(days: int) -> int:
    """The day that is so many days after 1970-01-01."""
    return _number(_FIRST + timedelta(days=days))


def days_before(day: int, count: int, earliest: int) -> list[int]:
    """The day and those before it, newest first: so many, but none before the earliest."""
    newest = _date(day)
    count = min(count, (newest - _date(earliest)).days + 1)
    return [_number(newest - timedelta(days=back)) for back in range(count)]


def back(day: int, count: int) -> int:
    """The day so many days before."""
    return _number(_date(day) - timedelta(days=count))


def days_from(day: int, newest: int) -> int:
    """How many days there are from a day to another that is not before it, both included."""
    return (_date(newest) - _date(day)).days + 1


def identity(device_id: str, timestamp: datetime) -> dict[str, Any]:
    """The key of one event; `identities` makes those of many."""
    return {
        "bucket": bucket_of(device_id),
        "day": day_of(timestamp),
        "device_id": device_id,
        "timestamp": timestamp,
    }


def identities(events: Sequence[SyncEvent]) -> list[dict[str, Any]]:
    """The key of each event.

    It is made for every event that comes in: `map` calls what is written in C from C, and no function is
    called for one event.
    """
    hashes = map(crc32, map(str.encode, [event.device_id for event in events]))
    moments = [
        moment if moment.tzinfo is UTC else moment.astimezone(UTC)
        for moment in [event.timestamp for event in events]
    ]
    return [
        {
            "bucket": hashed % limits.BUCKETS,
            "day": moment.year * 10_000 + moment.month * 100 + moment.day,
            "device_id": event.device_id,
            "timestamp": moment,
        }
        for event, moment, hashed in zip(events, moments, hashes, strict=True)
    ]


def _number(day: date) -> int:
    return day.year * 10_000 + day.month * 100 + day.day


def _date(day: int) -> date:
    return date(day // 10_000, day // 100 % 100, day % 100)
