"""The evidence, read past the product: MongoDB by its driver alone, and what the scenario itself recorded."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from pymongo import MongoClient

from device_sim.scenarios.year import Delivery
from pisync.domain.directory import Entry, as_json
from pisync.domain.events import SyncEvent
from tests.year.rules import Stored, ms_of

Document = dict[str, Any]


def stored(mongodb_url: str) -> list[Stored]:
    """Every event that MongoDB has."""
    with MongoClient[Document](mongodb_url, tz_aware=True) as client:
        found = client.get_default_database().sync_events.find(batch_size=10_000)
        return [_of_document(document) for document in found]


def listened(mongodb_url: str) -> list[tuple[int, int]]:
    """When bridges listened."""
    with MongoClient[Document](mongodb_url, tz_aware=True) as client:
        found = client.get_default_database().listening.find()
        return [(ms_of(each["_id"]["start"]), ms_of(each["until"])) for each in found]


def _of_document(document: Document) -> Stored:
    errors = document.get("errors")
    return Stored(
        device_id=document["_id"]["device_id"],
        timestamp_ms=ms_of(document["_id"]["timestamp"]),
        received_ms=ms_of(document["received_at"]),
        files=document["total_files_synced"],
        errors=document["total_errors"],
        speed=document["internet_speed"],
        device_type=document.get("device_type"),
        duration_ms=document.get("sync_duration_ms"),
        details=None if errors is None else tuple((each["code"], each["message"]) for each in errors),
    )


def recorded(deliveries: Iterable[Delivery]) -> Iterator[Stored]:
    """The events of one device as the scenario has them, each as it was received first."""
    seen: set[int] = set()
    for delivery in deliveries:
        event = of_event(delivery.event, delivery.received_ms)
        if event.timestamp_ms not in seen:
            seen.add(event.timestamp_ms)
            yield event


def as_told(entry: Entry) -> Document:
    """What a directory says, as JSON has it."""
    found: Document = msgspec.json.decode(msgspec.json.encode(as_json(entry)))
    return found


def of_event(event: SyncEvent, received_ms: int) -> Stored:
    """An event of the scenario."""
    errors = event.errors
    return Stored(
        device_id=event.device_id,
        timestamp_ms=ms_of(event.timestamp),
        received_ms=received_ms,
        files=event.total_files_synced,
        errors=event.total_errors,
        speed=event.internet_speed,
        device_type=event.device_type,
        duration_ms=event.sync_duration_ms,
        details=None if errors is None else tuple((each.code, each.message) for each in errors),
    )


def misstored(expected: Iterable[Stored], found: Iterable[Stored], *, live_from_ms: int) -> list[str]:
    """In words, where MongoDB differs from what the scenario recorded.

    Of an event that came through the broker, received from a moment on, only that is known of its receipt.
    """
    by_identity = {(event.device_id, event.timestamp_ms): event for event in expected}
    wrong = []
    for event in found:
        other = by_identity.pop((event.device_id, event.timestamp_ms), None)
        if other is None:
            wrong.append(f"MongoDB has an event that nobody sent, or has it twice: {event}")
        elif event != other and not (
            other.received_ms >= live_from_ms
            and event.received_ms >= live_from_ms
            and _without_receipt(event) == _without_receipt(other)
        ):
            wrong.append(f"MongoDB has {event}, what was sent is {other}")
    return [*wrong, *(f"MongoDB lacks {event}" for event in by_identity.values())]


def _without_receipt(event: Stored) -> tuple[object, ...]:
    return (
        *(event.device_id, event.timestamp_ms, event.files, event.errors),
        *(event.speed, event.device_type, event.duration_ms, event.details),
    )


def events_stored(mongodb_url: str) -> tuple[int, int]:
    """How many events MongoDB has, and when the newest was received."""
    with MongoClient[Document](mongodb_url, tz_aware=True) as client:
        events = client.get_default_database().sync_events
        newest = events.find_one(sort=[("received_at", -1)])
        return events.count_documents({}), 0 if newest is None else ms_of(newest["received_at"])


def open_alerts(mongodb_url: str) -> int:
    """How many alerts are open."""
    with MongoClient[Document](mongodb_url) as client:
        return client.get_default_database().alerts.count_documents({"closed_at": None})
