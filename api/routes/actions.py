"""`GET /api/actions`: who did what, and when."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import AfterValidator, BaseModel, Field, WithJsonSchema

from api import paging
from api.auth import require
from api.models import NextUrl
from api.openapi import list_responses
from api.paging import list_page
from api.parameters import StrictRoute
from api.state import state_of
from pisync import limits
from pisync.clock import rfc3339
from pisync.domain import actions as domain
from pisync.domain.access import Role
from pisync.domain.actions import ABOUT_FLEET, About, Progress, What
from pisync.stores.interfaces.actions import ActionQuery

router = APIRouter(tags=["operators"], route_class=StrictRoute)


class Action(BaseModel):
    """One act of an operator."""

    id: Annotated[str, Field(description="Opaque.")]
    at: datetime
    who: Annotated[str, Field(description="The name of the key or user; `unknown`: the api asked for none.")]
    what: What
    kind: About
    target: Annotated[
        str | None, Field(description="The id of the one that it is about, of a cause its code; null: many.")
    ]
    progress: Annotated[
        Progress,
        Field(
            description="`begun`: it is under way, or was interrupted, and may be done or not; an import is"
            " finished by the same file again. `not_done`: something stood in the way."
        ),
    ]
    before: Annotated[
        dict[str, Any] | None,
        Field(description="The members that it changes, as they were; null: there was nothing, or many."),
    ]
    after: Annotated[
        dict[str, Any] | None,
        Field(description="The same members as they are to be; null: nothing is left, or many."),
    ]
    details: Annotated[
        dict[str, Any],
        Field(
            description="Of an import: the file (`sha256`, `bytes`), the counts, and the first"
            f" {limits.IMPORT_CHANGES_TOLD_MAX} changes. Of a test: the `message`."
        ),
    ]


class Actions(BaseModel):
    """A page of actions, newest first."""

    actions: list[Action]
    next: NextUrl


class ActionsCursor(paging.Cursor, frozen=True):
    """The last action of a page."""

    action_id: Annotated[str, msgspec.Meta(min_length=1)]


def _of_the_fleet(kind: About) -> About:
    if kind not in ABOUT_FLEET:
        raise ValueError("is told by the audit log alone")
    return kind


@router.get(
    "/actions",
    summary="Who did what, newest first",
    response_model=None,
    responses=list_responses(Actions),
    dependencies=[require(Role.READ)],
)
async def actions(
    *,
    request: Request,
    kind: Annotated[
        About | None,
        AfterValidator(_of_the_fleet),
        WithJsonSchema({"type": "string", "enum": sorted(ABOUT_FLEET)}),
        Query(description="Only actions about these."),
    ] = None,
    target: Annotated[
        str | None,
        WithJsonSchema({"type": "string", "minLength": 1}),
        Query(min_length=1, description="Only actions about the one with this id; of a cause, its code."),
    ] = None,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    cursor: paging.CursorText = None,
) -> Response:
    """Whatever changes something of the fleet or its dead letters is an action, kept for good.

    What changes nothing is none. What was done to keys, users and sessions, and from where anything came, is
    told by the audit log.
    """
    end = ActionsCursor.decode(cursor)
    query = ActionQuery(
        limit=limit + 1,
        kinds=ABOUT_FLEET if kind is None else [kind],
        target=target,
        before=None if end is None else end.action_id,
    )
    return list_page(
        request,
        "actions",
        await state_of(request).actions.find(query),
        limit=limit,
        next_parameters=lambda action: {"cursor": ActionsCursor(action.action_id).encode()},
        as_json=row,
    )


def row(action: domain.Action) -> dict[str, Any]:
    """An action as everybody who may read is told it."""
    return {
        "id": action.action_id,
        "at": rfc3339(action.at),
        "who": action.who,
        "what": action.what,
        "kind": action.kind,
        "target": action.target,
        "progress": action.progress,
        "before": action.before,
        "after": action.after,
        "details": action.details,
    }
