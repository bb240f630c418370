"""`/api/sites` and `/api/site/{site_id}`: how the devices of each site are, and each of them day by day."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field, WithJsonSchema
from starlette.exceptions import HTTPException

from api import fleet_truth, models, paging
from api.directory.reading import FileFormat
from api.fleet_filters import NONE, SITE_PATTERN, Filters, shown_cause, with_filters
from api.fleet_truth import FILE_HEADERS, Truth, file_headers, loaded_fleet
from api.list_files import Rows, file_response, list_files
from api.models import Count, NextUrl
from api.openapi import LOADING, declare, list_responses
from api.paging import list_page
from api.parameters import StrictRoute
from api.routes.devices import Order
from fleet import query, summaries
from fleet.query import FleetCursor, FleetDevice, FleetFilter, FleetSort
from fleet.summaries import SiteCounts, SiteCursor, SitePage, SiteSort
from pisync import clock, limits
from pisync.clock import from_ms, to_ms
from pisync.domain import topics
from pisync.domain.days import DAY_MS, Days
from pisync.domain.device_status import Status

router = APIRouter(tags=["operators"], route_class=StrictRoute)

_PATH: Final = "/sites"
_SITE_PATH: Final = "/site/{site_id}"


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


class _Asked:
    """Which sites a request asks for, and in which order."""

    def __init__(self, which: FleetFilter, sort: SiteSort, order: Order | None, cursor: str | None) -> None:
        if order is None:
            order = Order.ASCENDING if sort is SiteSort.SITE_ID else Order.DESCENDING
        self._which, self._sort, self._order = which, sort, order
        end = SitesCursor.decode(cursor, sort=sort, order=order)
        self.after = None if end is None else SiteCursor(end.value, end.site_id)

    def page(self, request: Request, limit: int, after: SiteCursor | None) -> SitePage:
        """So many sites after a place."""
        return summaries.sites(
            loaded_fleet(request),
            self._which,
            sort=self._sort,
            descending=self._order is Order.DESCENDING,
            limit=limit,
            after=after,
            now_ms=to_ms(clock.now()),
        )

    def cursor(self, end: SiteCursor) -> str:
        """The parameter of the page behind this place."""
        return SitesCursor(self._sort, self._order, end.value, end.site).encode()


Sort = Annotated[
    SiteSort,
    Query(
        description="`unheard`: by how many devices were not heard today. Devices without a site come last in"
        " every order."
    ),
]
OrderAsked = Annotated[
    Order | None,
    WithJsonSchema({"type": "string", "enum": list(Order)}),
    Query(description="By default `asc` for `site_id`, else `desc`: the most first."),
]


@router.get(
    _PATH,
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
    sort: Sort = SiteSort.SITE_ID,
    order: OrderAsked = None,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    cursor: paging.CursorText = None,
) -> Response:
    """Counts of the devices that the filters let through; without a filter of all sites, also empty ones."""
    asked = _Asked(filters.which, sort, order, cursor)
    found = asked.page(request, limit, asked.after)
    following = "" if found.next is None else asked.cursor(found.next)
    return list_page(
        request,
        "sites",
        found.sites,
        limit=limit,
        has_more=found.next is not None,
        # All rows of a page are small, so that it ends where the fleet's does.
        next_parameters=lambda _: {"cursor": following},
        moments=filters.moments,
        as_json=_row,
        **fleet_truth.truth(request),
    )


@list_files(router, _PATH, _EXAMPLE, summary="Sites with the states of their devices", headers=FILE_HEADERS)
@with_filters()
async def sites_file(
    *,
    request: Request,
    filters: Filters,
    sort: Sort = SiteSort.SITE_ID,
    order: OrderAsked = None,
    cursor: paging.CursorText = None,
    file_format: FileFormat,
) -> Response:
    """All rows from the cursor on.

    Sorted by `site_id`, each site is there once; by anything else, one that moves while the file is made may
    be missing, or be there twice.
    """
    asked = _Asked(filters.which, sort, order, cursor)
    return await file_response(
        file_format, "sites", list(_EXAMPLE), _pages(request, asked), file_headers(request)
    )


async def _pages(request: Request, asked: _Asked) -> AsyncIterator[Rows]:
    after = asked.after
    while True:
        found = asked.page(request, limits.PAGE_MAX, after)
        yield [_row(site) for site in found.sites]
        if found.next is None:
            return
        after = found.next


SiteId = Annotated[
    str,
    Path(
        pattern=SITE_PATTERN,
        description="The site's id; `-`: devices without a site.",
        examples=["S-17"],
    ),
]
_UNKNOWN: Final = declare("No device names this site, nor does the directory.")
_DAYS_EXAMPLE: Final[dict[str, Any]] = {
    "device_id": "PB-000123",
    "name": "Room 2",
    "state": "failing",
    "cells": "oooooxx..ooooox..ooooomxxxxx",
}


@router.get(
    _SITE_PATH,
    summary="One site: its devices day by day",
    response_model=None,
    responses=list_responses(
        OneSite,
        {404: _UNKNOWN, 503: LOADING},
        example={
            **{name: value for name, value in _EXAMPLE.items() if name != "devices"},
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
    own, counted = _known_site(request, site_id)
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
        **_members(counted),
        device_count=counted.devices,
        days=[_day(_today() - back) for back in reversed(range(limits.DAYS_TOLD))],
        causes=_causes(request, own),
        **fleet_truth.truth(request),
    )


@list_files(
    router,
    f"{_SITE_PATH}/days",
    _DAYS_EXAMPLE,
    summary="The devices of a site day by day",
    headers=FILE_HEADERS,
    responses={404: _UNKNOWN},
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
    own, _ = _known_site(request, site_id)
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


def _known_site(request: Request, site_id: str) -> tuple[str, SiteCounts]:
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


def _row(site: SiteCounts) -> dict[str, object]:
    """A row of a list, its members in the order of the columns of a file."""
    site_id, name, *others = _members(site).items()
    return dict([site_id, name, ("devices", site.devices), *others])


def _members(site: SiteCounts) -> dict[str, object]:
    return {
        "site_id": site.site or None,
        "name": site.name or None,
        **{state.value: count for state, count in site.states.items()},
        "heard_today": site.heard_today,
        "worst_cause": None if site.worst_cause is None else shown_cause(site.worst_cause),
        "time_zone": site.time_zone,
    }


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
