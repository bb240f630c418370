"""Reads of a device's events, which are in one range of `_id` for each day.

Which days a device has, nothing says. So they are looked for from the newest on, more of them each time: a
device that syncs daily is answered in one round trip, one that is seldom heard in a few. Failures have an
index whose keys begin alike, which MongoDB walks through from day to day by itself.
"""

from collections.abc import AsyncIterator, Collection, Mapping
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from bson.max_key import MaxKey
from bson.min_key import MinKey
from pymongo import ASCENDING, DESCENDING
from pymongo.asynchronous.collection import AsyncCollection

from pisync import clock, limits
from pisync.domain.identity import MEMBERS, bucket_of, day_of, days_before
from pisync.stores.interfaces.events import HistoryQuery, OutcomeFilter
from pisync.stores.mongodb.connection import Document

Events = AsyncCollection[Document]

KEY: Final = tuple(f"_id.{member}" for member in MEMBERS)
FAILURES_INDEX: Final = "failures_by_day"
IS_FAILURE: Final[Document] = {"total_errors": {"$gt": 0}}
_FAILURE_KINDS: Final[Mapping[OutcomeFilter | None, Document]] = {
    OutcomeFilter.PARTIAL: {"total_files_synced": {"$gt": 0}},
    OutcomeFilter.FAILED: {"total_files_synced": 0},
    OutcomeFilter.FAILURE: {},
}
_EARLIEST: Final = clock.from_ms(limits.CLOCK_EARLIEST_MS)
# No event is later than that from now, by clocks that are right.
_AHEAD_MAX: Final = timedelta(
    milliseconds=limits.CLOCK_AHEAD_MS_MAX, seconds=2 * limits.CLOCK_DIFFERENCE_S_MAX
)


async def newest(events: Events, query: HistoryQuery, projection: Document) -> list[Document]:
    """One page of a device's history, newest first."""
    if query.outcome in _FAILURE_KINDS:
        return await _newest_failures(events, query, projection)
    matching: Document = {} if query.outcome is None else {"total_errors": 0}
    found: list[Document] = []
    async for ranges in _ranges(events, query):
        missing = query.limit - len(found)
        # With the hint MongoDB plans the ranges in half the time.
        some = events.find({"$or": ranges, **matching}, projection).sort("_id", DESCENDING).hint("_id_")
        # A batch holds all that is missing, or the driver would ask whether there is more.
        found += await some.limit(missing).batch_size(missing).to_list()
        if len(found) == query.limit:
            break
    return found


async def _newest_failures(events: Events, query: HistoryQuery, projection: Document) -> list[Document]:
    asked = _failures_of(query.device_id) | _FAILURE_KINDS[query.outcome]
    days: Document = {}
    moments: Document = {}
    if query.after is not None:
        days["$gte"], moments["$gt"] = day_of(query.after), query.after
    if query.before is not None:
        days["$lte"], moments["$lt"] = day_of(query.before), query.before
    if days:
        asked |= {"_id.day": days, "_id.timestamp": moments}
    order = [(name, DESCENDING) for name in KEY]
    found = events.find(asked, projection).sort(order).hint(FAILURES_INDEX)
    return await found.limit(query.limit).batch_size(query.limit).to_list()


async def count_failures(events: Events, device_id: str, since: datetime | None) -> int:
    """How many failures there are: their keys, and one or two more for each day that has any device's."""
    asked = _failures_of(device_id)
    if since is not None:
        asked |= {"_id.day": {"$gte": day_of(since)}, "_id.timestamp": {"$gte": since}}
    return await events.count_documents(asked, hint=FAILURES_INDEX)


def _failures_of(device_id: str) -> Document:
    return {"_id.bucket": bucket_of(device_id), "_id.device_id": device_id, **IS_FAILURE}


async def _ranges(events: Events, query: HistoryQuery) -> AsyncIterator[list[Document]]:
    """Ranges of `_id` in which the device's events are, newest first: those of some days each time."""
    bucket = bucket_of(query.device_id)
    bounds: Document = {
        "$gt": {"timestamp": MinKey() if query.after is None else query.after},
        "$lt": {"timestamp": MaxKey() if query.before is None else query.before},
    }
    earliest = day_of(_EARLIEST if query.after is None else max(query.after, _EARLIEST))
    day = day_of(horizon())
    ranges: list[Document] = []
    if query.before is not None and query.before <= horizon():
        day = day_of(query.before)
    else:
        ranges.append(later_than(day, bucket, [query.device_id], bounds))
    count = limits.DAYS_AT_FIRST
    while True:
        days = days_before(day, count, earliest)
        for at in days:
            key = {"bucket": bucket, "day": at, "device_id": query.device_id}
            ranges.append(day_range(key, bounds))
        if ranges:
            yield ranges
        if len(days) < count:
            return
        span = await _span(events, bucket, days[-1])
        if span is None or span.newest < earliest:
            return
        earliest, day = max(earliest, span.oldest), span.newest
        count = min(count * limits.DAYS_GROWTH, limits.DAYS_AT_ONCE_MAX)
        ranges = []


def day_range(key: Document, bounds: Mapping[str, Document]) -> Document:
    """The events of a device and a day, within bounds."""
    return {"_id": {name: {**key, **bound} for name, bound in bounds.items()}}


def later_than(
    day: int, bucket: int, device_ids: Collection[str], bounds: Mapping[str, Document]
) -> Document:
    """Events of devices of one bucket after the last day that any should have, which hardly has any.

    A clock that was wrong may have let them in, or ours may be; each of those days is looked at whole.
    """
    return {
        "_id": {"$gt": {"bucket": bucket, "day": day, "device_id": MaxKey()}, "$lt": {"bucket": bucket + 1}},
        "_id.device_id": {"$in": list(device_ids)},
        "_id.timestamp": {name: bound["timestamp"] for name, bound in bounds.items()},
    }


def horizon() -> datetime:
    """The moment after which no event is."""
    return clock.now() + _AHEAD_MAX


class _Span(NamedTuple):
    """The oldest and the newest day of a bucket."""

    oldest: int
    newest: int


async def _span(events: Events, bucket: int, before: int) -> _Span | None:
    """Of the days before one those at the ends, if there are any: the first and the last key of a range."""
    inside = {"$match": {"_id": {"$gte": {"bucket": bucket}, "$lt": {"bucket": bucket, "day": before}}}}
    only_day = {"$project": {"_id": "$_id.day"}}
    newest: list[Document] = [inside, {"$sort": {"_id": DESCENDING}}, {"$limit": 1}, only_day]
    found = await events.aggregate(
        [
            *(inside, {"$sort": {"_id": ASCENDING}}, {"$limit": 1}, only_day),
            {"$unionWith": {"coll": events.name, "pipeline": newest}},
        ]
    )
    days = [row["_id"] async for row in found]
    return _Span(*days) if days else None
