"""Reads of a device's events, which are in one range of `_id` for each day.

Every day is looked at, from the newest on, until the page is full: whatever else says on which days a device
has events, it may be wrong, and only decides how many days are asked for at once. A range costs MongoDB about
20 µs, whether it holds anything or not. Failures have an index whose keys begin alike, which MongoDB walks
through from day to day by itself.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from math import ceil
from typing import Final, NamedTuple

from bson.max_key import MaxKey
from bson.min_key import MinKey
from pymongo import ASCENDING, DESCENDING
from pymongo.asynchronous.collection import AsyncCollection

from pisync import clock, limits
from pisync.domain.identity import (
    MEMBERS,
    back,
    bucket_of,
    day_of,
    day_since_1970,
    days_before,
    days_from,
    identity,
)
from pisync.stores.interfaces.events import DaysHint, HistoryQuery, OutcomeFilter
from pisync.stores.mongodb import bases
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


class Density:
    """How many events a day devices have, by the pages that were read last: how many days to begin with."""

    def __init__(self) -> None:
        self._a_day: dict[str, float] = {}

    def days(self, query: HistoryQuery) -> int:
        """How many days should fill the page: one more than such a page had, as the newest may have begun."""
        a_day = self._a_day.get(query.device_id)
        if a_day is None:
            return limits.DAYS_AT_FIRST
        return min(ceil(query.limit / a_day) + 1, limits.DAYS_KEPT)

    def learn(self, query: HistoryQuery, found: Sequence[Document]) -> None:
        """Look at a page; one that is short, or of some events only, tells too little."""
        if query.outcome is not None or not limits.PAGE_DEFAULT <= len(found) == query.limit:
            return
        newest = day_of(horizon() if query.before is None else min(query.before, horizon()))
        days = max(1, days_from(found[-1]["_id"]["day"], newest))  # a clock that is wrong may be ahead
        self._a_day.pop(query.device_id, None)
        if len(self._a_day) == limits.DENSITIES_KEPT_MAX:
            del self._a_day[next(iter(self._a_day))]
        self._a_day[query.device_id] = len(found) / days


async def newest(
    events: Events,
    query: HistoryQuery,
    projection: Document,
    *,
    at_first: int = limits.DAYS_AT_FIRST,
    hint: DaysHint | None = None,
) -> list[Document]:
    """One page of a device's history, newest first.

    Args:
        events: the collection, with the options by which documents are decoded.
        query: which page.
        projection: what of each document.
        at_first: how many days to look at in the first command.
        hint: tells days that may have events, where the first command did not fill the page.
    """
    if query.outcome in _FAILURE_KINDS:
        return await _newest_failures(events, query, projection)
    matching: Document = {} if query.outcome is None else {"total_errors": 0}
    found: list[Document] = []
    async for ranges in _ranges(events, query, found, at_first, hint):
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
    # The documents are read anyway, and by a range of `_id` a cluster knows the shard.
    asked["_id"] = of_bucket(bucket_of(query.device_id))
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


async def count_failures(events: Events, device_id: str, moments: Sequence[datetime | None]) -> list[int]:
    """How many failures there are since each of the moments.

    Costs the keys since the earliest, and one or two more for each day that has any device's. Failures that
    were deleted, of which the base has the newest, count once, whether they came again or not.
    """
    asked = _failures_of(device_id)
    given = [moment for moment in moments if moment is not None]
    if given and len(given) == len(moments):
        earliest = min(given)
        asked |= {"_id.day": {"$gte": day_of(earliest)}, "_id.timestamp": {"$gte": earliest}}
    counted = {str(place): {"$sum": _is_since(moment)} for place, moment in enumerate(moments)}
    found = await events.aggregate(
        [
            *({"$match": asked}, {"$group": {"_id": None, **counted}}),
            {"$unionWith": {"coll": bases.COLLECTION, "pipeline": bases.its_base(device_id)}},
        ],
        hint=FAILURES_INDEX,
    )
    stored, deleted = [0] * len(moments), list[datetime]()
    for row in await found.to_list():
        if "state" in row:
            deleted = await _gone(events, device_id, bases.unpack(row["state"]).failures_ms)
        else:
            stored = [row[place] for place in counted]
    return [
        count + sum(1 for each in deleted if moment is None or each >= moment)
        for count, moment in zip(stored, moments, strict=True)
    ]


async def _gone(events: Events, device_id: str, failures_ms: Sequence[int]) -> list[datetime]:
    """Those of a device's failures that are not stored; a success may have come again in place of one."""
    moments = [clock.from_ms(moment_ms) for moment_ms in failures_ms]
    asked = {"_id": {"$in": [identity(device_id, moment) for moment in moments]}, **IS_FAILURE}
    found = events.find(asked, {"_id.timestamp": 1}).batch_size(len(moments) + 1)
    stored = {document["_id"]["timestamp"] async for document in found}
    return [moment for moment in moments if moment not in stored]


def _is_since(moment: datetime | None) -> Document | int:
    """What counts an event that is not before a moment."""
    return 1 if moment is None else {"$cond": [{"$gte": ["$_id.timestamp", moment]}, 1, 0]}


def _failures_of(device_id: str) -> Document:
    return {"_id.bucket": bucket_of(device_id), "_id.device_id": device_id, **IS_FAILURE}


async def _ranges(
    events: Events, query: HistoryQuery, found: Sequence[Document], count: int, hint: DaysHint | None
) -> AsyncIterator[list[Document]]:
    """Ranges of `_id` in which the device's events are, newest first: those of some days each time.

    `found` has what was found of the ranges before.
    """
    bucket = bucket_of(query.device_id)
    bounds: Document = {
        "$gt": {"timestamp": MinKey() if query.after is None else query.after},
        "$lt": {"timestamp": MaxKey() if query.before is None else query.before},
    }

    def of_days(days: Sequence[int]) -> list[Document]:
        keys = [{"bucket": bucket, "day": at, "device_id": query.device_id} for at in days]
        return [day_range(key, bounds) for key in keys]

    earliest = day_of(_EARLIEST if query.after is None else max(query.after, _EARLIEST))
    day = day_of(horizon())
    ranges: list[Document] = []
    if query.before is not None and query.before <= horizon():
        day = day_of(query.before)
    else:
        ranges.append(later_than(day, bucket, [query.device_id], bounds))
    while True:
        days = days_before(day, count, earliest)
        ranges += of_days(days)
        if ranges:
            yield ranges
        if len(days) < count:
            return
        oldest = days[-1]
        if hint is not None:
            hinted = await _hinted(hint, oldest, earliest, query.limit - len(found))
            hint = None
            if hinted:
                yield of_days(hinted)
                oldest, count = hinted[-1], limits.DAYS_AT_ONCE_MAX
        span = await _span(events, bucket, oldest)
        if span is None or span.newest < earliest:
            return
        earliest, day = max(earliest, span.oldest), span.newest
        count = min(count * limits.DAYS_GROWTH, limits.DAYS_AT_ONCE_MAX)
        ranges = []


async def _hinted(hint: DaysHint, before: int, earliest: int, missing: int) -> list[int]:
    """The days before one, down to that on which enough are found if the hint is right: all of these.

    Each of its days has one event at least. Days between are looked at as well: it may lack some.
    """
    known = sorted(
        (day for day in map(day_since_1970, await hint()) if earliest <= day < before), reverse=True
    )
    if not known:
        return []
    return days_before(back(before, 1), limits.DAYS_AT_ONCE_MAX, known[:missing][-1])


def day_range(key: Document, bounds: Mapping[str, Document]) -> Document:
    """The events of a device and a day, within bounds."""
    return {"_id": {name: {**key, **bound} for name, bound in bounds.items()}}


def of_bucket(bucket: int) -> Document:
    """The range of `_id` that a bucket is."""
    return {"$gte": {"bucket": bucket}, "$lt": {"bucket": bucket + 1}}


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
