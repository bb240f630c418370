"""`/api/replay-dead-letters`: the dead letters of a filter tried again, after a look at how many they are."""

from http import HTTPStatus
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field, RootModel, WithJsonSchema
from starlette.exceptions import HTTPException

from api import auth, paging, replaying_many
from api.auth import require
from api.models import Count, DeviceId
from api.openapi import PARAMETERS, UNAVAILABLE, UNEXPECTED, declare
from api.parameters import StrictRoute
from api.replaying_many import Chosen, Outcome
from api.routes.dead_letters import DeadLettersCursor, TheseFilters
from api.state import state_of
from pisync import limits
from pisync.domain.access import Role
from pisync.domain.dead_letters import ID_PATTERN
from pisync.domain.events import Reason
from pisync.stores.interfaces.dead_letters import DeadLetterPosition

router = APIRouter(tags=["operators"], route_class=StrictRoute)

_JSON: Final = "application/json"


class ReplayPreview(BaseModel):
    """How many letters are meant; nothing is sent."""

    matched: Annotated[int, Field(ge=0, description="So many the filter chooses, exactly.")]
    replayed: Annotated[
        int,
        Field(
            ge=0,
            description="So many of these were replayed with success, and are left alone; they are sent where"
            " the filter asks for them with `replayed=true`.",
        ),
    ]
    count: Annotated[int, Field(ge=0, description="So many are sent by the request that brings `confirm`.")]
    more: Annotated[bool, Field(description="Whether there are older ones, beyond those.")]
    impossible: Annotated[
        int,
        Field(ge=0, description="So many of `count` have a topic without a device, or are only a head."),
    ]
    by_reason: dict[Reason, Count]
    confirm: Annotated[
        str, Field(description="What the same request has to bring to be carried out: it stands for these.")
    ]


class LetterNotTaken(BaseModel):
    """A letter of which nothing was taken in."""

    id: Annotated[str, Field(pattern=f"^{ID_PATTERN}$")]
    device_id: DeviceId | None
    detail: str


class ReplayResult(BaseModel):
    """What became of the letters; `stored`, `duplicates` and `rejected` count events."""

    letters: Annotated[int, Field(ge=0, description="So many were gone through.")]
    taken: Annotated[int, Field(ge=0, description="Of so many something was stored, now or before.")]
    stored: Count
    duplicates: Count
    rejected: Count
    not_taken: Annotated[
        list[LetterNotTaken],
        Field(description=f"Of the others the first {limits.REPLAY_FAULTS_TOLD_MAX}."),
    ]
    stopped: Annotated[str | None, Field(description="Why it ended before all were sent; repeating is safe.")]
    cursor: Annotated[
        str | None,
        Field(
            description="What the same request brings to go on with the older letters; null: that was all."
        ),
    ]


class ReplayOfMany(RootModel[ReplayPreview | ReplayResult]):
    """How many are meant, or what became of them."""


_PREVIEWED: Final = {
    "matched": 37,
    "replayed": 5,
    "count": 32,
    "more": False,
    "impossible": 1,
    "by_reason": {Reason.REFUSED: 32},
    "confirm": "5f1d3c0e9a7b44d2b8c6e0f1a2938475",
}
_DONE: Final = {
    "letters": 32,
    "taken": 31,
    "stored": 60,
    "duplicates": 2,
    "rejected": 1,
    "not_taken": [{"id": "0" * 32, "device_id": None, "detail": "The letter's topic names no device."}],
    "stopped": None,
    "cursor": None,
}


@router.post(
    "/replay-dead-letters",
    dependencies=[require(Role.OPERATE)],
    summary="Publish what can be taken of many dead letters again",
    response_model=None,
    responses={
        200: {
            "model": ReplayOfMany,
            "description": "How many are meant, or with `confirm` what became of them.",
            "content": {_JSON: {"examples": {"preview": {"value": _PREVIEWED}, "result": {"value": _DONE}}}},
        },
        409: declare("`confirm` stands for other letters: look again, and confirm that."),
        422: PARAMETERS,
        500: UNEXPECTED,
        503: UNAVAILABLE,
    },
)
async def replay_many(
    *,
    request: Request,
    filters: TheseFilters,
    limit: Annotated[
        int, Query(ge=1, le=limits.REPLAY_LETTERS_MAX, description="Letters that are sent, at most.")
    ] = limits.REPLAY_LETTERS_MAX,
    cursor: paging.CursorText = None,
    confirm: Annotated[
        str | None,
        WithJsonSchema({"type": "string"}),
        Query(description="What the same request returned without it: carry it out."),
    ] = None,
) -> Response:
    """Without `confirm` it says how many letters the filter chooses, exactly; with it they are sent.

    Each as by its own replay, with the device's own times, the newest first. Repeating is safe: a duplicate
    counts once, and a letter that was replayed with success is left alone.
    """
    state = state_of(request)
    chosen = await replaying_many.choose(state, filters.chosen, limit=limit, after=position(cursor))
    if confirm is None:
        return Response(msgspec.json.encode(_preview(chosen)), media_type=_JSON)
    if confirm != chosen.confirm:
        raise HTTPException(
            HTTPStatus.CONFLICT,
            "These are not the letters that were confirmed: look at how many they are now.",
        )
    which = "&".join(
        f"{name}={value}" for name, value in request.query_params.multi_items() if name != "confirm"
    )
    done = await replaying_many.replay(state, chosen, who=auth.who(request), which=which)
    return Response(msgspec.json.encode(_result(done)), media_type=_JSON)


def position(cursor: str | None) -> DeadLetterPosition | None:
    """Where a list goes on."""
    end = DeadLettersCursor.decode(cursor)
    return None if end is None else end.position()


def following(done: Outcome) -> str | None:
    """The cursor by which the same replay goes on; None: all were gone through."""
    return None if done.end is None else DeadLettersCursor.at(done.end).encode()


def _preview(chosen: Chosen) -> dict[str, Any]:
    return {
        "matched": chosen.matched,
        "replayed": chosen.replayed,
        "count": len(chosen.entries),
        "more": chosen.has_more,
        "impossible": chosen.impossible,
        "by_reason": chosen.by_reason,
        "confirm": chosen.confirm,
    }


def _result(done: Outcome) -> dict[str, Any]:
    not_taken = [
        {"id": each.dead_letter_id, "device_id": each.device_id, "detail": each.why}
        for each in done.not_taken
    ]
    return {
        "letters": done.letters,
        "taken": done.taken,
        "stored": done.stored,
        "duplicates": done.duplicates,
        "rejected": done.rejected,
        "not_taken": not_taken,
        "stopped": done.stopped,
        "cursor": following(done),
    }
