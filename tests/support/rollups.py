"""A plain count of stored events, which shares nothing with how rollups are counted."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from pisync.domain.events import SyncEvent

LATENESS_S = (60, 3600, 86_400, 604_800)
SPEEDS = (0.25, 0.5, 1, 2, 5, 10, 50)


def place(value: float, bounds: Iterable[float]) -> int:
    return sum(value > bound for bound in bounds)


def plainly(entries: Iterable[tuple[SyncEvent, datetime]]) -> dict[str, Any]:
    """What these events, each with when it was received, come to."""
    entries = list(entries)
    failed = [event for event, _ in entries if event.total_errors > 0]
    late = Counter(
        place((received - event.timestamp) / timedelta(seconds=1), LATENESS_S) for event, received in entries
    )
    speeds = Counter(place(event.internet_speed, SPEEDS) for event, _ in entries)
    return {
        "events": len(entries),
        "failures": len(failed),
        "partial": len([event for event in failed if event.total_files_synced > 0]),
        "files": sum(event.total_files_synced for event, _ in entries),
        "device_types": dict(Counter(event.device_type for event, _ in entries if event.device_type)),
        "lateness": tuple(late[number] for number in range(len(LATENESS_S) + 1)),
        "speeds": tuple(speeds[number] for number in range(len(SPEEDS) + 1)),
        "codes": dict(Counter(event.errors[0].code if event.errors else "" for event in failed)),
        "other_codes": 0,
    }
