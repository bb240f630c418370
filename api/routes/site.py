"""`/api/site/{site_id}`: how the devices of one site are, and each of them day by day."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from api import fleet_truth, models, paging
from api.auth import require
from api.directory.reading import FileFormat
from api.fleet_filters import NONE, SITE_PATTERN, Filters, shown_cause, with_filters
from api.fleet_truth import FILE_HEADERS, Truth, file_headers, loaded_fleet
from api.list_files import Rows, file_response, list_files
from api.models import Count, NextUrl
from api.openapi import LOADING, declare, list_responses
from api.paging import list_page
from api.parameters import StrictRoute
from api.routes import sites
from api.routes.sites import SiteMembers
from fleet import query, summaries
from fleet.query import FleetCursor, FleetDevice, FleetFilter, FleetSort
from fleet.summaries import SiteCounts
from pisync import clock, limits
from pisync.clock import from_ms, to_ms
from pisync.domain import topics
from pisync.domain.access import Role
from pisync.domain.days import DAY_MS, Days
from pisync.domain.device_status import Status

router = APIRouter(tags=["operators"], route_class=StrictRoute)

_PATH: Final = "/site/{site_id}"


class DaysOfDevice(BaseModel):
    """A device of the site, and a character for each of the days."""

    device_id: models.DeviceId
    name: str | None
    state: Status
    cells: Annotated[
        str,
        Field(
            pattern=rf"^[oxmh.]{{{limits.DAYS_TOLD}}}$",
            description="`o`: syncs of that day succeeded, by the device's clock; `x`: they failed; `m`:"
            " both; `h`: something was received on that day, by our clock, but nothing of it; `.`: nothing.",
            examples=["oooooxx..ooooox..ooooomxxxxx"],
        ),
    ]


class CauseAtSite(BaseModel):
    """Devices of the site that fail now for a cause."""

    code: str
    devices: Count
    failing: Count
    wobbly: Count


class OneSite(SiteMembers, Truth):
    """A site, and a page of its devices."""

    device_count: Annotated[int, Field(ge=0, description="All its devices, as `devices` in a list of sites.")]
    days: Annotated[
        list[Annotated[str, Field(pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]],
        Field(description="Of UTC, today the last."),
    ]
    causes: Annotated[
        list[CauseAtSite], Field(description=f"With most devices first, at most {limits.PAGE_DEFAULT}.")
    ]
    devices: Annotated[list[DaysOfDevice], Field(description="By id.")]
    next: NextUrl


class DeviceDaysCursor(paging.Cursor, frozen=True):
    """The last device of a page."""

    device_id: Annotated[str, msgspec.Meta(pattern=rf"^{topics.DEVICE_ID_PATTERN}\Z")]


SiteId = Annotated[
    str,
    Path(
        pattern=SITE_PATTERN,
        description="The site's id; `-`: devices without a site.",
        examples=["S-17"],
    ),
]
UNKNOWN: Final = declare("No device names this site, nor does the directory.")
_DAYS_EXAMPLE: Final[dict[str, Any]] = {
    "device_id": "PB-000123",
    "name": "Room 2",
    "state": "failing",
    "cells": "oooooxx..ooooox..ooooomxxxxx",
}


@router.get(
    _PATH,
    dependencies=[require(Role.READ)],
    summary="One site: its devices day by day",
    response_model=None,
    responses=list_responses(
        OneSite,
        {404: UNKNOWN, 503: LOADING},
        example={
            **{name: value for name, value in sites.EXAMPLE.items() if name != "devices"},
            "device_count": 40,
            "days": ["2026-11-20"],
            "causes": [{"code": "E_TIMEOUT", "devices": 38, "failing": 36, "wobbly": 2}],
            "devices": [_DAYS_EXAMPLE],
            **fleet_truth.EXAMPLE,
            "next": None,
        },
    ),
)
@with_filters("site")
async def one_site(
    *,
    request: Request,
    site_id: SiteId,
    filters: Filters,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    cursor: paging.CursorText = None,
) -> Response:
    """A day on which most devices failed, or were not heard, is a column. The filters are for the devices."""
    after = _device_after(cursor)
    own, counted = known_site(request, site_id)
    found = _devices(request, own, filters, limit, after)
    return list_page(
        request,
        "devices",
        found.devices,
        limit=limit,
        has_more=found.next is not None,
        next_parameters=lambda device: {"cursor": DeviceDaysCursor(device.device_id).encode()},
        moments=filters.moments,
        as_json=_days_of,
        **sites.members(counted),
        device_count=counted.devices,
        days=[_day(_today() - back) for back in reversed(range(limits.DAYS_TOLD))],
        causes=_causes(request, own),
        **fleet_truth.truth(request),
    )


@list_files(
    router,
    f"{_PATH}/days",
    _DAYS_EXAMPLE,
    dependencies=[require(Role.READ)],
    summary="The devices of a site day by day",
    headers=FILE_HEADERS,
    responses={404: UNKNOWN},
)
@with_filters("site")
async def site_days_file(
    *,
    request: Request,
    site_id: SiteId,
    filters: Filters,
    cursor: paging.CursorText = None,
    file_format: FileFormat,
) -> Response:
    """All its devices from the cursor on, by id; `cells` as in `/api/site/{site_id}`, today the last."""
    after = _device_after(cursor)
    own, _ = known_site(request, site_id)
    pages = _pages_of_days(request, own, filters, after)
    name = f"site-{own or 'none'}-days"
    return await file_response(file_format, name, list(_DAYS_EXAMPLE), pages, file_headers(request))


async def _pages_of_days(
    request: Request, own: str, filters: Filters, after: FleetCursor | None
) -> AsyncIterator[Rows]:
    while True:
        found = _devices(request, own, filters, limits.PAGE_MAX, after)
        yield [_days_of(device) for device in found.devices]
        if found.next is None:
            return
        after = found.next


def _device_after(cursor: str | None) -> FleetCursor | None:
    end = DeviceDaysCursor.decode(cursor)
    return None if end is None else FleetCursor("", end.device_id)


def known_site(request: Request, site_id: str) -> tuple[str, SiteCounts]:
    """The id of the site as the fleet has it, and what is counted there."""
    own = "" if site_id == NONE else site_id
    counted = summaries.site(loaded_fleet(request), own, now_ms=to_ms(clock.now()))
    if counted is None:
        raise HTTPException(404, "No device names this site, nor does the directory.")
    return own, counted


def _devices(
    request: Request, own: str, filters: Filters, limit: int, after: FleetCursor | None
) -> query.FleetPage:
    return query.page(
        loaded_fleet(request),
        msgspec.structs.replace(filters.which, sites=frozenset({own})),
        sort=FleetSort.DEVICE_ID,
        limit=limit,
        after=after,
        now_ms=to_ms(clock.now()),
    )


def _causes(request: Request, own: str) -> list[dict[str, object]]:
    found = summaries.causes(
        loaded_fleet(request),
        FleetFilter(sites=frozenset({own})),
        now_ms=to_ms(clock.now()),
        limit=limits.PAGE_DEFAULT,
        sites_max=0,
    )
    return [
        {
            "code": shown_cause(cause.code),
            "devices": cause.devices,
            "failing": cause.failing,
            "wobbly": cause.wobbly,
        }
        for cause in found.causes
    ]


def _today() -> int:
    return to_ms(clock.now()) // DAY_MS


def _days_of(device: FleetDevice) -> dict[str, object]:
    return {
        "device_id": device.device_id,
        "name": device.name or None,
        "state": device.state,
        "cells": cells(device, _today()),
    }


# By the bits of `ok`, `bad` and `heard`.
_CELLS: Final = ".oxmhoxm"


def cells(device: FleetDevice, today: int) -> str:
    """A character for each of the days up to this one, which counts from 1970-01-01; the last is this one."""
    ok, bad, heard = (_back_from(today, days) for days in (device.ok, device.bad, device.heard))
    return "".join(
        _CELLS[ok >> back & 1 | (bad >> back & 1) << 1 | (heard >> back & 1) << 2]
        for back in reversed(range(limits.DAYS_TOLD))
    )


def _back_from(today: int, days: Days) -> int:
    """Bit n stands for the day that is n days before today."""
    shift = today - days.newest
    return days.bits << shift if shift >= 0 else days.bits >> -shift


def _day(day: int) -> str:
    return from_ms(day * DAY_MS).date().isoformat()
