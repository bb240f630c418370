"""How true an answer from the fleet in memory is: the members that say so, and the refusal of a part."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import Request
from pydantic import BaseModel, Field

from api.problems import FleetLoadingError
from api.state import state_of
from fleet.freshness import FleetState, Freshness
from fleet.index import Fleet
from pisync.clock import rfc3339
from pisync.stores.interfaces.ranking import ProjectionStatus


class Loading(BaseModel):
    """How far a reading of all devices is, beside which those that were read before are told."""

    read: Annotated[int, Field(ge=0)]
    of: Annotated[int | None, Field(ge=0, description="null: not known yet.")]


class Truth(BaseModel):
    """What every answer from the fleet has beside its rows."""

    as_of: Annotated[datetime, Field(description="All that was known at this moment is in the answer.")]
    complete: Annotated[
        bool,
        Field(description="Nothing is missing: the projection is complete, and all of it was just read."),
    ]
    loading: Annotated[
        Loading | None, Field(description="All devices are being read anew; null: they are not.")
    ]
    stale_since: Annotated[datetime | None, Field(description="Nothing newer was read; null: it is fresh.")]
    stale_why: Annotated[str | None, Field(description="Why it is not complete; null: it is.")]


EXAMPLE: Final[Mapping[str, object]] = {
    "as_of": "2026-11-20T12:04:31.000Z",
    "complete": True,
    "loading": None,
    "stale_since": None,
    "stale_why": None,
}
FILE_HEADERS: Final[Mapping[str, str]] = {
    "PiSync-As-Of": "All that was known at this moment is in the file.",
    "PiSync-Complete": "`true`: nothing was missing then; else `false`.",
}


def loaded_fleet(request: Request) -> Fleet:
    """The fleet as it is now; it does not change before somebody awaits.

    Raises:
        FleetLoadingError: not all of it was read yet since the start.
    """
    feeding = state_of(request).fleet
    freshness = feeding.freshness
    if freshness.state is FleetState.LOADING:
        raise FleetLoadingError(freshness.read, freshness.of or None, freshness.why)
    return feeding.fleet


def truth(request: Request) -> dict[str, Any]:
    """The members of `Truth`, of a fleet that is loaded."""
    return members_of(state_of(request).fleet.freshness)


def members_of(freshness: Freshness) -> dict[str, Any]:
    """The members of `Truth`."""
    as_of = None if freshness.as_of is None else rfc3339(freshness.as_of)
    is_fresh = freshness.state is FleetState.CURRENT
    return {
        "as_of": as_of,
        "complete": freshness.complete,
        "loading": _loading(freshness),
        "stale_since": None if is_fresh else as_of,
        "stale_why": None if freshness.complete else _why(freshness),
    }


def file_headers(request: Request) -> Mapping[str, str]:
    """What tells it of a file, which has no room for `Truth`; `FILE_HEADERS` describes them.

    Raises:
        FleetLoadingError: not all of it was read yet since the start.
    """
    loaded_fleet(request)
    freshness = state_of(request).fleet.freshness
    as_of = "" if freshness.as_of is None else rfc3339(freshness.as_of)
    return {"PiSync-As-Of": as_of, "PiSync-Complete": "true" if freshness.complete else "false"}


def _loading(freshness: Freshness) -> dict[str, object] | None:
    is_read = freshness.state is not FleetState.LOADING and freshness.read >= freshness.of
    return None if is_read else {"read": freshness.read, "of": freshness.of or None}


def _why(freshness: Freshness) -> str:
    if freshness.why is not None:
        return freshness.why
    if freshness.state is FleetState.LOADING:
        return "it is being read since the start"
    if freshness.state is FleetState.BEHIND:
        return f"{freshness.behind:,} devices changed that are not read yet"
    return why_not_complete(freshness.projection)


def why_not_complete(status: ProjectionStatus | None) -> str:
    """Why the projection is not complete, in words for everybody."""
    if status is None:
        return "how complete the projection is is not known"
    if status.to_replay:
        return f"the projection catches up: {status.replayed:,} of {status.to_replay:,} events"
    if status.behind:
        bridges = len(status.behind)
        return f"events of {bridges} bridge{'s' if bridges > 1 else ''} may be missing"
    return "the projection catches up"
