"""`/`: does anything need me, and is it getting worse?"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from fastapi import Request, Response

from api import acknowledging
from api.auth import require
from api.code_history import CodeHistory, history_of
from api.fleet_filters import shown_cause
from api.fleet_truth import loaded_fleet
from api.pages import charts, rendering
from api.pages.away import answer_of, unless_away
from api.pages.devices import row
from api.pages.routing import page_router
from api.pages.texts import MONTHS, count
from api.routes import incidents, stats
from api.state import State, state_of
from fleet import summaries
from fleet.incidents import devices_of
from fleet.index import Fleet
from fleet.query import FleetDevice, FleetFilter, FleetSort, page, state_counts
from pisync import clock, limits
from pisync.clock import read_rfc3339, to_ms
from pisync.domain.access import Role
from pisync.domain.alerts import Rule
from pisync.domain.days import DAY_MS
from pisync.domain.device_status import Status
from pisync.domain.incidents import Incident
from pisync.domain.rollups import Unit
from pisync.errors import Part

router = page_router()

_WEEKDAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_WEEKS_BACK: Final = 4


@router.get("/", dependencies=[require(Role.READ)])
async def overview_page(request: Request) -> Response:
    """States and causes from memory; what was received, and trends, are asked for all pages at once."""
    fleet, state = loaded_fleet(request), state_of(request)
    now_ms = to_ms(clock.now())
    counts = state_counts(fleet, FleetFilter(), now_ms)
    causes = summaries.causes(fleet, FleetFilter(), now_ms=now_ms, limit=limits.OVERVIEW_ROWS, sites_max=1)
    open_incidents = state.open_incidents()
    folded = _in_incidents(fleet, open_incidents or (), now_ms)
    worst = page(
        fleet,
        FleetFilter(states=frozenset({Status.FAILING, Status.OVERDUE}), muted=False),
        sort=FleetSort.STATE,
        limit=limits.OVERVIEW_ROWS + min(len(folded), limits.OVERVIEW_FOLDED_MAX),
        now_ms=now_ms,
    )
    # One outage is one line: who is in an incident is told there.
    alone = [each for each in worst.devices if each.device_id not in folded][: limits.OVERVIEW_ROWS]
    rows = [row(fleet, each, now_ms) for each in alone]
    # Where not all are looked at, the others may be in incidents, and so it is so many at least.
    lone = sum(each.device_id not in folded for each in worst.devices)
    lone = max(lone, worst.total - len(folded))
    heard = await _heard(state, fleet, now_ms)
    alerts, received, trends = await asyncio.gather(
        unless_away(request, Part.MONGODB, _alerts(state, alone)),
        unless_away(request, Part.MONGODB, _received(request), is_recent=True),
        unless_away(request, Part.MONGODB, _trends(state, causes, now_ms), is_recent=True),
    )
    return await rendering.page(
        request,
        "overview.html",
        title="Overview",
        counts=counts,
        devices=sum(counts.values()),
        is_empty_system=not fleet.size,
        heard=heard,
        causes=[_cause(fleet, each, trends.value) for each in causes.causes],
        causes_more=causes.other,
        worst=rows,
        lone=lone,
        worst_total=worst.total,
        folded=len(folded),
        incidents=_incidents(request, open_incidents),
        incidents_total=len(open_incidents or ()),
        alerts=alerts,
        received=received,
        **_sums(received.value),
        chart=None if received.value is None else _chart(received.value["received"]),
        now_ms=now_ms,
    )


async def _heard(state: State, fleet: Fleet, now_ms: int) -> dict[str, Any]:
    """How many devices were heard today, and on this weekday usually: on days on which we listened."""
    today = now_ms // DAY_MS

    async def ask() -> list[int]:
        days = [
            day
            for day in (today - 7 * back for back in range(1, _WEEKS_BACK + 1))
            if not any(
                gap.start_ms < (day + 1) * DAY_MS and gap.end_ms > day * DAY_MS for gap in state.fleet.gaps
            )
        ]
        return summaries.heard_on(fleet, FleetFilter(), days=days, now_ms=now_ms)

    # Only what comes late changes it.
    numbers = await state.pages.recent.get("weekdays", limits.OVERVIEW_TRENDS_S, ask, key=today)
    before = sorted(number for number in numbers if number)
    [heard] = summaries.heard_on(fleet, FleetFilter(), days=[today], now_ms=now_ms)
    return {
        "today": heard,
        "usual": before[len(before) // 2] if len(before) > 1 else None,
        "weekday": _WEEKDAYS[clock.now().weekday()],
    }


def _in_incidents(fleet: Fleet, open_incidents: Sequence[Incident], now_ms: int) -> frozenset[str]:
    """The devices that are in one of these incidents now."""
    found: set[str] = set()
    for each in open_incidents:
        rows = devices_of(fleet, each.key, to_ms(each.resumed_at or each.since), now_ms)
        found.update(fleet.ids.ids_of(rows))
    return frozenset(found)


def _incidents(request: Request, open_incidents: Sequence[Incident] | None) -> list[dict[str, Any]] | None:
    """The incidents with the most devices for the longest time, as `/api/incidents` tells them."""
    if open_incidents is None:
        return None
    now = clock.now()
    weighed = sorted(
        open_incidents, key=lambda each: each.evidence.devices * (now - each.since), reverse=True
    )
    return [incidents.row(request, each) for each in weighed[: limits.OVERVIEW_ROWS]]


async def _alerts(state: State, devices: Sequence[FleetDevice]) -> dict[str, dict[str, Any]]:
    """Since when the worst devices have an open alert, and what an operator said of it, by device."""
    found = await state.alerts.open_alerts([each.device_id for each in devices])
    quiet = await acknowledging.quiet_alerts(state, found.values())
    alerts = {}
    for each in devices:
        alert = next((found[each.device_id, rule] for rule in Rule if (each.device_id, rule) in found), None)
        if alert is not None:
            said = quiet.get(alert.alert_id)
            alerts[each.device_id] = {
                "id": alert.alert_id,
                "opened_at": alert.opened_at,
                "acknowledged": None if said is None else acknowledging.said(said),
            }
    return alerts


async def _received(request: Request) -> dict[str, Any]:
    """What `/api/stats` tells of the last 24 hours, hour by hour, with the hour that runs."""

    async def ask() -> dict[str, Any]:
        now = clock.now()
        since = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=23)
        return await answer_of(stats.stats(request=request, unit=Unit.HOUR, since=since, until=now))

    recent = state_of(request).pages.recent
    return await recent.get("received", limits.OVERVIEW_RECEIVED_S, ask)


async def _trends(state: State, causes: summaries.Causes, now_ms: int) -> CodeHistory:
    codes = [each.code for each in causes.causes]

    async def ask() -> CodeHistory:
        return await history_of(state.rollups, codes, now_ms=now_ms)

    # Another set of causes is another question.
    return await state.pages.recent.get("trends", limits.OVERVIEW_TRENDS_S, ask, key=frozenset(codes))


def _cause(fleet: Fleet, cause: summaries.Cause, history: CodeHistory | None) -> dict[str, Any]:
    site = cause.at[0].site if cause.at else ""
    entry = fleet.sites.entries.get(site)
    trend = None if history is None else history.trend(cause.code)
    return {
        "code": shown_cause(cause.code),
        "devices": cause.devices,
        "sites": cause.sites,
        "at": (entry.name if entry is not None and entry.name else site) or None,
        "trend": None if trend is None else trend.value,
        "since": None if history is None else history.first_ms(cause.code),
    }


def _sums(told: dict[str, Any] | None) -> dict[str, Any]:
    """What was received in all hours that are counted."""
    hours = [] if told is None else [hour for hour in told["received"] if hour["events"] is not None]
    sums = {
        f"received_{name}": sum(hour[name] for hour in hours) if hours else None
        for name in ("events", "failures", "late")
    }
    return sums | {"is_counted": told is not None and len(hours) == len(told["received"])}


def _chart(hours: Sequence[dict[str, Any]]) -> charts.Bars:
    amounts = []
    for place, hour in enumerate(hours):
        start = read_rfc3339(hour["start"])[0]
        when = f"{start.day} {MONTHS[start.month - 1]} {start:%H:%M}"
        words = "not counted yet"
        if hour["events"] is not None:
            words = (
                f"{hour['in_time']:,} in time, {hour['late']:,} late, {count(hour['failures'], 'failure')}"
            )
        label = f"{start:%H}" if place % 3 == 0 else ""
        amounts.append(charts.Amount(hour["in_time"], hour["late"], label, f"{when}: {words}"))
    return charts.bars(amounts, width=1200, height=170)
