"""`/sites`: where something is wrong; the list of `GET /api/sites` as a page."""

from fastapi import Request, Response

from api import paging
from api.auth import require
from api.fleet_filters import Filters, with_filters
from api.fleet_truth import loaded_fleet
from api.pages import rendering
from api.pages.away import answer_of
from api.pages.routing import page_router
from api.routes import sites
from api.routes.devices import Order
from api.routes.sites import OrderAsked, Sort
from fleet.summaries import SiteSort
from pisync import limits
from pisync.domain.access import Role

router = page_router()


@router.get("/sites", dependencies=[require(Role.READ)])
@with_filters()
async def sites_page(
    *,
    request: Request,
    filters: Filters,
    sort: Sort = SiteSort.FAILING,
    order: OrderAsked = None,
    limit: paging.Limit = limits.PAGE_DEVICES,
    cursor: paging.CursorText = None,
) -> Response:
    """Sites with the states of their devices, from memory; those where most devices fail come first."""
    asking = sites.sites(request=request, filters=filters, sort=sort, order=order, limit=limit, cursor=cursor)
    answer = await answer_of(asking)
    if order is None:
        order = Order.ASCENDING if sort is SiteSort.SITE_ID else Order.DESCENDING
    return await rendering.page(
        request,
        "sites.html",
        title="Sites",
        rows=answer["sites"],
        next=answer["next"],
        sort=sort.value,
        order=order.value,
        is_empty_system=not loaded_fleet(request).size,
    )
