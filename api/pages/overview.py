"""`/`: does anything need me, and is it getting worse?"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from fastapi import Request, Response

from api import acknowledging
from api.code_history import CodeHistory, history_of
from api.fleet_filters import shown_cause
from api.fleet_truth import loaded_fleet
from api.pages import charts, rendering
from api.pages.away import answer_of, unless_away
from api.pages.devices import row
from api.pages.routing import page_router
from api.pages.texts import MONTHS, count
from api.routes import stats
from api.state import State, state_of
from fleet import summaries
from fleet.index import Fleet
from fleet.query import FleetDevice, FleetFilter, FleetSort, page
from pisync import clock, limits
from pisync.clock import read_rfc3339, to_ms
from pisync.domain.alerts import Rule
from pisync.domain.calendars import ListeningGap
from pisync.domain.days import DAY_MS
from pisync.domain.device_status import Status
from pisync.domain.rollups import Unit
from pisync.errors import Part

router = page_router()

_WEEKDAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_WEEKS_BACK: Final = 4


@router.get("/")
async def overview_page(request: Request) -> Response:
    """States and causes from memory; what was received, and trends, are asked for all pages at once."""
    fleet, state = loaded_fleet(request), state_of(request)
    now_ms = to_ms(clock.now())
    counts = summaries.counts(fleet, FleetFilter(), now_ms=now_ms, limit=0)
    causes = summaries.causes(fleet, FleetFilter(), now_ms=now_ms, limit=limits.OVERVIEW_ROWS, sites_max=1)
    worst = page(
        fleet,
        FleetFilter(states=frozenset({Status.FAILING, Status.OVERDUE}), muted=False),
        sort=FleetSort.STATE,
        limit=limits.OVERVIEW_ROWS,
        now_ms=now_ms,
    )
    rows = [row(fleet, each, now_ms) for each in worst.devices]
    heard = _heard(fleet, now_ms, state.fleet.gaps)
    alerts, received, trends = await asyncio.gather(
        unless_away(request, Part.MONGODB, _alerts(state, worst.devices)),
        unless_away(request, Part.MONGODB, _received(request)),
        unless_away(request, Part.MONGODB, _trends(state, causes, now_ms)),
    )
    return await rendering.page(
        request,
        "overview.html",
        title="Overview",
        counts={each.value: number for each, number in counts.states.items()},
        devices=counts.total,
        is_empty_system=not fleet.size,
        heard=heard,
        causes=[_cause(each, trends.value) for each in causes.causes],
        causes_more=causes.other,
        worst=rows,
        worst_total=worst.total,
        alerts=alerts,
        received=received,
        **_sums(received.value),
        chart=None if received.value is None else _chart(received.value["received"]),
        now_ms=now_ms,
    )


def _heard(fleet: Fleet, now_ms: int, gaps: Sequence[ListeningGap]) -> dict[str, Any]:
    """How many devices were heard today, and on this weekday usually: on days on which we listened."""
    today = now_ms // DAY_MS
    days = [today - 7 * back for back in range(_WEEKS_BACK + 1)]
    numbers = summaries.heard_on(fleet, FleetFilter(), days=days, now_ms=now_ms)
    before = sorted(
        number
        for day, number in zip(days[1:], numbers[1:], strict=True)
        if number and not any(gap.start_ms < (day + 1) * DAY_MS and gap.end_ms > day * DAY_MS for gap in gaps)
    )
    usual = before[len(before) // 2] if len(before) > 1 else None
    weekday = _WEEKDAYS[clock.now().weekday()]
    return {"today": numbers[0], "usual": usual, "weekday": weekday, "weeks": len(before)}


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


def _cause(cause: summaries.Cause, history: CodeHistory | None) -> dict[str, Any]:
    trend = None if history is None else history.trend(cause.code)
    return {
        "code": shown_cause(cause.code),
        "devices": cause.devices,
        "sites": cause.sites,
        "at": cause.at[0] if cause.at and cause.at[0].site else None,
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
