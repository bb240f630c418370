"""`/api/alerts`: devices that keep failing or fell silent, and those that did; which an operator knows of."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, NamedTuple

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field, WithJsonSchema

from api import acknowledging, folding, paging
from api.auth import require
from api.directory.reading import FileFormat
from api.exact_counts import Counts, Kept, exact_counts
from api.list_files import Rows, file_response, list_files
from api.models import DeviceId, DeviceIdFilter, NextUrl
from api.openapi import UNAVAILABLE, declare, list_responses, object_body
from api.paging import list_page
from api.parameters import StrictRoute
from api.routes.acknowledgements import (
    ACKNOWLEDGING,
    AlertAcknowledging,
    Said,
    acknowledged,
    answers,
    taken_back,
)
from api.state import State, state_of
from pisync import limits
from pisync.clock import rfc3339
from pisync.domain import alerts as domain
from pisync.domain.access import Role
from pisync.domain.acknowledgements import Acknowledgement, Subject, SubjectKind
from pisync.domain.alerts import CloseReason, Rule
from pisync.errors import RedisUnavailable
from pisync.stores.interfaces.alerts import AlertQuery

router = APIRouter(tags=["operators"], route_class=StrictRoute)


_NOW: Final = " Null: not known, because Redis is unavailable, has lost it or is not complete."


class Alert(BaseModel):
    """An alert of one rule about one device. Times are by the clock of the bridge or worker that acted."""

    id: Annotated[str, Field(description="Opaque.")]
    device_id: DeviceId
    rule: Annotated[
        Rule,
        Field(
            description="Why it was opened. `streak`: the device kept failing. `overdue`: it was silent for "
            "longer than its habit."
        ),
    ]
    streak: Annotated[int, Field(ge=0, description="The device's streak when the alert was opened.")]
    streak_now: Annotated[int | None, Field(ge=0, description="Its present streak." + _NOW)]
    failures_now: Annotated[int | None, Field(ge=0, description="All its failures by now." + _NOW)]
    opened_at: datetime
    closed_at: Annotated[datetime | None, Field(description="null: it is still open.")]
    close_reason: Annotated[
        CloseReason | None,
        Field(
            description="Why it was closed. `recovered`: a success ended the streak. Of a silence: `heard`; "
            "`retired`; `gone`: nothing of the device is known; `usual`: its habit, the calendar or what is "
            "known of our own outages changed. null: it is open, or this was not kept yet."
        ),
    ]
    incident_id: Annotated[
        str | None,
        Field(
            description="The open incident that explains it, into which it is folded. null: it is closed,"
            " none does, or that is not known now."
        ),
    ]
    acknowledged: Annotated[
        Said | None, Field(description="What an operator said of it, while that holds; null: it is loud.")
    ]


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


_State = Annotated[AlertState, Query(description="Which alerts.")]
_Rule = Annotated[
    Rule | None,
    WithJsonSchema({"type": "string", "enum": list(Rule)}),
    Query(description="Only alerts of this rule."),
]
_Device = Annotated[DeviceIdFilter, Query(description="Only alerts of this device.")]
_Acknowledged = Annotated[
    bool | None,
    WithJsonSchema({"type": "boolean"}),
    Query(description="Only alerts that are acknowledged, or only those that are not."),
]
_Folded = Annotated[
    bool | None,
    WithJsonSchema({"type": "boolean"}),
    Query(description="Only alerts that an open incident explains, or only those that none does."),
]
_EXAMPLE: Final[dict[str, object]] = {
    "id": "019aa0c1d2e0a1b2c3d4e5f60718",
    "device_id": "PB-000123",
    "rule": "streak",
    "streak": 3,
    "streak_now": 7,
    "failures_now": 19,
    "opened_at": "2026-11-20T05:24:10.000Z",
    "closed_at": None,
    "close_reason": None,
    "incident_id": None,
    "acknowledged": None,
}


@router.get(
    "/alerts",
    summary="Alerts, newest first",
    response_model=None,
    responses=list_responses(Alerts),
    dependencies=[require(Role.READ)],
)
async def alerts(
    *,
    request: Request,
    state: _State = AlertState.OPEN,
    rule: _Rule = None,
    device_id: _Device = None,
    acknowledged: _Acknowledged = None,
    folded: _Folded = None,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    cursor: paging.CursorText = None,
) -> Response:
    """By the rule `streak`, an alert opens when a streak reaches 3, and closes when a success ends it.

    By the rule `overdue`, one opens when a device is silent for longer than its habit, and closes when it is
    heard, retired, or no longer overdue for another reason.
    A device has at most one open alert of a rule. Newest first by when they were opened.
    """
    query = _query(state, rule, device_id, cursor, limit + 1)
    stores = state_of(request)
    found = await find(stores, query, acknowledged, folded)
    present = await _present(stores, {row.alert.device_id for row in found[:limit]})
    return list_page(
        request,
        "alerts",
        found,
        limit=limit,
        next_parameters=lambda row: {"cursor": AlertsCursor(row.alert.alert_id).encode()},
        as_json=lambda row: _row(row, present.get(row.alert.device_id)),
    )


@list_files(
    router,
    "/alerts",
    _EXAMPLE,
    summary="Alerts",
    responses={503: UNAVAILABLE},
    dependencies=[require(Role.READ)],
)
async def alerts_file(
    *,
    request: Request,
    state: _State = AlertState.OPEN,
    rule: _Rule = None,
    device_id: _Device = None,
    acknowledged: _Acknowledged = None,
    folded: _Folded = None,
    cursor: paging.CursorText = None,
    file_format: FileFormat,
) -> Response:
    """All rows from the cursor on."""
    query = _query(state, rule, device_id, cursor, limits.PAGE_MAX)
    pages = _pages(state_of(request), query, acknowledged, folded)
    return await file_response(file_format, "alerts", list(_EXAMPLE), pages)


async def _pages(
    state: State, query: AlertQuery, is_acknowledged: bool | None, is_folded: bool | None
) -> AsyncIterator[Rows]:
    while True:
        found = await find(state, query, is_acknowledged, is_folded)
        present = await _present(state, {row.alert.device_id for row in found})
        yield [_row(row, present.get(row.alert.device_id)) for row in found]
        if len(found) < query.limit:
            return
        query = replace(query, before=found[-1].alert.alert_id)


def _query(
    state: AlertState, rule: Rule | None, device_id: str | None, cursor: str | None, limit: int
) -> AlertQuery:
    end = AlertsCursor.decode(cursor)
    return AlertQuery(
        limit=limit,
        is_open=_IS_OPEN[state],
        rule=rule,
        device_id=device_id,
        before=None if end is None else end.alert_id,
    )


AlertId = Annotated[str, Path(min_length=1, description="The alert's id, as the list gives it.")]
_UNKNOWN: Final = {404: declare("There is no alert with this id.")}


@router.post(
    "/alerts/{alert_id}/acknowledge",
    dependencies=[require(Role.OPERATE)],
    summary="Acknowledge an open alert",
    response_model=None,
    openapi_extra=object_body(
        AlertAcknowledging,
        recovery={"until": "recovery", "reason": "A new card is on its way."},
        moment={"until": "2026-12-01T00:00:00Z", "reason": "The school is closed."},
    ),
    responses=answers(
        "It said the same before.", ACKNOWLEDGING | _UNKNOWN | {409: declare("The alert is closed.")}
    ),
)
async def acknowledge(*, request: Request, alert_id: AlertId) -> Response:
    """The alert is quiet until then, or until it closes. A later alert of the same device is loud again.

    May be repeated; what is said anew takes the place of what was said.
    """
    return await acknowledged(request, Subject(kind=SubjectKind.ALERTS, target=alert_id))


@router.delete(
    "/alerts/{alert_id}/acknowledge",
    dependencies=[require(Role.OPERATE)],
    summary="Take the acknowledgement of an alert back",
    response_model=None,
    responses=answers(
        "It is taken back; this is what it was.",
        {404: declare("There is no alert with this id, or it is not acknowledged.")},
    ),
)
async def unacknowledge(*, request: Request, alert_id: AlertId) -> Response:
    """The alert is loud again."""
    return await taken_back(request, Subject(kind=SubjectKind.ALERTS, target=alert_id))


class Listed(NamedTuple):
    """An alert, what makes it quiet, and the incident that explains it."""

    alert: domain.Alert
    acknowledgement: Acknowledgement | None
    incident_id: str | None


async def find(
    state: State, query: AlertQuery, is_acknowledged: bool | None, is_folded: bool | None
) -> list[Listed]:
    """The first alerts of a query that are acknowledged, or folded, or are not; None: either."""
    if is_acknowledged:
        return await _find_acknowledged(state, query, is_folded)
    found: list[Listed] = []
    size = query.limit
    while True:
        alerts = await state.alerts.find(replace(query, limit=size))
        quiet = await acknowledging.quiet_alerts(state, alerts)
        incidents = folding.incidents_of(state, alerts)
        found += (
            Listed(alert, quiet.get(alert.alert_id), incidents.get(alert.alert_id))
            for alert in alerts
            if (is_acknowledged is None or alert.alert_id not in quiet)
            and is_folded in {None, alert.alert_id in incidents}
        )
        if len(alerts) < size or len(found) >= query.limit:
            return found[: query.limit]
        query, size = replace(query, before=alerts[-1].alert_id), limits.PAGE_MAX


async def _find_acknowledged(state: State, query: AlertQuery, is_folded: bool | None) -> list[Listed]:
    """The same by what is acknowledged: among many alerts those may be few."""
    found: list[Listed] = []
    before, size = query.before, query.limit
    while True:
        some = await state.acknowledgements.open_by_target(SubjectKind.ALERTS, size, before)
        if some:
            by_alert = {each.subject.target: each for each in some}
            alerts = await state.alerts.find(replace(query, limit=len(some), alert_ids=by_alert))
            incidents = folding.incidents_of(state, alerts)
            found += (
                Listed(alert, by_alert[alert.alert_id], incidents.get(alert.alert_id))
                for alert in alerts
                if acknowledging.is_quiet(alert, by_alert[alert.alert_id])
                and is_folded in {None, alert.alert_id in incidents}
            )
        if len(some) < size or len(found) >= query.limit:
            return found[: query.limit]
        before, size = some[-1].subject.target, limits.PAGE_MAX


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


def _row(row: Listed, present: Counts | None) -> dict[str, object]:
    alert, acknowledgement, incident_id = row
    return {
        "id": alert.alert_id,
        "device_id": alert.device_id,
        "rule": alert.rule,
        "streak": alert.streak,
        "streak_now": None if present is None else present.streak,
        "failures_now": None if present is None else present.failures,
        "opened_at": rfc3339(alert.opened_at),
        "closed_at": None if alert.closed_at is None else rfc3339(alert.closed_at),
        "close_reason": alert.close_reason,
        "incident_id": incident_id,
        "acknowledged": None if acknowledgement is None else acknowledging.said(acknowledgement),
    }
