"""`/devices`: which devices, at which site, since when and why; the list of `GET /api/devices` as a page."""

from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response

from api import device_rows, paging
from api.auth import require
from api.fleet_filters import Filters, with_filters
from api.fleet_truth import loaded_fleet
from api.pages import charts, rendering
from api.pages.routing import page_router
from api.routes.devices import Asked, OrderAsked, Sort
from fleet.index import Fleet
from fleet.query import FleetDevice, FleetSort, state_counts
from pisync import clock, limits
from pisync.clock import to_ms
from pisync.domain.access import Role
from pisync.domain.days import DAY_MS

router = page_router()


@router.get("/devices", dependencies=[require(Role.READ)])
@with_filters()
async def devices_page(
    *,
    request: Request,
    filters: Filters,
    sort: Sort = FleetSort.STATE,
    order: OrderAsked = None,
    limit: paging.Limit = limits.PAGE_DEVICES,
    cursor: paging.CursorText = None,
) -> Response:
    """Facets by state, and a page of the devices; from memory alone, but for the truth line."""
    asked = Asked(filters.which, sort, order, cursor)
    fleet, now_ms = loaded_fleet(request), to_ms(clock.now())
    found = asked.page(request, limit, now_ms=now_ms)
    next_page = None
    if found.next is not None:
        after = {"cursor": asked.cursor(found.devices[-1])}
        next_page = paging.next_url(request, after, filters.moments)
    return await rendering.page(
        request,
        "devices.html",
        title="Devices",
        rows=[row(fleet, each, now_ms) for each in found.devices],
        total=found.total,
        counts=state_counts(fleet, filters.which, now_ms),
        next=next_page,
        sort=sort.value,
        order=asked.order.value,
        is_empty_system=not fleet.size,
        now_ms=now_ms,
    )


def row(fleet: Fleet, device: FleetDevice, now_ms: int) -> Mapping[str, Any]:
    """A row of `/api/devices` with what a page shows beside it: the name of the site, and the strip."""
    site = fleet.sites.entries.get(device.site or "")
    return {
        **device_rows.row(device),
        "site_name": "" if site is None else site.name,
        "strip": charts.strip(device.ok, device.bad, device.heard, now_ms // DAY_MS),
    }
