"""`sync-now`: devices are asked to sync at once, one of them, or many after a look at how many."""

from http import HTTPStatus
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import AfterValidator, BaseModel, Field, WithJsonSchema
from starlette.exceptions import HTTPException

from api import auth, commanding, models, problems
from api.auth import require
from api.bodies import hold_to, read_body
from api.commanding import Devices, FaultyRequestError
from api.directory.reading import read_object
from api.openapi import OBJECT_BODY, PARAMETERS, UNAVAILABLE, UNEXPECTED, declare
from api.parameters import StrictRoute
from api.routes.commands import EXAMPLE, Command
from api.state import State, state_of
from api.writing_down import written_down
from pisync import limits
from pisync.domain import topics
from pisync.domain.access import Role
from pisync.domain.actions import About, What
from pisync.domain.commands import CommandState
from pisync.domain.directory import Fault

router = APIRouter(tags=["operators"], route_class=StrictRoute)

_JSON: Final = "application/json"
_MEMBERS: Final = ("device_ids", "site")


class SyncNowPreview(BaseModel):
    """Which devices are meant; nothing is stored or sent."""

    count: Annotated[int, Field(ge=1, description="So many devices, exactly.")]
    confirm: Annotated[
        str, Field(description="What the same request has to bring to be carried out: it stands for these.")
    ]


class SyncNowResult(BaseModel):
    """What became of the request."""

    count: Annotated[int, Field(ge=1, description="So many devices.")]
    queued: Annotated[int, Field(ge=0, description="So many have a new command.")]
    open: Annotated[int, Field(ge=0, description="So many had one that is not over, and keep it.")]


class SyncNowDevices(BaseModel):
    """The devices that are to sync: either these, or those of a site."""

    device_ids: Annotated[list[models.DeviceId], Field(min_length=1, max_length=limits.COMMAND_DEVICES_MAX)]


class SyncNowSite(BaseModel):
    """The site whose devices are to sync, but for those that are retired."""

    site: Annotated[str, Field(pattern=models.DEVICE_ID_PATTERN, examples=["S-17"])]


ExpiresIn = Annotated[
    str,
    AfterValidator(commanding.expiry),
    WithJsonSchema({"type": "string", "pattern": f"^{commanding.EXPIRY_PATTERN}$"}),
    Query(
        description="After how long no device begins it any more: a number with `s`, `m`, `h`, `d` or `w`,"
        f" from {limits.COMMAND_EXPIRY_S_MIN}s to {limits.COMMAND_EXPIRY_S_MAX // 86_400}d.",
        examples=["1h"],
    ),
]
_QUEUED: Final = EXAMPLE | {
    "state": CommandState.QUEUED,
    "history": [{"state": CommandState.QUEUED, "at": "2026-05-08T12:00:00.000Z"}],
    "proof": None,
}


def _answer(model: type[BaseModel], description: str, example: dict[str, Any]) -> dict[str, Any]:
    return {"model": model, "description": description, "content": {_JSON: {"example": example}}}


@router.post(
    "/device/{device_id}/sync-now",
    dependencies=[require(Role.OPERATE)],
    summary="Have a device sync",
    response_model=None,
    responses={
        200: _answer(Command, "It has a command that is not over: this one.", _QUEUED),
        202: _answer(Command, "The command is queued, and will be published.", _QUEUED),
        404: declare("No event of this device is stored, and the directory does not have it."),
        422: PARAMETERS,
        500: UNEXPECTED,
        503: UNAVAILABLE,
    },
)
async def sync_now(
    *,
    request: Request,
    device_id: Annotated[
        str,
        Path(
            pattern=models.DEVICE_ID_PATTERN,
            description="The device's id: " + topics.DEVICE_ID_RULE + ".",
            examples=["PB-000123"],
        ),
    ],
    expires_in: ExpiresIn = limits.COMMAND_EXPIRY,
) -> Response:
    """The device is told once it is connected, unless the command expires first; pressed twice it is one.

    `GET /api/commands/{id}` says how far it is. It is done (`proved`) when a newer event is stored.
    """
    state = state_of(request)
    devices, unknown = await commanding.known_devices(state, [device_id])
    if unknown:
        raise HTTPException(
            HTTPStatus.NOT_FOUND, "No event of this device is stored, and the directory does not have it."
        )
    who = auth.who(request)
    async with written_down(state, who, What.SYNC_NOW, About.DEVICES, device_id) as (_, told):
        requested = await commanding.request(state, devices, who=who, expires_in=expires_in)
        [command] = requested.commands
        told["command"] = command.command_id
    status = HTTPStatus.ACCEPTED if command.command_id in requested.added else HTTPStatus.OK
    return Response(msgspec.json.encode(commanding.as_json(command)), status, media_type=_JSON)


@router.post(
    "/sync-now",
    dependencies=[require(Role.OPERATE)],
    summary="Have many devices sync",
    response_model=None,
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": f"At most {limits.HTTP_BODY_BYTES_MAX} bytes.",
            "content": {
                _JSON: {
                    "schema": {
                        "oneOf": [SyncNowDevices.model_json_schema(), SyncNowSite.model_json_schema()]
                    },
                    "examples": {
                        "devices": {"value": {"device_ids": ["PB-000123", "PB-000124"]}},
                        "site": {"value": {"site": "S-17"}},
                    },
                }
            },
        }
    },
    responses={
        200: _answer(
            SyncNowPreview,
            "How many they are; nothing is done yet.",
            {"count": 40, "confirm": "5f1d3c0e9a7b44d2b8c6e0f1a2938475"},
        ),
        202: _answer(
            SyncNowResult,
            "Each of them has a command that is not over.",
            {"count": 40, "queued": 38, "open": 2},
        ),
        **OBJECT_BODY,
        409: declare("`confirm` stands for other devices: look again, and confirm that."),
        500: UNEXPECTED,
        503: UNAVAILABLE,
    },
)
async def sync_now_many(
    *,
    request: Request,
    expires_in: ExpiresIn = limits.COMMAND_EXPIRY,
    confirm: Annotated[
        str | None,
        WithJsonSchema({"type": "string"}),
        Query(description="What the same request returned without it: carry it out."),
    ] = None,
) -> Response:
    """Without `confirm` it says how many devices are meant, exactly; with it each gets a command.

    At most 50 commands a second are published, and at most five devices of a site are at it at once. The same
    request again makes no second command for a device whose first is not over.
    """
    hold_to(request, _JSON)
    state = state_of(request)
    try:
        given = read_object(await read_body(request))
        devices = await _meant(state, given)
    except FaultyRequestError as error:
        return problems.members(error.faults)
    except ValueError as error:
        return problems.members([Fault(None, str(error))])
    expected = commanding.confirmation(devices, expires_in)
    if confirm is None:
        return Response(msgspec.json.encode({"count": len(devices), "confirm": expected}), media_type=_JSON)
    if confirm != expected:
        raise HTTPException(
            HTTPStatus.CONFLICT,
            "These are not the devices that were confirmed: look at how many they are now.",
        )
    who, site = auth.who(request), given.get("site")
    about = written_down(
        state, who, What.SYNC_NOW, About.DEVICES, devices=len(devices), site=site, expires_in=expires_in
    )
    async with about as (_, told):
        requested = await commanding.request(state, devices, who=who, expires_in=expires_in)
        told["queued"] = new = len(requested.added)
    body = {"count": len(devices), "queued": new, "open": len(devices) - new}
    return Response(msgspec.json.encode(body), HTTPStatus.ACCEPTED, media_type=_JSON)


async def _meant(state: State, given: dict[str, object]) -> Devices:
    """The devices that a request means.

    Raises:
        FaultyRequestError: it does not say so, or names some that nobody knows.
    """
    others = [name for name in given if name not in _MEMBERS]
    if others:
        raise FaultyRequestError(
            *(Fault(name[: limits.PARAMETER_NAME_CHARS_MAX], "is no member here") for name in others[:20])
        )
    if len(given) != 1:
        raise FaultyRequestError(Fault(None, "must have either device_ids or site"))
    if "site" in given:
        site = given["site"]
        if not (isinstance(site, str) and topics.is_device_id(site)):
            raise FaultyRequestError(Fault("site", f"must be {topics.DEVICE_ID_RULE}"))
        return await commanding.devices_of_site(state, site)
    devices, unknown = await commanding.known_devices(state, commanding.read_device_ids(given["device_ids"]))
    if unknown:
        raise FaultyRequestError(
            Fault(
                "device_ids",
                "no event of these is stored, and the directory does not have them: " + ", ".join(unknown),
            )
        )
    return devices
