"""`/api/device/{device_id}`: one device's history."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import WithJsonSchema
from starlette.exceptions import HTTPException

from api import paging, schemas
from api.openapi import LINK, PARAMETERS, UNAVAILABLE, UNEXPECTED, declare
from api.state import parts_of
from pisync import limits
from pisync.domain import topics
from pisync.domain.events import Outcome
from pisync.stores.interfaces.events import HistoryQuery

router = APIRouter(tags=["operators"])

DeviceId = Annotated[
    str,
    Path(
        pattern=schemas.DEVICE_ID_PATTERN,
        description="The device's id: " + topics.DEVICE_ID_RULE + ".",
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
    parts = parts_of(request)
    rows = await parts.events.page(query)
    if not rows and not (_is_narrowed(query) and await parts.events.knows(device_id)):
        raise HTTPException(404, "No event of this device is stored.")
    shown = rows[:limit]
    next_page = paging.next_url(request, before=shown[-1]["timestamp"]) if len(rows) > limit else None
    return paging.page({"device_id": device_id, "events": shown}, next_page)


def _is_narrowed(query: HistoryQuery) -> bool:
    """Whether a device may have events of which the query asks for none."""
    return any(bound is not None for bound in (query.before, query.after, query.outcome))
