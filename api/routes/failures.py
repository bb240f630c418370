"""`GET /api/devices/repeated-failures`: the devices that keep failing."""

from datetime import datetime
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from api import paging
from api.auth import require
from api.exact_counts import Counts, Kept, exact_counts
from api.models import DeviceId, NextUrl
from api.openapi import list_responses
from api.paging import list_page
from api.parameters import StrictRoute
from api.state import state_of
from pisync import limits
from pisync.clock import from_ms, rfc3339, to_ms
from pisync.domain import topics
from pisync.domain.access import Role
from pisync.stores.interfaces import ranking
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
    dependencies=[require(Role.READ)],
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
    exact = await exact_counts(state.events, map(_kept, found.devices[:limit]), since)
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


def _kept(row: ranking.FailingDevice) -> Kept:
    return Kept(
        device_id=row.device_id,
        failures=row.failures,
        # Without the last event, the last success may be lost as well.
        streak=None if row.last_seen_ms is None else row.streak,
        last_success_ms=row.last_success_ms,
        failures_since=row.failures_since,
    )


def _row(row: ranking.FailingDevice, exact: Counts | None, since: datetime | None) -> dict[str, object]:
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
