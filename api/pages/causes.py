"""`/causes` and `/cause/{code}`: why devices fail now, since when, where, and whether it spreads."""

from typing import Any

from fastapi import Request, Response

from api import acknowledging, paging
from api.auth import require
from api.fleet_filters import NONE, Filters, shown_cause, with_filters
from api.fleet_truth import loaded_fleet
from api.pages import charts, rendering
from api.pages.away import Told, answer_of, unless_away
from api.pages.devices import row
from api.pages.routing import page_router
from api.pages.texts import count, day
from api.routes import causes, incidents
from api.routes.causes import Code
from api.state import state_of
from fleet import summaries
from fleet.query import FleetFilter, FleetSort, page
from pisync import clock, limits
from pisync.clock import to_ms
from pisync.domain.access import Role
from pisync.domain.acknowledgements import Subject, SubjectKind
from pisync.errors import Part

router = page_router()


@router.get("/causes", dependencies=[require(Role.READ)])
@with_filters()
async def causes_page(
    *,
    request: Request,
    filters: Filters,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    cursor: paging.CursorText = None,
) -> Response:
    """Causes with how many devices fail by each, those with the most first; trends where they are counted."""
    fleet = loaded_fleet(request)
    asking = causes.causes(request=request, filters=filters, limit=limit, cursor=cursor)
    told: Told[dict[str, Any]] = await unless_away(request, Part.MONGODB, answer_of(asking))
    if told.value is None:
        found = summaries.causes(fleet, filters.which, now_ms=to_ms(clock.now()), limit=limit, sites_max=0)
        rows, following = [_without_history(each) for each in found.causes], None
    else:
        rows, following = told.value["causes"], told.value["next"]
    return await rendering.page(
        request,
        "causes.html",
        title="Causes",
        rows=rows,
        next=following,
        told=told,
        is_empty_system=not fleet.size,
    )


@router.get("/cause/{code:any_text}", dependencies=[require(Role.READ)])
async def cause_page(*, request: Request, code: Code) -> Response:
    """One cause; without MongoDB what the fleet in memory knows of it."""
    fleet = loaded_fleet(request)
    own, now_ms = "" if code == NONE else code, to_ms(clock.now())
    told: Told[dict[str, Any]] = await unless_away(
        request, Part.MONGODB, answer_of(causes.one_cause(request=request, code=code))
    )
    known = told.value
    if known is None:
        found = summaries.cause(fleet, own, now_ms=now_ms, sites_max=limits.PAGE_DEFAULT)
        known = _without_history(found) | {
            "by_site": [{"site": at.site or None, "devices": at.devices, "of": at.of} for at in found.at],
            "days": [],
            "samples": [],
        }
    said = await unless_away(request, Part.MONGODB, _said(request, code))
    worst = page(
        fleet,
        FleetFilter(causes=frozenset({own})),
        sort=FleetSort.STATE,
        limit=limits.CAUSE_DEVICES,
        now_ms=now_ms,
    )
    entries = fleet.sites.entries
    open_incidents = state_of(request).open_incidents()
    return await rendering.page(
        request,
        "cause.html",
        title="Failures without a code" if code == NONE else code,
        code=code,
        cause=known | (said.value or {}),
        told=told,
        by_site=[
            each | {"name": entries[each["site"]].name if each["site"] in entries else ""}
            for each in known["by_site"][: limits.PAGE_DEFAULT]
        ],
        chart=_chart(known["days"]),
        rows=[row(fleet, each, now_ms) for each in worst.devices],
        total=worst.total,
        incidents=[incidents.row(request, each) for each in open_incidents or () if each.key.code == own],
    )


async def _said(request: Request, code: str) -> dict[str, Any]:
    """What an operator said of the cause; or who took that back, and why."""
    state = state_of(request)
    quiet = await acknowledging.quiet_cause(state, code)
    if quiet is not None:
        return {"acknowledged": acknowledging.said(quiet)}
    subject = Subject(kind=SubjectKind.CAUSES, target=code)
    return {"taken_back": await acknowledging.taken_back_last(state, subject)}


def _without_history(cause: summaries.Cause) -> dict[str, Any]:
    return {
        "code": shown_cause(cause.code),
        "devices": cause.devices,
        "failing": cause.failing,
        "wobbly": cause.wobbly,
        "sites": cause.sites,
        "first_seen": None,
        "last_seen": None,
        "trend": None,
        "standing": None,
        "failures_today": None,
        "failures_week_ago": None,
    }


def _chart(days: list[dict[str, Any]]) -> charts.Bars | None:
    """Failures day by day; None where nothing is counted."""
    if all(each["failures"] is None for each in days):
        return None
    amounts = []
    for place, each in enumerate(days):
        words = "not counted" if each["failures"] is None else count(each["failures"], "failure")
        label = day(each["day"]) if place % 7 == 6 else ""
        upper = None if each["failures"] is None else 0
        amounts.append(charts.Amount(each["failures"], upper, label, f"{day(each['day'])}: {words}"))
    return charts.bars(amounts, width=560, height=140)
