"""Which rows of an archive are events: what the projection, or a page, could not take is refused."""

from datetime import datetime
from typing import Any, Final

import pytest

from pisync.domain.archived_rows import why_refused

ROW: Final[dict[str, Any]] = {
    "device_id": "PB-1",
    "timestamp": datetime(2026, 5, 8),  # noqa: DTZ001 - as they are read, in UTC
    "received_at": datetime(2026, 5, 9),  # noqa: DTZ001
    "total_files_synced": 1,
    "total_errors": 0,
    "internet_speed": 20.0,
    "device_type": None,
    "sync_duration_ms": None,
    "errors": None,
    "enriched_at": None,
}


def at(year: int) -> datetime:
    return datetime(year, 1, 1)  # noqa: DTZ001


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"device_id": "a" * 64, "timestamp": at(2015), "received_at": at(1970)},
        {"timestamp": at(2149), "received_at": at(2149), "enriched_at": at(2149)},
        {"total_files_synced": 2**53 - 1, "internet_speed": 1e300, "device_type": "PiBox", "errors": []},
        {"errors": [{"code": "", "message": "nul \0 😀"}], "sync_duration_ms": 0},
    ],
)
def test_events(changed: dict[str, Any]) -> None:
    assert why_refused({**ROW, **changed}) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device_id", ""),
        ("device_id", "a" * 65),
        ("device_id", "a/b"),
        ("device_id", "é"),
        ("timestamp", at(1970)),
        ("timestamp", at(2150)),
        ("timestamp", datetime.min),  # noqa: DTZ901
        ("received_at", datetime.max),  # noqa: DTZ901
        ("enriched_at", at(2150)),
        ("total_files_synced", -1),
        ("total_errors", 2**53),
        ("sync_duration_ms", -1),
        ("internet_speed", float("nan")),
        ("internet_speed", float("inf")),
        ("internet_speed", -0.5),
        ("device_type", "Toaster"),
    ],
)
def test_what_is_no_event_names_the_member(name: str, value: object) -> None:
    why = why_refused({**ROW, name: value})
    assert why is not None
    assert name in why or name == "device_type"
