"""`GET /api/alerts`: the devices that keep failing, and those that did."""

from enum import StrEnum
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import WithJsonSchema

from api import paging, schemas
from api.openapi import LINK, PARAMETERS, UNAVAILABLE, UNEXPECTED
from api.state import Injected
from pisync import limits
from pisync.clock import rfc3339
from pisync.domain.alerts import Alert, Rule
from pisync.stores.interfaces.alerts import AlertQuery

router = APIRouter(tags=["operators"])


class AlertState(StrEnum):
    """Which alerts are listed."""

    OPEN = "open"
    CLOSED = "closed"
    ALL = "all"


_IS_OPEN: Final = {AlertState.OPEN: True, AlertState.CLOSED: False, AlertState.ALL: None}


@router.get(
    "/alerts",
    summary="Alerts, newest first",
    response_model=None,
    responses={
        200: {"model": schemas.Alerts, "description": "A page.", "headers": LINK},
        422: PARAMETERS,
        500: UNEXPECTED,
        503: UNAVAILABLE,
    },
)
async def alerts(
    *,
    request: Request,
    parts: Injected,
    state: Annotated[AlertState, Query(description="Which alerts.")] = AlertState.OPEN,
    rule: Annotated[
        Rule | None,
        WithJsonSchema({"type": "string", "enum": list(Rule)}),
        Query(description="Only alerts of this rule."),
    ] = None,
    device_id: Annotated[
        str | None,
        WithJsonSchema({"type": "string", "pattern": schemas.DEVICE_ID_PATTERN}),
        Query(pattern=schemas.DEVICE_ID_PATTERN, description="Only alerts of this device."),
    ] = None,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    cursor: Annotated[
        str | None,
        WithJsonSchema({"type": "string"}),
        Query(description="From the `next` link of the page before."),
    ] = None,
) -> Response:
    """By the rule `streak`, an alert opens when a streak reaches 3, and closes when a success ends it.

    A device has at most one open alert of a rule. Newest first by when they were opened.
    """
    query = AlertQuery(
        limit=limit + 1,
        is_open=_IS_OPEN[state],
        rule=rule,
        device_id=device_id,
        before=None if cursor is None else _before(cursor),
    )
    rows = await parts.alerts.find(query)
    shown = rows[:limit]
    next_page = None
    if len(rows) > limit:
        end = paging.encode_alert_cursor(shown[-1].alert_id)
        next_page = paging.next_url(request, cursor=end)
    return paging.page({"alerts": [_row(alert) for alert in shown]}, next_page)


def _before(cursor: str) -> str:
    try:
        return paging.decode_alert_cursor(cursor)
    except ValueError as error:
        raise RequestValidationError([{"loc": ("query", "cursor"), "msg": str(error)}]) from None


def _row(alert: Alert) -> dict[str, object]:
    return {
        "id": alert.alert_id,
        "device_id": alert.device_id,
        "rule": alert.rule,
        "streak": alert.streak,
        "opened_at": rfc3339(alert.opened_at),
        "closed_at": None if alert.closed_at is None else rfc3339(alert.closed_at),
    }
