"""`GET /api/devices`: the whole fleet, filtered and sorted, as pages and as files."""

from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, WithJsonSchema

from api import device_rows, models, paging
from api.auth import require
from api.device_rows import DeviceRow
from api.directory.reading import FileFormat
from api.fleet_filters import Filters, with_filters
from api.fleet_truth import FILE_HEADERS, Truth, file_headers, loaded_fleet, truth
from api.list_files import Rows, file_response, list_files
from api.models import NextUrl
from api.openapi import LOADING, list_responses, reference
from api.paging import list_page
from api.parameters import StrictRoute
from fleet.query import (
    FleetCursor,
    FleetDevice,
    FleetFilter,
    FleetPage,
    FleetSort,
    end_at,
    page,
    state_counts,
)
from pisync import clock, limits
from pisync.clock import to_ms
from pisync.domain import topics
from pisync.domain.access import Role

router = APIRouter(tags=["operators"], route_class=StrictRoute)

_PATH: Final = "/devices"


class Order(StrEnum):
    """Which end of an order comes first."""

    ASCENDING = "asc"
    DESCENDING = "desc"


class StateCounts(BaseModel):
    """Devices by state, of those that all filters but `state` let through."""

    failing: models.Count
    wobbly: models.Count
    overdue: models.Count
    never_heard: models.Count
    good: models.Count


class Devices(Truth):
    """A page of devices."""

    devices: list[DeviceRow]
    counts: StateCounts
    next: NextUrl


class DevicesCursor(paging.Cursor, frozen=True):
    """What the last device of a page is sorted by, and the order that it is the last one in."""

    sort: FleetSort
    order: Order
    value: (
        Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
        | Annotated[str, msgspec.Meta(max_length=limits.DIRECTORY_NAME_CHARS_MAX)]
    )
    device_id: Annotated[str, msgspec.Meta(pattern=rf"^{topics.DEVICE_ID_PATTERN}\Z")]


Sort = Annotated[
    FleetSort,
    Query(
        description="`state`: the worst first, then the longest streak, then who was heard longest ago."
        " Devices of which it is not known come last in either order."
    ),
]
OrderAsked = Annotated[
    Order | None,
    WithJsonSchema(reference("Order")),
    Query(
        description="By default `asc` for ids and names, else `desc`: the worst, the newest, the most first."
    ),
]
_COUNTS: Final = {"failing": 1, "wobbly": 0, "overdue": 0, "never_heard": 0, "good": 7}
_EXAMPLE: Final[dict[str, Any]] = {
    "devices": [device_rows.EXAMPLE],
    "counts": _COUNTS,
    "as_of": "2026-05-08T12:00:04.100Z",
    "complete": True,
    "loading": None,
    "stale_since": None,
    "stale_why": None,
    "next": None,
}


class Asked:
    """Which devices a request asks for, and in which order."""

    def __init__(self, which: FleetFilter, sort: FleetSort, order: Order | None, cursor: str | None) -> None:
        if order is None:
            is_text = sort in {FleetSort.DEVICE_ID, FleetSort.NAME}
            order = Order.ASCENDING if is_text else Order.DESCENDING
        # The worst state is the least for the fleet, and the greatest for who asks.
        self._descending = (order is Order.DESCENDING) != (sort is FleetSort.STATE)
        self._which, self._sort, self.order = which, sort, order
        end = DevicesCursor.decode(cursor, sort=sort, order=order)
        self._after = None if end is None else FleetCursor(end.value, end.device_id)

    def page(
        self, request: Request, limit: int, *, now_ms: int, after: FleetCursor | None = None
    ) -> FleetPage:
        """So many devices after the cursor that was asked for, or another one."""
        return page(
            loaded_fleet(request),
            self._which,
            sort=self._sort,
            descending=self._descending,
            limit=limit,
            after=after or self._after,
            now_ms=now_ms,
        )

    def cursor(self, last: FleetDevice) -> str:
        """The parameter of the page behind this device."""
        end = end_at(last, self._sort, descending=self._descending)
        return DevicesCursor(self._sort, self.order, end.value, end.device_id).encode()


@router.get(
    _PATH,
    dependencies=[require(Role.READ)],
    summary="The devices of the fleet",
    response_model=None,
    responses=list_responses(Devices, {503: LOADING}, example=_EXAMPLE),
)
@with_filters()
async def devices(
    *,
    request: Request,
    filters: Filters,
    sort: Sort = FleetSort.STATE,
    order: OrderAsked = None,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    cursor: paging.CursorText = None,
) -> Response:
    """Every device with an event or an entry of the directory; `counts` ignores the filter `state`.

    Answered from the memory of this api, which follows what is stored by about a second, as `as_of` says.
    Streaks and failures count to 1,000; of one device `/api/device/{device_id}` tells all of them.
    """
    asked = Asked(filters.which, sort, order, cursor)
    now_ms = to_ms(clock.now())
    found = asked.page(request, limit + 1, now_ms=now_ms)
    return list_page(
        request,
        "devices",
        found.devices,
        limit=limit,
        next_parameters=lambda last: {"cursor": asked.cursor(last)},
        moments=filters.moments,
        as_json=device_rows.row,
        counts=state_counts(loaded_fleet(request), filters.which, now_ms),
        **truth(request),
    )


@list_files(
    router,
    _PATH,
    device_rows.EXAMPLE,
    dependencies=[require(Role.READ)],
    summary="The devices of the fleet",
    headers=FILE_HEADERS,
)
@with_filters()
async def devices_file(
    *,
    request: Request,
    filters: Filters,
    sort: Sort = FleetSort.STATE,
    order: OrderAsked = None,
    cursor: paging.CursorText = None,
    file_format: FileFormat,
) -> Response:
    """All rows from the cursor on.

    Sorted by `device_id`, each device is there once, whatever changes meanwhile; by anything else, one that
    moves while the file is made may be missing, or be there twice.
    """
    asked = Asked(filters.which, sort, order, cursor)
    headers = file_headers(request)
    return await file_response(file_format, "devices", device_rows.COLUMNS, _pages(request, asked), headers)


async def _pages(request: Request, asked: Asked) -> AsyncIterator[Rows]:
    after = None
    while True:
        found = asked.page(request, limits.PAGE_MAX, now_ms=to_ms(clock.now()), after=after)
        yield [device_rows.row(device) for device in found.devices]
        if found.next is None:
            return
        after = found.next
