"""`GET /api/devices/repeated-failures`: the devices that keep failing."""

import asyncio
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import WithJsonSchema

from api import paging, schemas
from api.openapi import LINK, PARAMETERS, UNAVAILABLE, UNEXPECTED
from api.state import parts_of
from pisync import limits
from pisync.clock import from_ms, rfc3339, to_ms
from pisync.limits import EXACT_COUNTS_INFLIGHT_MAX
from pisync.stores.interfaces.events import EventStore, FailureCounts
from pisync.stores.interfaces.ranking import FailingDevice, Position, ProjectionStatus, RankedBy, RankingQuery

router = APIRouter(tags=["operators"])


@router.get(
    "/devices/repeated-failures",
    summary="Devices with repeated failures",
    response_model=None,
    responses={
        200: {"model": schemas.RepeatedFailures, "description": "A page.", "headers": LINK},
        422: PARAMETERS,
        500: UNEXPECTED,
        503: UNAVAILABLE,
    },
)
async def repeated_failures(
    *,
    request: Request,
    more_than: Annotated[
        int,
        Query(ge=0, lt=limits.FAILURES_KEPT_MAX, description="Only devices with more failures than this."),
    ] = 3,
    since: Annotated[
        paging.MomentUp,
        Query(description="Count only failures from this moment on, by the device's clock."),
    ] = None,
    sort: Annotated[RankedBy, Query(description="The order, each descending.")] = RankedBy.FAILURES,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    cursor: Annotated[
        str | None,
        WithJsonSchema({"type": "string"}),
        Query(description="From the `next` link of the page before."),
    ] = None,
) -> Response:
    """A failure is a sync with errors; the streak is the failures newer than the newest success.

    Counts are exact, once `projection` is complete. Devices with 1,000 failures and more rank as equals.
    """
    query = RankingQuery(
        more_than=more_than,
        ranked_by=sort,
        limit=limit + 1,
        since_ms=None if since is None else to_ms(since),
        after=None if cursor is None else _position(cursor, sort),
    )
    parts = parts_of(request)
    ranking = await parts.streaks.repeated_failures(query)
    shown = ranking.devices[:limit]
    exact = await _exact_counts(parts.events, shown, since)
    devices = [_item(row, exact.get(row.device_id), since) for row in shown]
    next_page = None
    if len(ranking.devices) > limit:
        next_page = paging.next_url(request, cursor=paging.encode_cursor(sort, shown[-1].position))
    return paging.page({"devices": devices, "projection": _projection(ranking.projection)}, next_page)


def _position(cursor: str, sort: RankedBy) -> Position:
    try:
        return paging.decode_cursor(cursor, sort)
    except ValueError as error:
        raise RequestValidationError([{"loc": ("query", "cursor"), "msg": str(error)}]) from None


def _projection(status: ProjectionStatus) -> dict[str, object]:
    if status.complete:
        return {"complete": True}
    return {"complete": False, "replayed": status.replayed, "to_replay": status.to_replay}


async def _exact_counts(
    store: EventStore, rows: list[FailingDevice], since: datetime | None
) -> dict[str, FailureCounts]:
    """Counts of the rare devices whose failures exceed what the projection keeps."""
    gate = asyncio.Semaphore(EXACT_COUNTS_INFLIGHT_MAX)

    async def counts(device_id: str) -> FailureCounts:
        async with gate:
            return await store.failure_counts(device_id, since)

    capped = [row.device_id for row in rows if row.failures >= limits.FAILURES_KEPT_MAX]
    return dict(zip(capped, await asyncio.gather(*map(counts, capped)), strict=True))


def _item(row: FailingDevice, exact: FailureCounts | None, since: datetime | None) -> dict[str, object]:
    item: dict[str, object] = {
        "device_id": row.device_id,
        "failures": row.failures if exact is None else exact.total,
        "streak": row.streak if exact is None else exact.streak,
        "last_failure": rfc3339(from_ms(row.last_failure_ms)),
        "last_success": None if row.last_success_ms is None else rfc3339(from_ms(row.last_success_ms)),
        "last_seen": rfc3339(from_ms(row.last_seen_ms)),
    }
    if since is not None:
        item["failures_since"] = row.failures_since if exact is None else exact.since
    return item
