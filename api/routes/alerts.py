"""`GET /api/alerts`: the devices that keep failing, and those that did."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from api import paging
from api.models import DeviceId, DeviceIdFilter, NextUrl
from api.openapi import list_responses
from api.paging import list_page
from api.state import state_of
from pisync import limits
from pisync.clock import rfc3339
from pisync.domain import alerts as domain
from pisync.stores.interfaces.alerts import ALERT_ID_PATTERN, AlertQuery

router = APIRouter(tags=["operators"])


class Alert(BaseModel):
    """A device that kept failing. Times are by the bridge's clock."""

    id: Annotated[str, Field(pattern=f"^{ALERT_ID_PATTERN}$")]
    device_id: DeviceId
    streak: Annotated[int, Field(ge=limits.STREAK_ALERT, description="Its streak when the alert was opened.")]
    opened_at: datetime
    closed_at: Annotated[datetime | None, Field(description="null: it is still open.")]


class Alerts(BaseModel):
    """A page of alerts, newest first."""

    alerts: list[Alert]
    next: NextUrl


class AlertsCursor(paging.Cursor, frozen=True):
    """The last alert of a page."""

    alert_id: Annotated[str, msgspec.Meta(pattern=rf"^{ALERT_ID_PATTERN}\Z")]


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
    device_id: Annotated[DeviceIdFilter, Query(description="Only alerts of this device.")] = None,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    cursor: paging.CursorText = None,
) -> Response:
    """An alert opens when a device's streak reaches 3, and closes when a success ends the streak.

    A device has at most one open alert. Newest first by when they were opened.
    """
    end = AlertsCursor.decode(cursor)
    query = AlertQuery(
        limit=limit + 1,
        is_open=_IS_OPEN[state],
        device_id=device_id,
        before=None if end is None else end.alert_id,
    )
    return list_page(
        request,
        "alerts",
        await state_of(request).alerts.find(query),
        limit=limit,
        next_parameters=lambda alert: {"cursor": AlertsCursor(alert.alert_id).encode()},
        as_json=_row,
    )


def _row(alert: domain.Alert) -> dict[str, object]:
    return {
        "id": alert.alert_id,
        "device_id": alert.device_id,
        "streak": alert.streak,
        "opened_at": rfc3339(alert.opened_at),
        "closed_at": None if alert.closed_at is None else rfc3339(alert.closed_at),
    }
