"""`/api/site/{site_id}/activity`: what the devices of a site did day by day, and how fast their line was."""

from collections.abc import AsyncIterator, Mapping, Sequence
from statistics import median
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from api import fleet_truth, models
from api.auth import require
from api.directory.reading import FileFormat
from api.fleet_truth import FILE_HEADERS, Truth, file_headers, loaded_fleet
from api.list_files import Rows, file_response, list_files
from api.openapi import LOADING, PARAMETERS, UNEXPECTED, with_example
from api.parameters import StrictRoute
from api.routes.site import UNKNOWN, SiteId, known_site
from api.state import state_of
from fleet import query
from fleet.query import FleetDevice, FleetFilter, FleetSort
from pisync import clock, limits
from pisync.clock import from_ms, to_ms
from pisync.domain.access import Role
from pisync.domain.days import DAY_MS, Days
from pisync.stores.interfaces.events import DayFigures

router = APIRouter(tags=["operators"], route_class=StrictRoute)

# Days with a speed that it takes to call one usual.
_USUAL_DAYS_MIN: Final = 7
_NOT_COUNTED: Final = "null: not counted, as `why` says, or some of its events are deleted."


class DayOfSite(BaseModel):
    """A day of UTC. Events are of the day on which they happened, by the devices' clocks."""

    day: Annotated[str, Field(pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}$", examples=["2026-11-20"])]
    events: Annotated[int | None, Field(ge=0, description=_NOT_COUNTED)]
    failures: Annotated[int | None, Field(ge=0, description="Those with errors.")]
    partial: Annotated[int | None, Field(ge=0, description="Failures with which files got through.")]
    files: Annotated[int | None, Field(ge=0)]
    devices: Annotated[int | None, Field(ge=0, description="Devices with an event of that day.")]
    heard: Annotated[
        int | None,
        Field(ge=0, description="Devices of which something was received on that day, by our clock."),
    ]
    speed: Annotated[
        float | None, Field(ge=0, description="The mean of its events, in Mbit/s; null also without one.")
    ]


class Activity(Truth):
    """A site day by day."""

    site_id: models.DeviceId | None
    name: str | None
    device_count: Annotated[int, Field(ge=0, description="All that it has now, wherever they were then.")]
    days: Annotated[list[DayOfSite], Field(description="Ascending, today the last. It may still grow.")]
    usual_speed: Annotated[
        float | None,
        Field(
            ge=0,
            description="The median of the days before today, in Mbit/s; null: fewer than"
            f" {_USUAL_DAYS_MIN} of them have a speed.",
        ),
    ]
    why: Annotated[str | None, Field(description="Why nothing is counted; null: it is.")]


_EXAMPLE: Final[dict[str, Any]] = {
    "site_id": "S-17",
    "name": "Kampala Primary",
    "device_count": 40,
    "days": [
        {
            "day": "2026-11-20",
            "events": 152,
            "failures": 140,
            "partial": 3,
            "files": 240,
            "devices": 38,
            "heard": 38,
            "speed": 0.4,
        }
    ],
    "usual_speed": 3.1,
    "why": None,
    **fleet_truth.EXAMPLE,
}


_Days = Annotated[int, Query(ge=1, le=limits.ACTIVITY_DAYS_MAX, description="How many, back from today.")]


@router.get(
    "/site/{site_id}/activity",
    dependencies=[require(Role.READ)],
    summary="One site: its events day by day",
    response_model=None,
    responses={
        200: {"model": Activity, "description": "The days."} | with_example(_EXAMPLE),
        404: UNKNOWN,
        422: PARAMETERS,
        500: UNEXPECTED,
        503: LOADING,
    },
)
async def activity(*, request: Request, site_id: SiteId, days: _Days = limits.DAYS_TOLD) -> Response:
    """Counted when it is asked, of the devices that the site has now, retired ones too, of at most 500.

    An event that came late is in the day on which it happened.
    """
    answer = await _activity(request, site_id, days)
    return Response(msgspec.json.encode(answer), media_type="application/json")


@list_files(
    router,
    "/site/{site_id}/activity",
    _EXAMPLE["days"][0],
    dependencies=[require(Role.READ)],
    summary="One site: its events day by day",
    headers=FILE_HEADERS,
    responses={404: UNKNOWN},
)
async def activity_file(
    *, request: Request, site_id: SiteId, days: _Days = limits.DAYS_TOLD, file_format: FileFormat
) -> Response:
    """A row a day, ascending, today the last; empty where nothing is counted."""
    answer = await _activity(request, site_id, days)

    async def pages() -> AsyncIterator[Rows]:
        yield answer["days"]

    name = f"site-{answer['site_id'] or 'none'}-activity"
    columns = list(DayOfSite.model_fields)
    return await file_response(file_format, name, columns, pages(), file_headers(request))


async def _activity(request: Request, site_id: str, days: int) -> dict[str, Any]:
    own, counted = known_site(request, site_id)
    state = state_of(request)
    now_ms = to_ms(clock.now())
    found = query.page(
        loaded_fleet(request),
        FleetFilter(sites=frozenset({own}), retired=None),
        sort=FleetSort.DEVICE_ID,
        limit=limits.ACTIVITY_DEVICES_MAX,
        now_ms=now_ms,
    )
    truth = fleet_truth.truth(request)
    today = now_ms // DAY_MS
    asked = range(today - days + 1, today + 1)
    told = [dict.fromkeys(DayOfSite.model_fields) | {"day": _text(day)} for day in asked]
    why = f"it has {found.total:,} devices, and events are counted of at most {limits.ACTIVITY_DEVICES_MAX}"
    usual = None
    if found.next is None:
        by_device = await state.daily.of(state.events, found.devices, asked[0])
        retention = await state.retention.progress()
        # From this day on all events are there: one may be stamped a little later than it was received.
        kept_ms = retention.before_ms + limits.CLOCK_AHEAD_MS_MAX if retention and retention.before_ms else 0
        told = [
            _told(day, found.devices, by_device) if day * DAY_MS >= kept_ms else _no_more(day, found.devices)
            for day in asked
        ]
        usual = _usual([row["speed"] for row in told[:-1]])
    answer = {
        "site_id": own or None,
        "name": counted.name or None,
        "device_count": found.total,
        "days": told,
        "usual_speed": usual,
        "why": None if found.next is None else why,
    }
    return answer | truth


def _told(
    day: int, devices: Sequence[FleetDevice], by_device: Sequence[Mapping[int, DayFigures]]
) -> dict[str, Any]:
    """A row: its events, and of how many devices the projection knows of that day."""
    figures = [days[day] for days in by_device if day in days]
    events = sum(each.events for each in figures)
    return {
        "day": _text(day),
        "events": events,
        "failures": sum(each.failures for each in figures),
        "partial": sum(each.partial for each in figures),
        "files": min(sum(each.files for each in figures), limits.COUNT_MAX),
        "devices": len(figures),
        "heard": sum(_has(device.heard, day) for device in devices),
        "speed": round(sum(each.speeds for each in figures) / events, 3) if events else None,
    }


def _no_more(day: int, devices: Sequence[FleetDevice]) -> dict[str, Any]:
    """A row of a day of which events may be deleted."""
    heard = sum(_has(device.heard, day) for device in devices)
    return dict.fromkeys(DayOfSite.model_fields) | {"day": _text(day), "heard": heard}


def _has(days: Days, day: int) -> bool:
    back = days.newest - day
    return back >= 0 and bool(days.bits >> back & 1)


def _usual(speeds: Sequence[float | None]) -> float | None:
    known = [speed for speed in speeds if speed is not None]
    return round(median(known), 3) if len(known) >= _USUAL_DAYS_MIN else None


def _text(day: int) -> str:
    return from_ms(day * DAY_MS).date().isoformat()
