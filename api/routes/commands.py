"""`/api/commands`: what was asked of devices, and how far that is."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field, WithJsonSchema

from api import auth, commanding, paging
from api.auth import require
from api.directory.reading import FileFormat
from api.list_files import Rows, file_response, list_files
from api.models import DeviceId, DeviceIdFilter, NextUrl
from api.openapi import PARAMETERS, UNAVAILABLE, UNEXPECTED, declare, list_responses
from api.paging import list_page
from api.parameters import StrictRoute
from api.state import State, state_of
from api.writing_down import written_down
from pisync import limits
from pisync.domain.access import Role
from pisync.domain.actions import About, What
from pisync.domain.commands import ID_PATTERN, CommandKind, CommandState
from pisync.stores.interfaces.commands import CommandQuery

router = APIRouter(tags=["operators"], route_class=StrictRoute)


class CommandStep(BaseModel):
    """When a command came to a state."""

    state: CommandState
    at: datetime


class CommandProof(BaseModel):
    """The stored event of the device that proves a command."""

    timestamp: Annotated[datetime, Field(description="The event's own time, as in the device's history.")]
    received_at: Annotated[datetime, Field(description="After the command was published.")]


class Command(BaseModel):
    """One command to one device."""

    id: Annotated[str, Field(pattern=f"^{ID_PATTERN}$")]
    device_id: DeviceId
    command: CommandKind
    state: Annotated[
        CommandState,
        Field(
            description="`queued`: nothing is sent yet. `published`: it is with the broker, or about to be."
            " `accepted`, `refused`: the device said so. `proved`: an event of the device was received after"
            " it was published, and is stored. `expired`: its time was over before that. `cancelled`: before"
            " it was published."
        ),
    ]
    site: Annotated[str | None, Field(description="The device's site when it was requested.")]
    who: Annotated[str, Field(description="The name of the key or user; `unknown`: the api asked for none.")]
    requested_at: datetime
    expires_at: Annotated[datetime, Field(description="From then on no device begins it.")]
    history: Annotated[list[CommandStep], Field(description="Its states, in their order.")]
    detail: Annotated[str | None, Field(description="What the device said when it accepted or refused.")]
    proof: CommandProof | None


class Commands(BaseModel):
    """A page of commands, newest first."""

    commands: list[Command]
    next: NextUrl


class CommandsCursor(paging.Cursor, frozen=True):
    """The last command of a page."""

    command_id: Annotated[str, msgspec.Meta(min_length=1)]


EXAMPLE: Final = {
    "id": "019dffba7e400123456789abcdef",
    "device_id": "PB-000123",
    "command": CommandKind.SYNC_NOW,
    "state": CommandState.PROVED,
    "site": "S-17",
    "who": "unknown",
    "requested_at": "2026-05-08T12:00:00.000Z",
    "expires_at": "2026-05-09T12:00:00.000Z",
    "history": [
        {"state": CommandState.QUEUED, "at": "2026-05-08T12:00:00.000Z"},
        {"state": CommandState.PUBLISHED, "at": "2026-05-08T12:00:00.800Z"},
        {"state": CommandState.ACCEPTED, "at": "2026-05-08T17:30:02.100Z"},
        {"state": CommandState.PROVED, "at": "2026-05-08T17:31:10.000Z"},
    ],
    "detail": None,
    "proof": {"timestamp": "2026-05-08T17:31:08.000Z", "received_at": "2026-05-08T17:31:08.700Z"},
}
CommandId = Annotated[
    str, Path(pattern=f"^{ID_PATTERN}$", description="The command's id.", examples=[EXAMPLE["id"]])
]
_UNKNOWN: Final = declare("There is no command with this id.")


_Device = Annotated[DeviceIdFilter, Query(description="Only commands to this device.")]
_State = Annotated[
    CommandState | None,
    WithJsonSchema({"type": "string", "enum": list(CommandState)}),
    Query(description="Only commands in this state."),
]


@router.get(
    "/commands",
    summary="Commands, newest first",
    response_model=None,
    responses=list_responses(Commands),
    dependencies=[require(Role.READ)],
)
async def commands(
    *,
    request: Request,
    device_id: _Device = None,
    state: _State = None,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    cursor: paging.CursorText = None,
) -> Response:
    """Newest first by when they were requested. A device has at most one that is not over."""
    query = _query(device_id, state, cursor, limit + 1)
    return list_page(
        request,
        "commands",
        await state_of(request).commands.find(query),
        limit=limit,
        next_parameters=lambda command: {"cursor": CommandsCursor(command.command_id).encode()},
        as_json=commanding.as_json,
    )


@list_files(
    router,
    "/commands",
    EXAMPLE,
    summary="Commands",
    responses={503: UNAVAILABLE},
    dependencies=[require(Role.READ)],
)
async def commands_file(
    *,
    request: Request,
    device_id: _Device = None,
    state: _State = None,
    cursor: paging.CursorText = None,
    file_format: FileFormat,
) -> Response:
    """All rows from the cursor on."""
    query = _query(device_id, state, cursor, limits.PAGE_MAX)
    return await file_response(file_format, "commands", list(EXAMPLE), _pages(state_of(request), query))


async def _pages(state: State, query: CommandQuery) -> AsyncIterator[Rows]:
    while True:
        found = await state.commands.find(query)
        yield [commanding.as_json(each) for each in found]
        if len(found) < query.limit:
            return
        query = replace(query, before=found[-1].command_id)


def _query(device_id: str | None, state: CommandState | None, cursor: str | None, limit: int) -> CommandQuery:
    end = CommandsCursor.decode(cursor)
    return CommandQuery(
        limit=limit, device_id=device_id, state=state, before=None if end is None else end.command_id
    )


@router.get(
    "/commands/{command_id}",
    dependencies=[require(Role.READ)],
    summary="A command",
    response_model=None,
    responses={
        200: {
            "model": Command,
            "description": "The command.",
            "content": {"application/json": {"example": EXAMPLE}},
        },
        404: _UNKNOWN,
        422: PARAMETERS,
        500: UNEXPECTED,
        503: UNAVAILABLE,
    },
)
async def command(request: Request, command_id: CommandId) -> Response:
    """How far it is, and when it came to each state."""
    found = await commanding.get(state_of(request), command_id)
    return Response(msgspec.json.encode(commanding.as_json(found)), media_type="application/json")


@router.post(
    "/commands/{command_id}/cancel",
    dependencies=[require(Role.OPERATE)],
    summary="Take a command back",
    response_model=None,
    responses={
        200: {
            "model": Command,
            "description": "It is cancelled, now or before, and was never sent.",
            "content": {
                "application/json": {
                    "example": EXAMPLE
                    | {
                        "state": CommandState.CANCELLED,
                        "history": [
                            {"state": CommandState.QUEUED, "at": "2026-05-08T12:00:00.000Z"},
                            {"state": CommandState.CANCELLED, "at": "2026-05-08T12:00:00.500Z"},
                        ],
                        "proof": None,
                    }
                }
            },
        },
        404: _UNKNOWN,
        409: declare("It is too late: it was published, or is over."),
        422: PARAMETERS,
        500: UNEXPECTED,
        503: UNAVAILABLE,
    },
)
async def cancel(request: Request, command_id: CommandId) -> Response:
    """Only one that is `queued` can be taken back: one that is published may be with the device."""
    state = state_of(request)
    before = await commanding.get(state, command_id)
    about = written_down(
        state, auth.who(request), What.CANCEL, About.COMMANDS, command_id, device_id=before.device_id
    )
    async with about:
        found = await commanding.cancel(state, command_id)
    return Response(msgspec.json.encode(commanding.as_json(found)), media_type="application/json")
