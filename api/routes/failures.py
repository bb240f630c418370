"""`GET /api/devices/repeated-failures`: the devices that keep failing."""

import asyncio
from datetime import datetime
from typing import Annotated, NamedTuple

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from api import paging
from api.models import DeviceId, NextUrl
from api.openapi import list_responses
from api.paging import list_page
from api.parameters import StrictRoute
from api.state import state_of
from pisync import limits
from pisync.clock import from_ms, rfc3339, to_ms
from pisync.domain import topics
from pisync.limits import EXACT_COUNTS_INFLIGHT_MAX
from pisync.stores.interfaces import ranking
from pisync.stores.interfaces.events import EventStore
from pisync.stores.interfaces.ranking import Position, ProjectionStatus, RankedBy, RankingQuery

router = APIRouter(tags=["operators"], route_class=StrictRoute)


class FailingDevice(BaseModel):
    """A device that failed repeatedly. Times are by the device's own clock."""

    device_id: DeviceId
    failures: Annotated[int, Field(ge=0, description="All its failures.")]
    failures_since: Annotated[int, Field(ge=0, description="Its failures since `since`, where given.")] = 0
    streak: Annotated[
        int | None,
        Field(
            ge=0,
            description="Failures newer than its newest success; null: lost in Redis, and not mended yet.",
        ),
    ]
    last_failure: Annotated[datetime | None, Field(description="Null: lost in Redis, and not mended yet.")]
    last_success: Annotated[datetime | None, Field(description="Null: never.")]
    last_seen: Annotated[datetime | None, Field(description="Null: lost in Redis, and not mended yet.")]


class Completeness(BaseModel):
    """How true the answer is: `complete`, or how far the replay of stored events is that makes it so.

    An answer that is not complete lacks failures, or successes that end streaks.
    """

    complete: bool
    replayed: Annotated[int, Field(ge=0, description="Only while it is not complete.")] = 0
    to_replay: Annotated[
        int, Field(ge=0, description="Only while it is not complete; about so many events, 0: not known yet.")
    ] = 0


class RepeatedFailures(BaseModel):
    """A page of failing devices."""

    devices: list[FailingDevice]
    projection: Completeness
    next: NextUrl


class FailuresCursor(paging.Cursor, frozen=True):
    """The last device of a page, and the order that it is the last one in."""

    sort: RankedBy
    score: Annotated[int, msgspec.Meta(ge=0, le=limits.COUNT_MAX)]
    device_id: Annotated[str, msgspec.Meta(pattern=rf"^{topics.DEVICE_ID_PATTERN}\Z")]


@router.get(
    "/devices/repeated-failures",
    summary="Devices with repeated failures",
    response_model=None,
    responses=list_responses(RepeatedFailures),
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
        Query(description=paging.SINCE + " Counts failures, by the device's clock."),
    ] = None,
    sort: Annotated[RankedBy, Query(description="The order, each descending.")] = RankedBy.FAILURES,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    cursor: paging.CursorText = None,
) -> Response:
    """A failure is a sync with errors; the streak is the failures newer than the newest success.

    Counts are exact, once `projection` is complete. Devices with 1,000 failures and more rank as equals.
    """
    end = FailuresCursor.decode(cursor, sort=sort)
    query = RankingQuery(
        more_than=more_than,
        ranked_by=sort,
        limit=limit + 1,
        since_ms=None if since is None else to_ms(since),
        after=None if end is None else Position(score=end.score, device_id=end.device_id),
    )
    state = state_of(request)
    found = await state.projection.repeated_failures(query)
    exact = await _exact_counts(state.events, found.devices[:limit], since)
    return list_page(
        request,
        "devices",
        found.devices,
        limit=limit,
        next_parameters=lambda row: {
            "cursor": FailuresCursor(sort, row.position.score, row.position.device_id).encode()
        },
        as_json=lambda row: _row(row, exact.get(row.device_id), since),
        moments={"since": since},
        projection=_completeness(found.projection),
    )


def _time(moment_ms: int | None) -> str | None:
    return None if moment_ms is None else rfc3339(from_ms(moment_ms))


def _completeness(status: ProjectionStatus) -> dict[str, object]:
    if status.complete:
        return {"complete": True}
    return {"complete": False, "replayed": status.replayed, "to_replay": status.to_replay}


class _Counts(NamedTuple):
    failures: int
    since: int
    streak: int | None


async def _exact_counts(
    store: EventStore, rows: list[ranking.FailingDevice], since: datetime | None
) -> dict[str, _Counts]:
    """Counts of the rare devices of which the projection does not keep every failure.

    What it keeps are the newest, so that a count of fewer is exact, and it says since when the streak runs.
    """
    gate = asyncio.Semaphore(EXACT_COUNTS_INFLIGHT_MAX)

    async def count(row: ranking.FailingDevice, kept: int, moment: datetime | None) -> int:
        if kept < limits.FAILURES_KEPT_MAX:
            return kept
        async with gate:
            return await store.count_failures(row.device_id, moment)

    async def counts(row: ranking.FailingDevice) -> _Counts:
        failures = await count(row, row.failures, None)
        recent = failures if since is None else await count(row, row.failures_since, since)
        if row.streak is None or row.last_seen_ms is None:
            return _Counts(failures, recent, None)  # the last success may be lost as well
        if row.last_success_ms is None:
            return _Counts(failures, recent, failures)
        return _Counts(failures, recent, await count(row, row.streak, from_ms(row.last_success_ms)))

    capped = [row for row in rows if row.failures >= limits.FAILURES_KEPT_MAX]
    found = await asyncio.gather(*map(counts, capped))
    return {row.device_id: exact for row, exact in zip(capped, found, strict=True)}


def _row(row: ranking.FailingDevice, exact: _Counts | None, since: datetime | None) -> dict[str, object]:
    members: dict[str, object] = {
        "device_id": row.device_id,
        "failures": row.failures if exact is None else exact.failures,
        "streak": row.streak if exact is None else exact.streak,
        "last_failure": _time(row.last_failure_ms),
        "last_success": _time(row.last_success_ms),
        "last_seen": _time(row.last_seen_ms),
    }
    if since is not None:
        members["failures_since"] = row.failures_since if exact is None else exact.since
    return members
