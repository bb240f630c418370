"""`/site/{id}`: is it the line, and since when; a site's devices day by day."""

from typing import Any

from fastapi import Request, Response

from api import paging
from api.auth import require
from api.fleet_filters import Filters, with_filters
from api.fleet_truth import loaded_fleet
from api.pages import charts, rendering
from api.pages.away import Told, answer_of, unless_away
from api.pages.routing import page_router
from api.pages.texts import day
from api.routes import incidents, site, site_activity
from api.routes.site import SiteId
from api.state import state_of
from pisync import limits
from pisync.domain.access import Role
from pisync.errors import Part

router = page_router()


@router.get("/site/{site_id}", dependencies=[require(Role.READ)])
@with_filters("site")
async def site_page(
    *,
    request: Request,
    site_id: SiteId,
    filters: Filters,
    limit: paging.Limit = limits.PAGE_SITE_DEVICES,
    cursor: paging.CursorText = None,
) -> Response:
    """The matrix and the causes from memory; what happened day by day is counted in MongoDB."""
    asking = site.one_site(request=request, site_id=site_id, filters=filters, limit=limit, cursor=cursor)
    found = await answer_of(asking)
    activity: Told[dict[str, Any]] = await unless_away(
        request,
        Part.MONGODB,
        answer_of(site_activity.activity(request=request, site_id=site_id, days=limits.DAYS_TOLD)),
    )
    open_incidents = state_of(request).open_incidents()
    of_site = [each for each in open_incidents or () if each.key.site == found["site_id"] is not None]
    entry = loaded_fleet(request).sites.entries.get(found["site_id"] or "")
    title = found["name"] or found["site_id"] or "Devices without a site"
    return await rendering.page(
        request,
        "site.html",
        title=title,
        site=found,
        site_id=site_id,
        in_directory=entry is not None,
        counts={name: found[name] for name in ("failing", "wobbly", "overdue", "never_heard", "good")},
        matrix=[(row, charts.cells(row["cells"])) for row in found["devices"]],
        weeks=charts.weeks_of(found["days"]),
        next=found["next"],
        incidents=None if open_incidents is None else [incidents.row(request, each) for each in of_site],
        activity=activity,
        **_charts(activity.value),
    )


def _charts(told: dict[str, Any] | None) -> dict[str, Any]:
    """How many devices were heard, and how fast their line was, day by day; None: not counted."""
    if told is None or told["why"] is not None:
        return {"heard": None, "speed": None}
    days, usual = told["days"], told["usual_speed"]
    size = {"width": 560, "height": 140}
    amounts = [
        charts.Amount(
            each["heard"],
            0,
            day(each["day"]) if place % 7 == 6 else "",
            f"{day(each['day'])}: {each['heard']:,} of {told['device_count']:,} devices heard",
        )
        for place, each in enumerate(days)
    ]
    points = [
        charts.Point(place, each["speed"], f"{day(each['day'])}: {each['speed']:g} Mbit/s")
        if each["speed"] is not None
        else charts.Point(place, None, "")
        for place, each in enumerate(days)
    ]
    across = [(place, day(each["day"])) for place, each in enumerate(days) if place % 7 == 6]
    has_speed = any(point.value is not None for point in points)
    return {
        "heard": charts.bars(amounts, **size),
        "speed": charts.line(points, across, level=usual, **size) if has_speed else None,
    }
