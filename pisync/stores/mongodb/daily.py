"""Counts events of devices by day: a range of `_id` for each device and day, many in one command."""

from collections.abc import Collection, Mapping
from typing import Any, Final

from bson.max_key import MaxKey
from bson.min_key import MinKey

from pisync import limits
from pisync.domain.identity import bucket_of, day_since_1970
from pisync.stores.interfaces.events import DayFigures
from pisync.stores.mongodb.by_device import Events, day_range
from pisync.stores.mongodb.connection import Document

_WHOLE_DAY: Final[Mapping[str, Document]] = {
    "$gt": {"timestamp": MinKey()},
    "$lt": {"timestamp": MaxKey()},
}
_IS_FAILURE: Final = {"$gt": ["$total_errors", 0]}
_IS_PARTIAL: Final = {"$and": [_IS_FAILURE, {"$gt": ["$total_files_synced", 0]}]}
_FIGURES: Final[dict[str, Any]] = {
    "_id": {name: f"$_id.{name}" for name in ("bucket", "day", "device_id")},
    "events": {"$sum": 1},
    "failures": {"$sum": {"$cond": [_IS_FAILURE, 1, 0]}},
    "partial": {"$sum": {"$cond": [_IS_PARTIAL, 1, 0]}},
    "files": {"$sum": "$total_files_synced"},
    "speeds": {"$sum": "$internet_speed"},
}


async def daily(events: Events, days: Mapping[str, Collection[int]]) -> dict[tuple[str, int], DayFigures]:
    """By device and day, counted from 1970-01-01; a day without an event is left out."""
    numbers = {day: day_since_1970(day) for day in {day for some in days.values() for day in some}}
    by_number = {number: day for day, number in numbers.items()}
    ranges = [
        day_range({"bucket": bucket_of(device_id), "day": numbers[day], "device_id": device_id}, _WHOLE_DAY)
        for device_id, some in days.items()
        for day in some
    ]
    counted: dict[tuple[str, int], DayFigures] = {}
    for start in range(0, len(ranges), limits.DEVICE_DAYS_AT_ONCE):
        some = ranges[start : start + limits.DEVICE_DAYS_AT_ONCE]
        steps: list[Document] = [{"$match": {"$or": some}}, {"$group": _FIGURES}]
        # One more than can come, or the driver would ask whether there is more.
        found = await events.aggregate(steps, hint="_id_", batchSize=len(some) + 1)
        for row in await found.to_list():
            counted[row["_id"]["device_id"], by_number[row["_id"]["day"]]] = DayFigures(
                events=row["events"],
                failures=row["failures"],
                partial=row["partial"],
                files=min(int(row["files"]), limits.COUNT_MAX),
                speeds=row["speeds"],
            )
    return counted
