"""Which devices fail in a row, by the truth: what an alert is confirmed by.

A device fails when it has enough failures and no success since the oldest of the newest of these. Failures
come from their own index, in one round trip for all devices, with what deleted events came to; successes are
looked for day by day, from the newest day on.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from datetime import datetime

from bson.max_key import MaxKey
from pymongo import DESCENDING

from pisync import limits
from pisync.clock import from_ms
from pisync.domain.identity import back, bucket_of, day_of, days_before
from pisync.stores.mongodb import bases
from pisync.stores.mongodb.by_device import (
    IS_FAILURE,
    KEY,
    Events,
    day_range,
    horizon,
    later_than,
)
from pisync.stores.mongodb.connection import Document


async def failing(events: Events, device_ids: Collection[str], in_a_row: int) -> set[str]:
    """Those of the devices whose newest `in_a_row` events are all failures."""
    since = await _since(events, device_ids, in_a_row)
    last = day = day_of(horizon())
    undecided, recovered = since, set[str]()
    ranges = _later(undecided, last)
    count = limits.ALERT_DAYS_AT_FIRST
    while undecided:
        ranges += _by_days(undecided, day, count)
        for start in range(0, len(ranges), limits.DAYS_AT_ONCE_MAX):
            some = ranges[start : start + limits.DAYS_AT_ONCE_MAX]
            found = events.find({"$or": some, "total_errors": 0}, {"_id": 1}).hint("_id_")
            found = found.batch_size(limits.REPLAY_BATCH_EVENTS)
            async for success in found:
                device_id = success["_id"]["device_id"]
                # The range of a bucket's later days begins with the earliest of its devices' moments.
                if success["_id"]["timestamp"] >= since[device_id]:
                    recovered.add(device_id)
        day = back(day, count)
        undecided = {
            device_id: moment
            for device_id, moment in undecided.items()
            if device_id not in recovered and day_of(moment) <= day
        }
        ranges = []
        count = min(count * limits.DAYS_GROWTH, limits.DAYS_AT_ONCE_MAX)
    return since.keys() - recovered


async def _since(events: Events, device_ids: Collection[str], in_a_row: int) -> dict[str, datetime]:
    """The moment of the oldest of the newest failures, of devices that have so many and may fail in a row."""
    is_its = [{"$eq": [f"$_id.{name}", f"$${name}"]} for name in ("bucket", "device_id")]
    newest: list[Document] = [
        {"$match": {"$expr": {"$and": is_its}, **IS_FAILURE}},
        {"$sort": dict.fromkeys(KEY, DESCENDING)},
        {"$limit": in_a_row},
        {"$project": {"_id": "$_id.timestamp"}},
    ]
    keys = [{"bucket": bucket_of(device_id), "device_id": device_id} for device_id in device_ids]
    devices = [{**key, "key": key} for key in keys]
    let = {"bucket": "$bucket", "device_id": "$device_id"}
    pipeline: list[Document] = [
        # What `$documents` does, which MongoDB permits only to those who may read every collection: a
        # facet is one document, whatever is in the collection.
        {"$limit": 1},
        {"$facet": {"nothing": [{"$limit": 1}]}},
        {"$project": {"device": {"$literal": devices}}},
        {"$unwind": "$device"},
        {"$replaceWith": "$device"},
        {"$lookup": {"from": events.name, "let": let, "pipeline": newest, "as": "failures"}},
        {
            "$lookup": {
                "from": bases.COLLECTION,
                "localField": "key",
                "foreignField": "_id",
                "as": "base",
            }
        },
        {"$match": {"$or": [{"failures": {"$size": in_a_row}}, {"base": {"$size": 1}}]}},
        {"$project": {"device_id": 1, "failures": "$failures._id", "base": {"$first": "$base.state"}}},
    ]
    # One more than can come, or the answer could end with a cursor that wants another round trip.
    found = await events.database["schema"].aggregate(pipeline, batchSize=len(devices) + 1)
    since = {}
    async for row in found:
        failures, success_ms = set(row["failures"]), None
        if row.get("base") is not None:
            base = bases.unpack(row["base"])
            success_ms = base.last_success_ms
            failures.update(map(from_ms, base.failures_ms[-in_a_row:]))
        if len(failures) >= in_a_row:
            oldest = sorted(failures)[-in_a_row]
            if success_ms is None or from_ms(success_ms) < oldest:
                since[row["device_id"]] = oldest
    return since


def _by_days(since: Mapping[str, datetime], day: int, count: int) -> list[Document]:
    """Where events of the devices after these moments are, in so many days up to this one."""
    return [
        day_range({"bucket": bucket_of(device_id), "day": at, "device_id": device_id}, _after(moment))
        for device_id, moment in since.items()
        for at in days_before(day, count, day_of(moment))
    ]


def _later(since: Mapping[str, datetime], day: int) -> list[Document]:
    """And where they are after that day, if any are: in one range for each bucket."""
    buckets: defaultdict[int, list[str]] = defaultdict(list)
    for device_id in since:
        buckets[bucket_of(device_id)].append(device_id)
    return [
        later_than(day, bucket, some, _after(min(since[device_id] for device_id in some)))
        for bucket, some in buckets.items()
    ]


def _after(moment: datetime) -> Document:
    """At that moment, too: a success may have come again in place of a failure that was deleted."""
    return {"$gte": {"timestamp": moment}, "$lt": {"timestamp": MaxKey()}}
