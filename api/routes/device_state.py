"""`GET /api/device/{device_id}`: what is known of one device, and why it is in its state."""

import asyncio
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from api import device_rows
from api.auth import require
from api.device_rows import DeviceRow, time
from api.directory.models import EXAMPLES, DeviceEntry
from api.exact_counts import Kept, exact_counts
from api.fleet_truth import Truth, loaded_fleet, truth
from api.openapi import LOADING, PARAMETERS, UNEXPECTED, declare
from api.parameters import StrictRoute
from api.routes.device import DeviceId
from api.state import State, state_of
from fleet.index import Fleet
from fleet.query import FleetDevice, device
from fleet.sites import calendar_of
from pisync import clock, limits
from pisync.clock import rfc3339, to_ms
from pisync.domain import alerts, device_status, directory
from pisync.domain import presence as presences
from pisync.domain.access import Role
from pisync.domain.alerts import Rule
from pisync.domain.calendars import EVERY_DAY
from pisync.domain.days import DAY_MS, Days
from pisync.domain.device_status import DeviceFacts
from pisync.domain.directory import DirectoryDevice, Kind
from pisync.stores.interfaces.directory import KeptEntry
from pisync.stores.interfaces.feed import StateSummary

router = APIRouter(tags=["operators"], route_class=StrictRoute)


class Day(BaseModel):
    """What is known of a day in UTC, of the newest 64 of each kind."""

    day: date
    ok: Annotated[bool, Field(description="A sync of that day succeeded, by the device's clock.")]
    bad: Annotated[bool, Field(description="A sync of that day failed, by the device's clock.")]
    heard: Annotated[bool, Field(description="Something was received on that day, by our clock.")]


class LastEvent(BaseModel):
    """The device's newest event; `internet_speed` is in Mbit/s."""

    timestamp: datetime
    total_files_synced: int
    total_errors: int
    internet_speed: float
    device_type: str | None
    sync_duration_ms: int | None


class OpenAlert(BaseModel):
    """An alert that is open; `streak` is the device's when it was opened."""

    id: str
    rule: Rule
    streak: int
    opened_at: datetime


class Presence(BaseModel):
    """What the device says of its connection, by its `status` topic."""

    online: bool
    since: Annotated[datetime, Field(description="When the newest connection began.")]
    heard_at: Annotated[datetime, Field(description="When that was said, by our clock.")]
    firmware: str | None
    pending: Annotated[
        int | None,
        Field(ge=0, description="Events that waited in its spool, at `pending_at`; null: not told."),
    ]
    oldest_pending: Annotated[datetime | None, Field(description="The time of the oldest of them.")]
    pending_at: Annotated[datetime | None, Field(description="When it told that.")]


class Device(Truth, DeviceRow):
    """One device. Streak and failures are exact."""

    reason: Annotated[str, Field(description="Why it is in its state, and what stands beside that.")]
    days: Annotated[list[Day], Field(description="Today and the 63 days before it, newest first.")]
    last_event: Annotated[LastEvent | None, Field(description="null: none is known.")]
    lateness_s: Annotated[
        float | None,
        Field(ge=0, description="How much later than its own time what came last was received, at least."),
    ]
    directory: Annotated[DeviceEntry | None, Field(description="null: the directory has no such device.")]
    alert: OpenAlert | None
    presence: Annotated[Presence | None, Field(description="null: not known.")]


_EXAMPLE: Final[dict[str, Any]] = device_rows.EXAMPLE | {
    "reason": "Failing: 12 syncs in a row, E_TIMEOUT, the newest 8 May 2026 15:00, last good one 3 May 2026"
    " 11:12. Online now. Times: Africa/Kampala.",
    "days": [{"day": "2026-05-08", "ok": False, "bad": True, "heard": True}],
    "last_event": {
        "timestamp": "2026-05-08T12:00:00.000Z",
        "total_files_synced": 0,
        "total_errors": 3,
        "internet_speed": 0.2,
        "device_type": "PiBook",
        "sync_duration_ms": 5400,
    },
    "lateness_s": 3.412,
    "directory": EXAMPLES[Kind.DEVICES]
    | {"device_id": "PB-000123", "version": 3, "changed_at": "2026-04-01T09:00:00.000Z"},
    "alert": {
        "id": "019d3f2b1c404f0e9a6b2c1d3e5f",
        "rule": "streak",
        "streak": 3,
        "opened_at": "2026-05-05T07:30:00.000Z",
    },
    "presence": {
        "online": True,
        "since": "2026-05-08T11:58:20.000Z",
        "heard_at": "2026-05-08T11:58:20.310Z",
        "firmware": "2.4.1",
        "pending": 12,
        "oldest_pending": "2026-05-08T09:10:00.000Z",
        "pending_at": "2026-05-08T11:58:20.310Z",
    },
    "as_of": "2026-05-08T12:00:04.100Z",
    "complete": True,
    "loading": None,
    "stale_since": None,
    "stale_why": None,
}


@router.get(
    "/device/{device_id}",
    dependencies=[require(Role.READ)],
    summary="One device",
    response_model=None,
    responses={
        200: {
            "model": Device,
            "description": "The device.",
            "content": {"application/json": {"example": _EXAMPLE}},
        },
        404: declare("Neither an event of this device nor an entry of the directory is known."),
        422: PARAMETERS,
        500: UNEXPECTED,
        503: LOADING,
    },
)
async def device_state(request: Request, device_id: DeviceId) -> Response:
    """Its row of `/api/devices`, and what lists have no room for.

    Facts are from the memory of this api, as of `as_of`; directory, alert and counts past 1,000 from MongoDB.
    """
    loaded_fleet(request)
    state = state_of(request)
    (kept, presence), open_alerts = await asyncio.gather(
        state.device_notes.of(device_id), state.alerts.open_alerts([device_id])
    )
    if kept is not None and kept.is_deleted:
        kept = None
    found, told = device(loaded_fleet(request), device_id), truth(request)
    if found is None:
        found = await _new(state, device_id, kept)
    found = await _exact(state, found)
    facts = _facts(state, found, online=None if presence is None else not presence.is_offline)
    found = msgspec.structs.replace(found, state=facts.status)
    alert = next((open_alerts[device_id, rule] for rule in Rule if (device_id, rule) in open_alerts), None)
    answer = device_rows.row(found) | {
        "reason": device_status.reason(facts),
        "days": list(known_days(found, facts.now_ms // DAY_MS)),
        "last_event": _last_event(found),
        "lateness_s": _lateness_s(found),
        "directory": None if kept is None else _entry(kept),
        "alert": None if alert is None else _alert(alert),
        "presence": None if presence is None else _presence(presence),
        **told,
    }
    return Response(msgspec.json.encode(answer), media_type="application/json")


async def _new(state: State, device_id: str, kept: KeptEntry | None) -> FleetDevice:
    """A device that the fleet does not know yet, as the projection and the directory have it.

    Raises:
        HTTPException: 404, they do not.
        RedisUnavailable: Redis is unavailable.
    """
    alone = Fleet()
    if kept is not None and isinstance(kept.entry, DirectoryDevice):
        alone.set_devices([kept.entry])
    facts = await state.projection.state(device_id)
    if facts is not None:
        alone.apply([(device_id, StateSummary.of(facts))])
    alone.settle()
    found = device(alone, device_id)
    if found is None:
        raise HTTPException(404, "Neither an event of this device nor an entry of the directory is known.")
    return found


async def _exact(state: State, found: FleetDevice) -> FleetDevice:
    """The device with the counts that the projection does not keep."""
    kept = Kept(found.device_id, found.failures, found.streak, found.last_success_ms)
    counts = (await exact_counts(state.events, [kept])).get(found.device_id)
    if counts is None:
        return found
    return msgspec.structs.replace(found, failures=counts.failures, streak=counts.streak or 0)


def _facts(state: State, found: FleetDevice, *, online: bool | None) -> DeviceFacts:
    site = state.fleet.fleet.sites.entries.get(found.site or "")
    return DeviceFacts(
        now_ms=to_ms(clock.now()),
        streak=found.streak,
        newest_event_ms=found.last_seen_ms,
        newest_files=found.last_files,
        last_success_ms=found.last_success_ms,
        last_failure_ms=found.last_failure_ms,
        code=found.cause or "",
        received_ms=found.last_received_ms,
        heard=found.heard,
        online=online,
        habit_days=found.habit_days,
        habit_is_set=found.habit_is_set,
        calendar=EVERY_DAY if site is None else calendar_of(site),
        gaps=state.fleet.gaps,
        muted_until_ms=found.muted_until_ms,
        retired=found.retired,
    )


def known_days(found: FleetDevice, today: int) -> Iterator[dict[str, object]]:
    """The members of `Day` for today, which counts from 1970-01-01, and for the days before it."""
    kinds: dict[str, Days] = {"ok": found.ok, "bad": found.bad, "heard": found.heard}
    known = {name: frozenset(days) for name, days in kinds.items()}
    first = clock.EPOCH.date()
    for day in range(today, today - limits.DAYS_KEPT, -1):
        yield {"day": str(first + timedelta(days=day)), **{name: day in known[name] for name in known}}


def _last_event(found: FleetDevice) -> dict[str, object] | None:
    if found.last_seen_ms is None:
        return None
    return {
        "timestamp": time(found.last_seen_ms),
        "total_files_synced": found.last_files,
        "total_errors": found.last_errors,
        "internet_speed": found.last_speed,
        "device_type": found.device_type,
        "sync_duration_ms": found.last_duration_ms,
    }


def _lateness_s(found: FleetDevice) -> float | None:
    newest_ms, received_ms = found.last_seen_ms, found.last_received_ms
    if newest_ms is None or received_ms is None:
        return None
    return device_status.late_ms(newest_event_ms=newest_ms, received_ms=received_ms) / 1000


def _entry(kept: KeptEntry) -> dict[str, object]:
    return directory.as_json(kept.entry) | {"version": kept.version, "changed_at": rfc3339(kept.changed_at)}


def _alert(alert: alerts.Alert) -> dict[str, object]:
    return {
        "id": alert.alert_id,
        "rule": alert.rule,
        "streak": alert.streak,
        "opened_at": rfc3339(alert.opened_at),
    }


def _presence(presence: presences.Presence) -> dict[str, object]:
    pending = presence.pending
    return {
        "online": not presence.is_offline,
        "since": rfc3339(presence.began_at),
        "heard_at": rfc3339(presence.heard_at),
        "firmware": presence.firmware or None,
        "pending": None if pending is None else pending.count,
        "oldest_pending": None
        if pending is None or pending.oldest == clock.EPOCH
        else rfc3339(pending.oldest),
        "pending_at": None if pending is None else rfc3339(pending.heard_at),
    }
