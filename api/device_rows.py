"""A device of the fleet in memory as answers tell it: the members of its row, alike in all of them."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field

from api import models
from api.fleet_filters import shown_cause
from fleet.query import FleetDevice
from pisync.clock import from_ms, rfc3339
from pisync.domain import device_status
from pisync.domain.device_status import Status


class DeviceRow(BaseModel):
    """A device. Times of events are by its own clock; null: never, or not known."""

    device_id: models.DeviceId
    name: str | None
    site: Annotated[str | None, Field(description="The site's id.")]
    labels: list[str]
    type: Literal["PiBook", "PiBox"] | None
    state: Annotated[
        Status,
        Field(
            description="The worst that holds: `failing` (3 failures in a row or more), `wobbly` (1 or 2),"
            " `overdue` (silent for longer than its habit), `never_heard` (no event is stored), `good`."
        ),
    ]
    streak: Annotated[int, Field(ge=0, description="Failures newer than its newest success.")]
    failures: Annotated[int, Field(ge=0, description="All its failures.")]
    cause: Annotated[
        str | None,
        Field(
            description="The error code of its newest failure, `-` where that gave none; null: it does not"
            " fail now."
        ),
    ]
    last_received: Annotated[datetime | None, Field(description="When it was last heard, by our clock.")]
    last_seen: Annotated[datetime | None, Field(description="Its newest event.")]
    last_success: datetime | None
    last_failure: datetime | None
    habit_days: Annotated[
        int | None,
        Field(description="Silent for longer than so many days is overdue: as set, or as learned."),
    ]
    partial: Annotated[bool, Field(description="It fails, and files do get through.")]
    late: Annotated[bool, Field(description="What came last was older than a day.")]
    clock_suspect: Annotated[bool, Field(description="Its clock is ahead, or may be behind.")]
    muted_until: datetime | None
    retired: bool


EXAMPLE: Final[dict[str, Any]] = {
    "device_id": "PB-000123",
    "name": "Kampala Primary, room 2",
    "site": "S-17",
    "labels": ["pilot", "solar"],
    "type": "PiBook",
    "state": "failing",
    "streak": 12,
    "failures": 40,
    "cause": "E_TIMEOUT",
    "last_received": "2026-05-08T12:00:03.412Z",
    "last_seen": "2026-05-08T12:00:00.000Z",
    "last_success": "2026-05-03T08:12:00.000Z",
    "last_failure": "2026-05-08T12:00:00.000Z",
    "habit_days": 4,
    "partial": False,
    "late": False,
    "clock_suspect": False,
    "muted_until": None,
    "retired": False,
}
COLUMNS: Final = tuple(DeviceRow.model_fields)


def row(device: FleetDevice) -> dict[str, object]:
    """The members of `DeviceRow`."""
    newest_ms, received_ms = device.last_seen_ms, device.last_received_ms
    return {
        "device_id": device.device_id,
        "name": device.name or None,
        "site": device.site,
        "labels": device.labels,
        "type": device.device_type,
        "state": device.state,
        "streak": device.streak,
        "failures": device.failures,
        "cause": None if device.cause is None else shown_cause(device.cause),
        "last_received": time(received_ms),
        "last_seen": time(newest_ms),
        "last_success": time(device.last_success_ms),
        "last_failure": time(device.last_failure_ms),
        "habit_days": device.habit_days,
        "partial": device_status.is_partial(streak=device.streak, newest_files=device.last_files),
        "late": device_status.is_late(newest_event_ms=newest_ms, received_ms=received_ms),
        "clock_suspect": device_status.is_clock_suspect(
            newest_event_ms=newest_ms, received_ms=received_ms, heard=device.heard
        ),
        "muted_until": time(device.muted_until_ms),
        "retired": device.retired,
    }


def time(moment_ms: int | None) -> str | None:
    """A moment as RFC 3339."""
    return None if moment_ms is None else rfc3339(from_ms(moment_ms))
