"""`/api/sites` and `/api/site/{site_id}`: how the devices of each site are, and each of them day by day."""

from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field, WithJsonSchema
from starlette.exceptions import HTTPException

from api import fleet_truth, models, paging
from api.fleet_filters import NONE, SITE_PATTERN, Filters, shown_cause, with_filters
from api.fleet_truth import Truth, loaded_fleet
from api.models import Count, NextUrl
from api.openapi import LOADING, declare, list_responses
from api.paging import list_page
from api.parameters import StrictRoute
from fleet import query, summaries
from fleet.query import FleetCursor, FleetDevice, FleetFilter, FleetSort
from fleet.summaries import SiteCounts, SiteCursor, SiteSort
from pisync import clock, limits
from pisync.clock import from_ms, to_ms
from pisync.domain import topics
from pisync.domain.days import DAY_MS, Days
from pisync.domain.device_status import Status

router = APIRouter(tags=["operators"], route_class=StrictRoute)


class SiteMembers(BaseModel):
    """A site that a device names or that is in the directory, with the states of its devices."""

    site_id: Annotated[
        models.DeviceId | None, Field(description="null: devices without a site.", examples=["S-17"])
    ]
    name: Annotated[str | None, Field(examples=["Kampala Primary"])]
    failing: Count
    wobbly: Count
    overdue: Count
    never_heard: Count
    good: Count
    heard_today: Annotated[
        int,
        Field(ge=0, description="Devices of which something was received today, by the date at the site."),
    ]
    worst_cause: Annotated[
        str | None,
        Field(
            description="The code for which most of its devices fail now, `-` where these gave none;"
            " null: none fails.",
            examples=["E_TIMEOUT"],
        ),
    ]
    time_zone: Annotated[
        str, Field(description="As the directory has it, or else UTC.", examples=["Africa/Kampala"])
    ]


class Site(SiteMembers):
    """A row of a list of sites."""

    devices: Annotated[int, Field(ge=0, description="All, whatever their state is.")]


class Sites(Truth):
    """A page of sites; devices without a site are the last row of the last page."""

    sites: list[Site]
    next: NextUrl


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
            " both; `h`: on that day, by our clock, something was received, but nothing of that day; `.`: nothing.",
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


class Order(StrEnum):
    """The direction of an order."""

    ASC = "asc"
    DESC = "desc"


class SitesCursor(paging.Cursor, frozen=True):
    """The last site of a page, and the order that it is the last one in."""

    sort: SiteSort
    order: Order
    value: Annotated[int, msgspec.Meta(ge=-limits.COUNT_MAX, le=limits.COUNT_MAX)]
    site_id: Annotated[str, msgspec.Meta(pattern=rf"^{topics.DEVICE_ID_PATTERN}\Z")]


class DeviceDaysCursor(paging.Cursor, frozen=True):
    """The last device of a page."""

    device_id: Annotated[str, msgspec.Meta(pattern=rf"^{topics.DEVICE_ID_PATTERN}\Z")]


_EXAMPLE: Final[dict[str, Any]] = {
    "site_id": "S-17",
    "name": "Kampala Primary",
    "devices": 40,
    "failing": 36,
    "wobbly": 2,
    "overdue": 1,
    "never_heard": 0,
    "good": 1,
    "heard_today": 38,
    "worst_cause": "E_TIMEOUT",
    "time_zone": "Africa/Kampala",
}


@router.get(
    "/sites",
    summary="Sites with the states of their devices",
    response_model=None,
    responses=list_responses(
        Sites, {503: LOADING}, example={"sites": [_EXAMPLE], **fleet_truth.EXAMPLE, "next": None}
    ),
)
@with_filters()
async def sites(
    *,
    request: Request,
    filters: Filters,
    sort: Annotated[
        SiteSort,
        Query(description="The order; `unheard`: by how many devices were not heard today."),
    ] = SiteSort.SITE_ID,
    order: Annotated[
        Order | None,
        WithJsonSchema({"type": "string", "enum": list(Order)}),
        Query(description="The direction: by default `asc` for `site_id`, and `desc` for the others."),
    ] = None,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    cursor: paging.CursorText = None,
) -> Response:
    """Counts of the devices that the filters let through; without a filter of all sites, also empty ones."""
    order = order or (Order.ASC if sort is SiteSort.SITE_ID else Order.DESC)
    end = SitesCursor.decode(cursor, sort=sort, order=order)
    page = summaries.sites(
        loaded_fleet(request),
        filters.which,
        sort=sort,
        descending=order is Order.DESC,
        limit=limit,
        after=None if end is None else SiteCursor(end.value, end.site_id),
        now_ms=to_ms(clock.now()),
    )
    following = ""
    if page.next is not None:
        following = SitesCursor(sort, order, page.next.value, page.next.site).encode()
    return list_page(
        request,
        "sites",
        page.sites,
        limit=limit,
        has_more=page.next is not None,
        next_parameters=lambda _: {"cursor": following},
        moments=filters.moments,
        as_json=_row,
        **fleet_truth.truth(request),
    )


SiteId = Annotated[
    str,
    Path(
        pattern=SITE_PATTERN,
        description="The site's id; `-`: devices without a site.",
        examples=["S-17"],
    ),
]


@router.get(
    "/site/{site_id}",
    summary="One site: its devices day by day",
    response_model=None,
    responses=list_responses(
        OneSite,
        {404: declare("No device names this site, nor does the directory."), 503: LOADING},
        example={
            **{name: value for name, value in _EXAMPLE.items() if name != "devices"},
            "device_count": 40,
            "days": ["2026-11-20"],
            "causes": [{"code": "E_TIMEOUT", "devices": 38, "failing": 36, "wobbly": 2}],
            "devices": [
                {
                    "device_id": "PB-000123",
                    "name": "Room 2",
                    "state": "failing",
                    "cells": "oooooxx..ooooox..ooooomxxxxx",
                }
            ],
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
    end = DeviceDaysCursor.decode(cursor)
    own = "" if site_id == NONE else site_id
    now_ms = to_ms(clock.now())
    fleet = loaded_fleet(request)
    counted = summaries.site(fleet, own, now_ms=now_ms)
    if counted is None:
        raise HTTPException(404, "No device names this site, nor does the directory.")
    page = query.page(
        fleet,
        msgspec.structs.replace(filters.which, sites=frozenset({own})),
        sort=FleetSort.DEVICE_ID,
        limit=limit,
        after=None if end is None else FleetCursor("", end.device_id),
        now_ms=now_ms,
    )
    causes = summaries.causes(
        fleet, FleetFilter(sites=frozenset({own})), now_ms=now_ms, limit=limits.PAGE_DEFAULT, sites_max=0
    )
    today = now_ms // DAY_MS
    return list_page(
        request,
        "devices",
        page.devices,
        limit=limit,
        has_more=page.next is not None,
        next_parameters=lambda device: {"cursor": DeviceDaysCursor(device.device_id).encode()},
        moments=filters.moments,
        as_json=lambda device: _days_of(device, today),
        **_members(counted),
        device_count=counted.devices,
        days=[_day(today - back) for back in reversed(range(limits.DAYS_TOLD))],
        causes=[
            {
                "code": shown_cause(cause.code),
                "devices": cause.devices,
                "failing": cause.failing,
                "wobbly": cause.wobbly,
            }
            for cause in causes.causes
        ],
        **fleet_truth.truth(request),
    )


def _row(site: SiteCounts) -> dict[str, object]:
    return _members(site) | {"devices": site.devices}


def _members(site: SiteCounts) -> dict[str, object]:
    return {
        "site_id": site.site or None,
        "name": site.name or None,
        **{state.value: count for state, count in site.states.items()},
        "heard_today": site.heard_today,
        "worst_cause": None if site.worst_cause is None else shown_cause(site.worst_cause),
        "time_zone": site.time_zone,
    }


def _days_of(device: FleetDevice, today: int) -> dict[str, object]:
    return {
        "device_id": device.device_id,
        "name": device.name or None,
        "state": device.state,
        "cells": cells(device, today),
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
