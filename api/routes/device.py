"""`/api/device/{device_id}`: one device's history."""

import asyncio
from collections.abc import Collection
from datetime import datetime
from functools import partial
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, WithJsonSchema, create_model
from starlette.exceptions import HTTPException

from api import models, paging, stale_reads
from api.auth import require
from api.models import NextUrl
from api.openapi import declare, list_responses, reference
from api.paging import list_page
from api.parameters import StrictRoute, also_without_query
from api.state import state_of
from pisync import limits, logs
from pisync.domain import topics
from pisync.domain.access import Role
from pisync.domain.events import Outcome, SyncEvent
from pisync.errors import RedisUnavailable
from pisync.stores.interfaces.events import EventStore, HistoryQuery, OutcomeFilter
from pisync.stores.interfaces.projection import ProjectionReader

log = logs.get("api")

router = APIRouter(tags=["operators"], route_class=StrictRoute)


def _history_item() -> type[BaseModel]:
    """A sync as history tells it: the event's members, so that a new one needs no word here."""
    members = models.members_of(SyncEvent)
    del members["device_id"]  # told once, for all
    return create_model(
        "HistoryItem",
        __doc__="One sync of the device; `internet_speed` is in Mbit/s.",
        timestamp=members.pop("timestamp"),
        outcome=(Outcome, ...),
        **members,
        received_at=(datetime, ...),
    )


HistoryItem = _history_item()


class History(BaseModel):
    """A page of one device's history, newest first."""

    device_id: models.DeviceId
    events: list[HistoryItem]  # type: ignore[valid-type] # it is made at import
    next: NextUrl


_BY_DEVICE: Final = " By the device's clock."

DeviceId = Annotated[
    str,
    Path(
        pattern=models.DEVICE_ID_PATTERN,
        description="The device's id: " + topics.DEVICE_ID_RULE + ".",
        examples=["PB-000123"],
    ),
]


_HISTORY: Final = "/device/{device_id}/sync-history"


@router.get(
    _HISTORY,
    dependencies=[require(Role.READ)],
    summary="One device's syncs, newest first",
    response_model=None,
    responses=list_responses(
        History, {404: declare("No event of this device is stored.")}, headers=stale_reads.HEADERS
    ),
)
@also_without_query(router, _HISTORY, [require(Role.READ)])
async def sync_history(
    *,
    request: Request,
    device_id: DeviceId,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    since: Annotated[paging.MomentUp, Query(description=paging.SINCE + _BY_DEVICE)] = None,
    until: Annotated[paging.MomentUp, Query(description=paging.UNTIL + _BY_DEVICE)] = None,
    before: Annotated[
        paging.MomentUp, Query(description="Only syncs older than this, as with `until`.")
    ] = None,
    after: Annotated[
        paging.MomentDown, Query(description="Only syncs newer than this: without the moment itself.")
    ] = None,
    outcome: Annotated[
        OutcomeFilter | None,
        WithJsonSchema(reference("OutcomeFilter")),
        Query(description="Only syncs that went so; `failure` is `partial` and `failed`."),
    ] = None,
) -> Response:
    """Each sync with the device's own timestamp, and when it was received, or last added to by a resend.

    A page ends early where its rows would have more than 4 MiB; `next` leads to the others. Where the header
    `PiSync-Reads` is `secondaries`, syncs may be missing that were acknowledged after `PiSync-As-Of`, or,
    without that, after nobody knows when; by the device's clock they may be of any time.
    """
    query = HistoryQuery(
        device_id=device_id,
        limit=limit + 1,
        before=min((bound for bound in (before, until) if bound is not None), default=None),
        after=max((bound for bound in (after, paging.just_before(since)) if bound is not None), default=None),
        outcome=outcome,
    )
    state = state_of(request)
    events, told = state.events, stale_reads.PRIMARY
    if state.stale_reads is not None:
        told = stale_reads.told(state.stale_reads)  # before it is read
        events = state.stale_reads.events
    page = await events.page(query, partial(_days, state.projection, query))
    if not page.rows and events is not state.events:
        # Nobody is told by a secondary that there is nothing.
        events, told = state.events, stale_reads.PRIMARY
        page = await events.page(query, partial(_days, state.projection, query))
    if not page.rows and not await _is_known(events, query):
        raise HTTPException(404, "No event of this device is stored.")
    answer = list_page(
        request,
        "events",
        page.rows,
        limit=limit,
        has_more=page.is_short,
        next_parameters=lambda row: {"before": row["timestamp"]},
        moments={"since": since, "until": until, "after": after},
        device_id=device_id,
    )
    answer.headers.update(told)
    return answer


async def _days(projection: ProjectionReader, query: HistoryQuery) -> Collection[int]:
    """The days on which the projection knows of syncs that are asked for; none where it cannot tell.

    History is right without it, and does not wait for it long.
    """
    try:
        async with asyncio.timeout(limits.DAYS_HINT_TIMEOUT_S):
            found = await projection.state(query.device_id)
    except (RedisUnavailable, TimeoutError) as error:
        log.debug("history goes without the projection", why=str(error))
        return ()
    if found is None:
        return ()
    return {*found.ok} if query.outcome is OutcomeFilter.SUCCESS else {*found.ok, *found.bad}


async def _is_known(events: EventStore, query: HistoryQuery) -> bool:
    """Whether a device of which nothing was found has events that were not asked for, or had some."""
    if _is_narrowed(query):
        return await events.knows(query.device_id)
    return await events.base(query.device_id) is not None


def _is_narrowed(query: HistoryQuery) -> bool:
    """Whether a device may have events of which the query asks for none."""
    return any(bound is not None for bound in (query.before, query.after, query.outcome))
