"""Keys of the api: who may call it, until when, and when he last did. Of each only a digest is kept."""

from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from api import auth, problems
from api.auth import issuing, require
from api.auth.issuing import NameTakenError, Wanted
from api.bodies import hold_to, read_body
from api.directory.changes import FaultyMembersError
from api.directory.reading import read_object
from api.openapi import OBJECT_BODY, UNAVAILABLE, UNEXPECTED, declare, object_body, object_responses
from api.parameters import StrictRoute
from api.state import State, state_of
from pisync import clock, limits, logs
from pisync.clock import read_rfc3339
from pisync.domain.access import KEY_ID_PATTERN, KeyState, Role, as_json, read_name, read_roles
from pisync.domain.directory import Fault
from pisync.errors import MongodbUnavailable

router = APIRouter(tags=["access"], route_class=StrictRoute)
log = logs.get("api.keys")

_JSON: Final = "application/json"
_MEMBERS: Final = frozenset({"name", "roles", "expires_at"})
KeyId = Annotated[
    str, Path(pattern=KEY_ID_PATTERN, description="The key's id, its second part.", examples=["k3v9x0qa"])
]


class NewKey(BaseModel):
    """A key that is to be made."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=limits.KEY_NAME_CHARS_MAX,
            description="Printable characters; no other key has it that is not revoked.",
        ),
    ]
    roles: Annotated[list[Role], Field(min_length=1, description="`admin` may do all, `operate` also read.")]
    expires_at: Annotated[datetime | None, Field(description="null: never.")] = None


class KeyEntry(BaseModel):
    """A key, without its secret, which nobody here knows."""

    id: str
    name: str
    roles: list[Role]
    state: KeyState
    created_at: datetime
    created_by: str
    expires_at: Annotated[datetime | None, Field(description="null: never.")]
    revoked_at: datetime | None
    revoked_by: str | None
    last_used_at: Annotated[
        datetime | None, Field(description="To about a minute; null: never, or not for a minute.")
    ]


class MadeKey(KeyEntry):
    """A key that was made."""

    key: Annotated[str, Field(description="What its holder sends; it is told only here.")]


class ConfiguredKeyEntry(BaseModel):
    """A key in `PISYNC_API_KEYS` of this replica."""

    name: str
    roles: list[Role]


class Keys(BaseModel):
    """All keys: those that are not revoked, the newest first, then the others."""

    keys: list[KeyEntry]
    configured: list[ConfiguredKeyEntry]


_EXAMPLE: Final = {"name": "gateway-kampala", "roles": ["ingest"], "expires_at": "2099-01-01T00:00:00Z"}


@router.get(
    "/keys",
    dependencies=[require(Role.ADMIN)],
    summary="The keys of the api",
    response_model=None,
    responses=object_responses(Keys, "All of them, without their secrets."),
)
async def keys(request: Request) -> Response:
    """Those that are revoked or expired, too: who had which, and when it was used last."""
    state = state_of(request)
    now = clock.now()
    return _answer(
        {
            "keys": [as_json(key, now) for key in await state.keys.all()],
            "configured": [
                {"name": each.name, "roles": sorted(each.roles)}
                for each in request.app.state.settings.configured_keys
            ],
        }
    )


@router.post(
    "/keys",
    dependencies=[require(Role.ADMIN)],
    summary="Make a key",
    status_code=201,
    response_model=None,
    openapi_extra=object_body(NewKey, gateway=_EXAMPLE),
    responses=OBJECT_BODY
    | {
        201: {"model": MadeKey, "description": "The key, with what its holder sends."},
        409: declare("Another key has this name, and is not revoked."),
        500: UNEXPECTED,
        503: UNAVAILABLE,
    },
)
async def create(request: Request) -> Response:
    """The first key that there ever was closes an open api: from then on everybody needs one."""
    hold_to(request, _JSON)
    try:
        given = read_object(await read_body(request))
    except ValueError as error:
        return problems.members([Fault(None, str(error))])
    wanted, faults = _read(auth.who(request), given)
    state = state_of(request)
    try:
        if wanted is None:
            raise FaultyMembersError(faults)
        made = await issuing.create(state.keys, state.actions, wanted)
    except FaultyMembersError as error:
        return problems.members(error.faults)
    except NameTakenError:
        raise HTTPException(409, "Another key has this name; revoke it, or take another.") from None
    await _take_up(state)
    return _answer({**as_json(made.key, clock.now()), "key": made.text}, 201)


@router.post(
    "/keys/{key_id}/revoke",
    dependencies=[require(Role.ADMIN)],
    summary="Revoke a key",
    response_model=None,
    responses=object_responses(
        KeyEntry, "It opens nothing any more.", {404: declare("There is no key with this id.")}
    ),
)
async def revoke(request: Request, key_id: KeyId) -> Response:
    """For good. Other replicas take it up within 5 seconds; one that is revoked stays as it is."""
    state = state_of(request)
    key = await issuing.revoke(state.keys, state.actions, who=auth.who(request), key_id=key_id)
    if key is None:
        raise HTTPException(404, "There is no key with this id.")
    await _take_up(state)
    return _answer(as_json(key, clock.now()))


async def _take_up(state: State) -> None:
    """Have this replica know at once what it changed; where MongoDB has gone away, it will know in time."""
    try:
        await state.access.refresh()
    except MongodbUnavailable as error:
        log.debug("the keys are not known", why=str(error))


def _read(who: str, given: dict[str, object]) -> tuple[Wanted | None, list[Fault]]:
    faults = [Fault(name, "is no member here") for name in given if name not in _MEMBERS]
    found: dict[str, Any] = {}
    for member, read in (("name", _name), ("roles", _roles), ("expires_at", _moment)):
        try:
            found[member] = read(given.get(member))
        except ValueError as error:
            faults.append(Fault(member, str(error)))
    return (None, faults) if faults else (Wanted(who=who, **found), faults)


def _name(given: object) -> str:
    if not isinstance(given, str):
        raise ValueError("must be a text")  # noqa: TRY004 - it is told as what the request is at fault for
    return read_name(given)


def _roles(given: object) -> frozenset[Role]:
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise ValueError("must be a list of roles")
    return read_roles(given)


def _moment(given: object) -> datetime | None:
    if given is None:
        return None
    try:
        return read_rfc3339(given)[0]
    except msgspec.ValidationError:
        raise ValueError("must be an RFC 3339 time with an offset, or null") from None


def _answer(members: dict[str, Any], status: int = 200) -> Response:
    return Response(msgspec.json.encode(members), status, media_type=_JSON)
