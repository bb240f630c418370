"""`GET /api/alerts`: the devices that keep failing, and those that did."""

import asyncio
from collections.abc import Collection, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field, WithJsonSchema

from api import paging
from api.exact_counts import Counts, Kept, exact_counts
from api.models import DeviceId, DeviceIdFilter, NextUrl
from api.openapi import list_responses
from api.paging import list_page
from api.parameters import StrictRoute
from api.state import State, state_of
from pisync import limits
from pisync.clock import rfc3339
from pisync.domain import alerts as domain
from pisync.domain.alerts import Rule
from pisync.errors import RedisUnavailable
from pisync.stores.interfaces.alerts import AlertQuery

router = APIRouter(tags=["operators"], route_class=StrictRoute)


_NOW: Final = " Null: not known, because Redis is unavailable, has lost it or is not complete."


class Alert(BaseModel):
    """An alert of one rule about one device. Times are by the bridge's clock."""

    id: Annotated[str, Field(description="Opaque.")]
    device_id: DeviceId
    rule: Annotated[Rule, Field(description="Why it was opened. `streak`: the device kept failing.")]
    streak: Annotated[int, Field(ge=0, description="The device's streak when the alert was opened.")]
    streak_now: Annotated[int | None, Field(ge=0, description="Its present streak." + _NOW)]
    failures_now: Annotated[int | None, Field(ge=0, description="All its failures by now." + _NOW)]
    opened_at: datetime
    closed_at: Annotated[datetime | None, Field(description="null: it is still open.")]


class Alerts(BaseModel):
    """A page of alerts, newest first."""

    alerts: list[Alert]
    next: NextUrl


class AlertsCursor(paging.Cursor, frozen=True):
    """The last alert of a page."""

    alert_id: Annotated[str, msgspec.Meta(min_length=1)]


class AlertState(StrEnum):
    """Which alerts are listed."""

    OPEN = "open"
    CLOSED = "closed"
    ALL = "all"


_IS_OPEN: Final = {AlertState.OPEN: True, AlertState.CLOSED: False, AlertState.ALL: None}


@router.get("/alerts", summary="Alerts, newest first", response_model=None, responses=list_responses(Alerts))
async def alerts(
    *,
    request: Request,
    state: Annotated[AlertState, Query(description="Which alerts.")] = AlertState.OPEN,
    rule: Annotated[
        Rule | None,
        WithJsonSchema({"type": "string", "enum": list(Rule)}),
        Query(description="Only alerts of this rule."),
    ] = None,
    device_id: Annotated[DeviceIdFilter, Query(description="Only alerts of this device.")] = None,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    cursor: paging.CursorText = None,
) -> Response:
    """By the rule `streak`, an alert opens when a streak reaches 3, and closes when a success ends it.

    A device has at most one open alert of a rule. Newest first by when they were opened.
    """
    end = AlertsCursor.decode(cursor)
    query = AlertQuery(
        limit=limit + 1,
        is_open=_IS_OPEN[state],
        rule=rule,
        device_id=device_id,
        before=None if end is None else end.alert_id,
    )
    stores = state_of(request)
    found = await stores.alerts.find(query)
    present = await _present(stores, {alert.device_id for alert in found[:limit]})
    return list_page(
        request,
        "alerts",
        found,
        limit=limit,
        next_parameters=lambda alert: {"cursor": AlertsCursor(alert.alert_id).encode()},
        as_json=lambda alert: _row(alert, present.get(alert.device_id)),
    )


async def _present(state: State, device_ids: Collection[str]) -> Mapping[str, Counts]:
    """The present counts of these devices, as far as they are surely known."""
    if not device_ids:
        return {}
    asked = list(device_ids)
    try:
        status, states = await asyncio.gather(state.projection.status(), state.projection.states_of(asked))
    except RedisUnavailable:
        return {}
    if not status.complete:
        return {}
    found = {device_id: each for device_id, each in zip(asked, states, strict=True) if each is not None}
    kept = {device_id: Counts(each.failures, each.streak, 0) for device_id, each in found.items()}
    return kept | await exact_counts(
        state.events,
        (
            Kept(device_id, each.failures, each.streak, each.last_success_ms)
            for device_id, each in found.items()
        ),
    )


def _row(alert: domain.Alert, present: Counts | None) -> dict[str, object]:
    return {
        "id": alert.alert_id,
        "device_id": alert.device_id,
        "rule": alert.rule,
        "streak": alert.streak,
        "streak_now": None if present is None else present.streak,
        "failures_now": None if present is None else present.failures,
        "opened_at": rfc3339(alert.opened_at),
        "closed_at": None if alert.closed_at is None else rfc3339(alert.closed_at),
    }
