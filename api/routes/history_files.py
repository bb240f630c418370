"""The whole history of a device, and of all devices of a site, as files."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import WithJsonSchema
from starlette.exceptions import HTTPException

from api import models, paging
from api.auth import require
from api.directory.reading import FileFormat
from api.fleet_truth import FILE_HEADERS, file_headers, loaded_fleet
from api.list_files import Rows, file_response, list_files
from api.openapi import UNAVAILABLE, declare, reference
from api.parameters import StrictRoute
from api.routes.device import DeviceId, HistoryItem
from api.state import State, state_of
from fleet.query import FleetCursor, FleetFilter, FleetSort, page
from pisync import clock, limits
from pisync.clock import read_rfc3339, to_ms
from pisync.domain import topics
from pisync.domain.access import Role
from pisync.stores.interfaces.events import HistoryQuery, OutcomeFilter

router = APIRouter(tags=["operators"], route_class=StrictRoute)

COLUMNS: Final = ("device_id", *HistoryItem.model_fields)
_EXAMPLE: Final[dict[str, Any]] = {
    "device_id": "PB-000123",
    "timestamp": "2026-05-08T12:00:00.000Z",
    "outcome": "failed",
    "total_files_synced": 0,
    "total_errors": 1,
    "internet_speed": 0.2,
    "device_type": "PiBook",
    "sync_duration_ms": 5400,
    "errors": [{"code": "E_TIMEOUT", "message": "no answer within 30 s"}],
    "received_at": "2026-05-08T12:00:03.412Z",
}
_BY_DEVICE: Final = " By the device's clock."
Since = Annotated[paging.MomentUp, Query(description=paging.SINCE + _BY_DEVICE)]
Until = Annotated[paging.MomentUp, Query(description=paging.UNTIL + _BY_DEVICE)]
OutcomeAsked = Annotated[
    OutcomeFilter | None,
    WithJsonSchema(reference("OutcomeFilter")),
    Query(description="Only syncs that went so; `failure` is `partial` and `failed`."),
]
SiteId = Annotated[
    str,
    Path(
        pattern=models.DEVICE_ID_PATTERN,
        description="The site's id: " + topics.DEVICE_ID_RULE + ".",
        examples=["S-17"],
    ),
]


@list_files(
    router,
    "/device/{device_id}/sync-history",
    _EXAMPLE,
    dependencies=[require(Role.READ)],
    summary="One device's syncs, newest first",
    responses={404: declare("No event of this device is stored."), 503: UNAVAILABLE},
)
async def device_history(
    *,
    request: Request,
    device_id: DeviceId,
    since: Since = None,
    until: Until = None,
    outcome: OutcomeAsked = None,
    file_format: FileFormat,
) -> Response:
    """All syncs of the device, as its history tells them; in CSV each error is its code and its message."""
    query = replace(_query(since, until, outcome), device_id=device_id)
    is_narrowed = any(bound is not None for bound in (since, until, outcome))
    pages = _known_history(state_of(request), query, is_narrowed=is_narrowed)
    return await file_response(file_format, f"{device_id}-sync-history", COLUMNS, pages)


@list_files(
    router,
    "/site/{site_id}/sync-history",
    _EXAMPLE,
    dependencies=[require(Role.READ)],
    summary="The syncs of a site's devices",
    headers=FILE_HEADERS,
    responses={404: declare("Neither the directory nor any device names this site.")},
)
async def site_history(
    *,
    request: Request,
    site_id: SiteId,
    since: Since = None,
    until: Until = None,
    outcome: OutcomeAsked = None,
    file_format: FileFormat,
) -> Response:
    """All syncs of all devices that the directory has at this site now, device after device, newest first."""
    headers = file_headers(request)
    pages = _site_history(request, site_id, _query(since, until, outcome))
    return await file_response(file_format, f"{site_id}-sync-history", COLUMNS, pages, headers)


def _query(since: datetime | None, until: datetime | None, outcome: OutcomeFilter | None) -> HistoryQuery:
    """Of no device yet."""
    return HistoryQuery(
        device_id="",
        limit=limits.PAGE_MAX,
        before=until,
        after=paging.just_before(since),
        outcome=outcome,
    )


async def _site_history(request: Request, site_id: str, query: HistoryQuery) -> AsyncIterator[Rows]:
    which = FleetFilter(sites=frozenset({site_id}), retired=None)
    after: FleetCursor | None = None
    while True:
        found = page(
            loaded_fleet(request),
            which,
            sort=FleetSort.DEVICE_ID,
            limit=limits.PAGE_MAX,
            after=after,
            now_ms=to_ms(clock.now()),
        )
        if not found.total and site_id not in loaded_fleet(request).sites.entries:
            raise HTTPException(404, "Neither the directory nor any device names this site.")
        for device in found.devices:
            async for rows in _history(state_of(request), replace(query, device_id=device.device_id)):
                yield rows
        if found.next is None:
            return
        after = found.next


async def _known_history(state: State, query: HistoryQuery, *, is_narrowed: bool) -> AsyncIterator[Rows]:
    """The rows of one device that has events, be they others than those that are asked for."""
    is_known = False
    async for rows in _history(state, query):
        if not (is_known or rows) and not await _has_events(state, query.device_id, is_narrowed=is_narrowed):
            raise HTTPException(404, "No event of this device is stored.")
        is_known = True
        yield rows


async def _has_events(state: State, device_id: str, *, is_narrowed: bool) -> bool:
    """Whether a device of which nothing was found has events that were not asked for, or had some."""
    if is_narrowed:
        return await state.events.knows(device_id)
    return await state.events.base(device_id) is not None


async def _history(state: State, query: HistoryQuery) -> AsyncIterator[Rows]:
    """The rows of one device, a page at a time."""
    while True:
        found = await state.events.page(query)
        yield [{"device_id": query.device_id, **row} for row in found.rows]
        if not found.rows or (len(found.rows) < query.limit and not found.is_short):
            return
        query = replace(query, before=read_rfc3339(found.rows[-1]["timestamp"])[0])
