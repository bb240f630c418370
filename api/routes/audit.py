"""`GET /api/audit`: all that was done and refused, by whom and from where; also as a file."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field, WithJsonSchema

from api import auth, paging
from api.auth import require
from api.directory.reading import FileFormat
from api.list_files import Rows, file_response, list_files
from api.models import NextUrl
from api.openapi import UNAVAILABLE, list_responses
from api.paging import list_page
from api.parameters import StrictRoute
from api.routes import actions
from api.state import State, state_of
from api.writing_down import written_down
from pisync import limits
from pisync.domain import actions as domain
from pisync.domain.access import PrincipalKind, Role
from pisync.domain.actions import About, Progress, What
from pisync.stores.interfaces.actions import ActionQuery

router = APIRouter(tags=["access"], route_class=StrictRoute)

EXAMPLE: Final[dict[str, Any]] = {
    "id": "019dffba7e4000000123456789abcdef",
    "at": "2026-05-08T12:00:00.000Z",
    "who": "office",
    "known_by": PrincipalKind.KEY,
    "credential": "k3v9x0a1",
    "address": "203.0.113.7",
    "via": "PATCH /api/directory/devices/{device_id}",
    "what": What.PATCH,
    "kind": About.DEVICES,
    "target": "PB-000123",
    "progress": Progress.DONE,
    "before": {"retired": False},
    "after": {"retired": True},
    "details": {"reason": "stolen"},
}


class AuditedAction(actions.Action):
    """One act, with who sent the request."""

    known_by: Annotated[
        PrincipalKind | None,
        Field(
            description="By what `who` is known, `local`: by nothing. null: it came by no request, or one"
            " that signs in."
        ),
    ]
    credential: Annotated[str | None, Field(description="The id of the key.")]
    address: Annotated[
        str | None, Field(description="Where the request came from, as the last trusted proxy tells it.")
    ]
    via: Annotated[str | None, Field(description="The request's method, and its path's template.")]


class AuditedActions(BaseModel):
    """A page of the audit log, newest first."""

    actions: list[AuditedAction]
    next: NextUrl


class AuditCursor(paging.Cursor, frozen=True):
    """The last action of a page."""

    action_id: Annotated[str, msgspec.Meta(min_length=1)]


_TEXT: Final = WithJsonSchema({"type": "string", "minLength": 1})
Who = Annotated[str | None, _TEXT, Query(min_length=1, description="Only what was done by this name.")]
Target = Annotated[
    str | None,
    _TEXT,
    Query(
        min_length=1,
        description="Only what is about the one with this id; of refused credentials the address.",
    ),
]
WhatIs = Annotated[
    What | None,
    WithJsonSchema({"type": "string", "enum": list(What)}),
    Query(description="Only this."),
]
KindOf = Annotated[
    About | None,
    WithJsonSchema({"type": "string", "enum": list(About)}),
    Query(description="Only what is about these."),
]
Since = Annotated[paging.MomentUp, Query(description=paging.SINCE + " Of when it was begun.")]
Until = Annotated[paging.MomentUp, Query(description=paging.UNTIL + " Of when it was begun.")]


@router.get(
    "/audit",
    summary="The audit log, newest first",
    response_model=None,
    responses=list_responses(AuditedActions),
    dependencies=[require(Role.ADMIN)],
)
async def audit(
    *,
    request: Request,
    who: Who = None,
    what: WhatIs = None,
    kind: KindOf = None,
    target: Target = None,
    since: Since = None,
    until: Until = None,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    cursor: paging.CursorText = None,
) -> Response:
    """Everything that changes something but sync events, and what was refused; kept for good.

    An action stands here before it is done: one that stays `begun` was interrupted. Refused credentials are
    told once a minute and address, with how many they were; so is what a role does not allow.
    """
    query = ActionQuery(
        limit=limit + 1,
        who=who,
        what=what,
        kinds=None if kind is None else [kind],
        target=target,
        since=since,
        until=until,
        before=_before(cursor),
    )
    return list_page(
        request,
        "actions",
        await state_of(request).actions.find(query),
        limit=limit,
        next_parameters=lambda action: {"cursor": AuditCursor(action.action_id).encode()},
        moments={"since": since, "until": until},
        as_json=row,
    )


@list_files(
    router,
    "/audit",
    EXAMPLE,
    summary="The audit log",
    responses={503: UNAVAILABLE},
    dependencies=[require(Role.ADMIN)],
)
async def audit_file(
    *,
    request: Request,
    who: Who = None,
    what: WhatIs = None,
    kind: KindOf = None,
    target: Target = None,
    since: Since = None,
    until: Until = None,
    cursor: paging.CursorText = None,
    file_format: FileFormat,
) -> Response:
    """All rows from the cursor on. That it was exported is an action, too."""
    query = ActionQuery(
        limit=limits.PAGE_MAX,
        who=who,
        what=what,
        kinds=None if kind is None else [kind],
        target=target,
        since=since,
        until=until,
        before=_before(cursor),
    )
    state = state_of(request)
    exported = {"format": file_format.value, "filter": str(request.query_params)}
    async with written_down(state, auth.who(request), What.EXPORT, About.AUDIT, **exported):
        return await file_response(file_format, "audit", list(EXAMPLE), _pages(state, query))


def _before(cursor: str | None) -> str | None:
    end = AuditCursor.decode(cursor)
    return None if end is None else end.action_id


async def _pages(state: State, query: ActionQuery) -> AsyncIterator[Rows]:
    while True:
        found = await state.actions.find(query)
        yield [row(each) for each in found]
        if len(found) < query.limit:
            return
        query = replace(query, before=found[-1].action_id)


def row(action: domain.Action) -> dict[str, Any]:
    """An action as the audit log tells it."""
    told, caller = actions.row(action), action.caller
    told |= {
        "known_by": None if caller is None else caller.kind,
        "credential": None if caller is None else caller.credential,
        "address": None if caller is None else caller.address,
        "via": None if caller is None else caller.via,
    }
    return {name: told[name] for name in EXAMPLE}
