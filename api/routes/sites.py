"""`/api/sites`: how the devices of each site are."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field, WithJsonSchema

from api import fleet_truth, models, paging
from api.auth import require
from api.directory.reading import FileFormat
from api.fleet_filters import Filters, shown_cause, with_filters
from api.fleet_truth import FILE_HEADERS, Truth, file_headers, loaded_fleet
from api.list_files import Rows, file_response, list_files
from api.models import Count, NextUrl
from api.openapi import LOADING, list_responses
from api.paging import list_page
from api.parameters import StrictRoute
from api.routes.devices import Order
from fleet import summaries
from fleet.query import FleetFilter
from fleet.summaries import SiteCounts, SiteCursor, SitePage, SiteSort
from pisync import clock, limits
from pisync.clock import to_ms
from pisync.domain import topics
from pisync.domain.access import Role

router = APIRouter(tags=["operators"], route_class=StrictRoute)

_PATH: Final = "/sites"


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


class SitesCursor(paging.Cursor, frozen=True):
    """The last site of a page, and the order that it is the last one in."""

    sort: SiteSort
    order: Order
    value: Annotated[int, msgspec.Meta(ge=-limits.COUNT_MAX, le=limits.COUNT_MAX)]
    site_id: Annotated[str, msgspec.Meta(pattern=rf"^{topics.DEVICE_ID_PATTERN}\Z")]


EXAMPLE: Final[dict[str, Any]] = {
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
    dependencies=[require(Role.READ)],
    summary="Sites with the states of their devices",
    response_model=None,
    responses=list_responses(
        Sites, {503: LOADING}, example={"sites": [EXAMPLE], **fleet_truth.EXAMPLE, "next": None}
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


@list_files(
    router,
    _PATH,
    EXAMPLE,
    summary="Sites with the states of their devices",
    headers=FILE_HEADERS,
    dependencies=[require(Role.READ)],
)
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
        file_format, "sites", list(EXAMPLE), _pages(request, asked), file_headers(request)
    )


async def _pages(request: Request, asked: _Asked) -> AsyncIterator[Rows]:
    after = asked.after
    while True:
        found = asked.page(request, limits.PAGE_MAX, after)
        yield [_row(site) for site in found.sites]
        if found.next is None:
            return
        after = found.next


def _row(site: SiteCounts) -> dict[str, object]:
    """A row of a list, its members in the order of the columns of a file."""
    site_id, name, *others = members(site).items()
    return dict([site_id, name, ("devices", site.devices), *others])


def members(site: SiteCounts) -> dict[str, object]:
    """What is told of a site, wherever that is."""
    return {
        "site_id": site.site or None,
        "name": site.name or None,
        **{state.value: count for state, count in site.states.items()},
        "heard_today": site.heard_today,
        "worst_cause": None if site.worst_cause is None else shown_cause(site.worst_cause),
        "time_zone": site.time_zone,
    }
