"""`/api/device/{device_id}`: one device's history."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import WithJsonSchema
from starlette.exceptions import HTTPException

from api import paging, schemas
from api.openapi import LINK, PARAMETERS, UNAVAILABLE, UNEXPECTED, declare
from api.parts import Injected
from pisync import events, limits
from pisync.clock import rfc3339
from pisync.events import Outcome
from pisync.stores.interfaces import HistoryEntry, HistoryQuery

router = APIRouter(tags=["operators"])

DeviceId = Annotated[
    str,
    Path(
        pattern=schemas.DEVICE_ID_PATTERN,
        description="The device's id: " + events.DEVICE_ID_RULE + ".",
        examples=["PB-000123"],
    ),
]


@router.get(
    "/device/{device_id}/sync-history",
    summary="One device's syncs, newest first",
    response_model=None,
    responses={
        200: {"model": schemas.History, "description": "A page.", "headers": LINK},
        404: declare("No event of this device is stored."),
        422: PARAMETERS,
        500: UNEXPECTED,
        503: UNAVAILABLE,
    },
)
async def sync_history(
    *,
    request: Request,
    parts: Injected,
    device_id: DeviceId,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    before: Annotated[paging.MomentUp, Query(description="Only syncs older than this.")] = None,
    after: Annotated[paging.MomentDown, Query(description="Only syncs newer than this.")] = None,
    outcome: Annotated[
        Outcome | None,
        WithJsonSchema({"type": "string", "enum": list(Outcome)}),
        Query(description="Only syncs that went so."),
    ] = None,
) -> Response:
    """Each sync with the device's own timestamp, and when it was received."""
    query = HistoryQuery(device_id=device_id, limit=limit + 1, before=before, after=after, outcome=outcome)
    entries = await parts.events.history(query)
    if not entries and not await parts.events.knows(device_id):
        raise HTTPException(404, "No event of this device is stored.")
    shown = entries[:limit]
    more = len(entries) > limit
    next_page = paging.next_url(request, before=rfc3339(shown[-1].event.timestamp)) if more else None
    return paging.page({"device_id": device_id, "events": [_item(entry) for entry in shown]}, next_page)


def _item(entry: HistoryEntry) -> dict[str, object]:
    event = entry.event
    return {
        "timestamp": rfc3339(event.timestamp),
        "outcome": events.outcome(event.total_files_synced, event.total_errors),
        "total_files_synced": event.total_files_synced,
        "total_errors": event.total_errors,
        "internet_speed": event.internet_speed,
        "device_type": event.device_type,
        "sync_duration_ms": event.sync_duration_ms,
        "errors": event.errors,
        "received_at": rfc3339(entry.received_at),
    }
