"""`/api/stats`: how many devices are in each state, and what was received minute by minute, hour by hour."""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field

from api import fleet_truth, paging
from api.auth import require
from api.fleet_truth import Truth, loaded_fleet
from api.models import Count
from api.openapi import LOADING, PARAMETERS, UNEXPECTED, with_example
from api.parameters import StrictRoute
from api.state import state_of
from fleet import summaries
from fleet.query import FleetFilter
from pisync import clock, limits
from pisync.clock import from_ms, rfc3339, rfc3339_of_utc, to_ms
from pisync.domain.access import Role
from pisync.domain.device_status import Status
from pisync.domain.events import Reason
from pisync.domain.rollups import Rollup, Span, Unit
from pisync.stores.interfaces.dead_letters import LetterTally

router = APIRouter(tags=["operators"], route_class=StrictRoute)

_COUNTED: Final = "null: not counted yet."


class Received(BaseModel):
    """What was received in a minute, an hour or a day of UTC; its numbers are null where not counted."""

    start: Annotated[datetime, Field(description="When it began.")]
    events: Annotated[int | None, Field(ge=0, description=_COUNTED)]
    failures: Annotated[int | None, Field(ge=0, description="Those with errors.")]
    partial: Annotated[int | None, Field(ge=0, description="Failures with which files got through.")]
    files: Annotated[int | None, Field(ge=0)]
    late: Annotated[int | None, Field(ge=0, description="Received more than an hour after they happened.")]
    in_time: Annotated[int | None, Field(ge=0, description="The others.")]
    closed: Annotated[bool, Field(description="Nothing comes to it any more.")]


class States(BaseModel):
    """How many devices there are of each state, without retired ones."""

    failing: Count
    wobbly: Count
    overdue: Count
    never_heard: Count
    good: Count


_COUNTED_TO: Final = "Counted up to `counted_max`, which means so many or more."
OpenLetters = Annotated[
    int, Field(ge=0, description=f"Of which no replay took anything in. {_COUNTED_TO}", examples=[12])
]
ReceivedLetters = Annotated[
    int, Field(ge=0, description=f"That came first within the last 24 hours. {_COUNTED_TO}", examples=[3])
]


class LettersOfReason(BaseModel):
    """Dead letters with something that was rejected for a reason."""

    reason: Reason
    open: OpenLetters
    received: ReceivedLetters


class Letters(BaseModel):
    """How many messages could not be taken in, or not all of them. Of a device only so many are kept."""

    open: OpenLetters
    received: ReceivedLetters
    counted_max: Annotated[int, Field(ge=1)]
    by_reason: Annotated[
        list[LettersOfReason],
        Field(
            description="Reasons that have any, most open ones first. A letter of several counts for each."
        ),
    ]


class Stats(Truth):
    """The fleet in numbers."""

    states: States
    devices: Annotated[int, Field(ge=0, description="All but the retired.")]
    retired: Count
    muted: Annotated[int, Field(ge=0, description="Of `devices`, those that are muted now.")]
    incidents: Annotated[int | None, Field(ge=0, description="Open incidents; null: not known now.")]
    unit: Unit
    since: datetime
    until: datetime
    received: Annotated[
        list[Received], Field(description="One for each unit that begins within this time, ascending.")
    ]
    dead_letters: Annotated[Letters, Field(description="Of now, whatever `since` and `until` say.")]


# How far back the answer goes where the query does not say it.
_BACK: Final[Mapping[Unit, timedelta]] = {
    Unit.MINUTE: timedelta(days=1),
    Unit.HOUR: timedelta(days=7),
    Unit.DAY: timedelta(days=limits.DAYS_TOLD),
}
_LETTERS_BACK: Final = timedelta(days=1)
_EXAMPLE: Final[dict[str, Any]] = {
    "states": {"failing": 41, "wobbly": 12, "overdue": 7, "never_heard": 3, "good": 1937},
    "devices": 2000,
    "retired": 5,
    "muted": 2,
    "incidents": 1,
    "unit": "hour",
    "since": "2026-11-20T11:00:00.000Z",
    "until": "2026-11-20T12:04:31.000Z",
    "received": [
        {
            "start": "2026-11-20T11:00:00.000Z",
            "events": 1840,
            "failures": 61,
            "partial": 9,
            "files": 22104,
            "late": 300,
            "in_time": 1540,
            "closed": True,
        },
        {
            "start": "2026-11-20T12:00:00.000Z",
            "events": None,
            "failures": None,
            "partial": None,
            "files": None,
            "late": None,
            "in_time": None,
            "closed": False,
        },
    ],
    "dead_letters": {
        "open": 12,
        "received": 3,
        "counted_max": limits.DEAD_LETTERS_COUNTED_MAX,
        "by_reason": [
            {"reason": "schema", "open": 9, "received": 1},
            {"reason": "clock_unset", "open": 3, "received": 2},
        ],
    },
    **fleet_truth.EXAMPLE,
}


@router.get(
    "/stats",
    dependencies=[require(Role.READ)],
    summary="Devices by state, what was received, and what could not be taken in",
    response_model=None,
    responses={
        200: {"model": Stats, "description": "The numbers."} | with_example(_EXAMPLE),
        422: PARAMETERS,
        500: UNEXPECTED,
        503: LOADING,
    },
)
async def stats(
    *,
    request: Request,
    unit: Annotated[Unit, Query(description="For which times what was received is counted.")] = Unit.MINUTE,
    since: Annotated[
        paging.MomentUp,
        Query(
            description="Units that begin from this moment on, by our clock; by default 24 hours back by"
            f" minute, 7 days by hour, {limits.DAYS_TOLD} by day. At most {limits.STATS_POINTS_MAX} units."
        ),
    ] = None,
    until: Annotated[paging.MomentUp, Query(description="And before this one; by default now.")] = None,
) -> Response:
    """States are those of now; what was received is counted by the worker, some seconds behind."""
    now = clock.now()
    until = now if until is None else until
    since = _before(until, _BACK[unit]) if since is None else since
    span = Span(to_ms(since), to_ms(until))
    _check(unit, span)
    now_ms = to_ms(now)
    fleet = loaded_fleet(request)
    truth = fleet_truth.truth(request)
    counts = summaries.counts(fleet, FleetFilter(), now_ms=now_ms, limit=0)
    incidents = state_of(request).open_incidents()
    answer = {
        "states": {state.value: counts.states[state] for state in Status},
        "devices": counts.total,
        "retired": summaries.number(fleet, FleetFilter(retired=True), now_ms=now_ms),
        "muted": summaries.number(fleet, FleetFilter(muted=True), now_ms=now_ms),
        "incidents": None if incidents is None else len(incidents),
        "unit": unit,
        "since": rfc3339(since),
        "until": rfc3339(until),
    }
    state = state_of(request)
    rollups, tally = await asyncio.gather(
        state.rollups.read(unit, span, with_breakdown=False),
        state.dead_letters.tally(_before(now, _LETTERS_BACK)),
    )
    starts = rfc3339_of_utc([from_ms(rollup.start_ms).replace(tzinfo=None) for rollup in rollups])
    answer["received"] = list(map(_received, starts, rollups))
    answer["dead_letters"] = letters(tally)
    return Response(msgspec.json.encode(answer | truth), media_type="application/json")


def _before(moment: datetime, age: timedelta) -> datetime:
    """The moment so long before, or the first that there is."""
    first = datetime.min.replace(tzinfo=moment.tzinfo)
    return max(moment - first, age) - age + first


def _check(unit: Unit, span: Span) -> None:
    """Refuse a time that ends before it begins, or has too many units."""
    if span.start_ms >= span.end_ms:
        _refuse("must be before `until`")
    units = -(-(span.end_ms - unit.ceil(span.start_ms)) // unit.ms)
    if units > limits.STATS_POINTS_MAX:
        _refuse(
            f"gives {units} units of a {unit}, and at most {limits.STATS_POINTS_MAX} are told: take a larger"
            " unit, or less time"
        )


def _refuse(message: str) -> None:
    raise RequestValidationError([{"loc": ("query", "since"), "msg": message}])


def letters(tally: LetterTally) -> dict[str, Any]:
    """What is told of dead letters as a whole."""
    by_reason = sorted(tally.by_reason.items(), key=lambda row: (-row[1].open, -row[1].received, row[0]))
    return {
        **tally.every._asdict(),
        "counted_max": limits.DEAD_LETTERS_COUNTED_MAX,
        "by_reason": [{"reason": reason, **counts._asdict()} for reason, counts in by_reason],
    }


def _received(start: str, rollup: Rollup) -> dict[str, object]:
    figures = rollup.figures
    if figures is None:
        return _UNKNOWN | {"start": start, "closed": rollup.closed}
    in_time = figures.in_time
    return {
        "start": start,
        "events": figures.events,
        "failures": figures.failures,
        "partial": figures.partial,
        "files": figures.files,
        "late": figures.events - in_time,
        "in_time": in_time,
        "closed": rollup.closed,
    }


_UNKNOWN: Final[dict[str, object]] = dict.fromkeys(Received.model_fields)
