"""`/api/directory/devices` and `/api/directory/sites`: what operators say of each."""

from dataclasses import replace
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Header, Path, Request, Response
from pydantic import BaseModel, WithJsonSchema

from api import auth, models, paging, problems
from api.auth import require
from api.bodies import hold_to, read_body
from api.directory import changes, reading
from api.directory.changes import Asked, FaultyMembersError
from api.directory.models import (
    EXAMPLES,
    DeviceEntry,
    DeviceMembers,
    DirectoryDevices,
    DirectorySites,
    SiteEntry,
    SiteMembers,
)
from api.openapi import OBJECT_BODY, PARAMETERS, UNAVAILABLE, UNEXPECTED, Responses, declare, list_responses
from api.paging import list_page
from api.parameters import StrictRoute
from api.state import state_of
from pisync import limits
from pisync.clock import rfc3339
from pisync.domain import directory, topics
from pisync.domain.access import Role
from pisync.domain.actions import What
from pisync.domain.directory import Fault, Kind
from pisync.stores.interfaces.directory import DirectoryQuery, KeptEntry

router = APIRouter(tags=["directory"], route_class=StrictRoute)

_JSON: Final = "application/json"


class DirectoryCursor(paging.Cursor, frozen=True):
    """The last entry of a page."""

    kind: Kind
    identifier: Annotated[str, msgspec.Meta(pattern=rf"^{topics.DEVICE_ID_PATTERN}\Z")]


DeviceId = Annotated[
    str,
    Path(
        pattern=models.DEVICE_ID_PATTERN,
        description="The device's id: " + topics.DEVICE_ID_RULE + ".",
        examples=["PB-000123"],
    ),
]
SiteId = Annotated[
    str,
    Path(
        pattern=models.DEVICE_ID_PATTERN,
        description="The site's id: " + topics.DEVICE_ID_RULE + ".",
        examples=["S-17"],
    ),
]
IfMatch = Annotated[
    str | None,
    WithJsonSchema({"type": "string"}),
    Header(description='The change is made in this version only: an `ETag` such as `"3"`, or `*` for any.'),
]

_MODELS: Final[dict[Kind, tuple[type[BaseModel], type[BaseModel]]]] = {
    Kind.DEVICES: (DeviceMembers, DeviceEntry),
    Kind.SITES: (SiteMembers, SiteEntry),
}
_ETAG: Final = {"ETag": {"description": "The version, for `If-Match`.", "schema": {"type": "string"}}}


def _body(kind: Kind, example: dict[str, Any]) -> dict[str, Any]:
    schema = _MODELS[kind][0].model_json_schema()
    return {
        "requestBody": {
            "required": True,
            "description": f"At most {limits.HTTP_BODY_BYTES_MAX} bytes.",
            "content": {_JSON: {"schema": schema, "examples": {kind.singular: {"value": example}}}},
        }
    }


def _answers(kind: Kind, description: str, others: Responses | None = None) -> Responses:
    example = EXAMPLES[kind] | {
        kind.id_member: "PB-000123" if kind is Kind.DEVICES else "S-17",
        "version": 3,
        "changed_at": "2026-05-08T12:00:00.000Z",
    }
    answers: Responses = {
        200: {
            "model": _MODELS[kind][1],
            "description": description,
            "headers": _ETAG,
            "content": {_JSON: {"example": example}},
        },
        500: UNEXPECTED,
        503: UNAVAILABLE,
    }
    return dict(sorted((answers | (others or {})).items(), key=lambda answer: int(answer[0])))


_UNKNOWN: Final[dict[Kind, Responses]] = {
    Kind.DEVICES: {404: declare("The directory has no such device.")},
    Kind.SITES: {404: declare("The directory has no such site.")},
}
_CHANGE: Final[Responses] = OBJECT_BODY | {
    412: declare("The entry is not in the version that `If-Match` names.")
}


def _put_answers(kind: Kind) -> Responses:
    answers = _answers(kind, "It is so, now or before.", _CHANGE)
    created = answers[200] | {"description": "The entry is new."}
    return dict(sorted((answers | {201: created}).items(), key=lambda answer: int(answer[0])))


@router.get(
    "/directory/devices",
    dependencies=[require(Role.READ)],
    summary="The devices of the directory, by id",
    response_model=None,
    responses=list_responses(DirectoryDevices),
)
async def devices(
    *, request: Request, limit: paging.Limit = limits.PAGE_DEFAULT, cursor: paging.CursorText = None
) -> Response:
    """What operators say of devices; one of which nothing is said is not listed, whatever it sends."""
    return await _list(request, Kind.DEVICES, limit, cursor)


@router.get(
    "/directory/sites",
    dependencies=[require(Role.READ)],
    summary="The sites of the directory, by id",
    response_model=None,
    responses=list_responses(DirectorySites),
)
async def sites(
    *, request: Request, limit: paging.Limit = limits.PAGE_DEFAULT, cursor: paging.CursorText = None
) -> Response:
    """What operators say of sites."""
    return await _list(request, Kind.SITES, limit, cursor)


@router.get(
    "/directory/devices/{device_id}",
    dependencies=[require(Role.READ)],
    summary="A device of the directory",
    response_model=None,
    responses=_answers(Kind.DEVICES, "The device.", _UNKNOWN[Kind.DEVICES] | {422: PARAMETERS}),
)
async def device(request: Request, device_id: DeviceId) -> Response:
    """What operators say of one device."""
    return await _get(request, Kind.DEVICES, device_id)


@router.get(
    "/directory/sites/{site_id}",
    dependencies=[require(Role.READ)],
    summary="A site of the directory",
    response_model=None,
    responses=_answers(Kind.SITES, "The site.", _UNKNOWN[Kind.SITES] | {422: PARAMETERS}),
)
async def site(request: Request, site_id: SiteId) -> Response:
    """What operators say of one site."""
    return await _get(request, Kind.SITES, site_id)


@router.put(
    "/directory/devices/{device_id}",
    dependencies=[require(Role.OPERATE)],
    summary="Say all of a device",
    response_model=None,
    openapi_extra=_body(Kind.DEVICES, EXAMPLES[Kind.DEVICES]),
    responses=_put_answers(Kind.DEVICES),
)
async def put_device(*, request: Request, device_id: DeviceId, if_match: IfMatch = None) -> Response:
    """Takes the place of what was said before: a member that is left out says nothing. May be repeated."""
    return await _change(request, What.PUT, Kind.DEVICES, device_id, if_match)


@router.put(
    "/directory/sites/{site_id}",
    dependencies=[require(Role.OPERATE)],
    summary="Say all of a site",
    response_model=None,
    openapi_extra=_body(Kind.SITES, EXAMPLES[Kind.SITES]),
    responses=_put_answers(Kind.SITES),
)
async def put_site(*, request: Request, site_id: SiteId, if_match: IfMatch = None) -> Response:
    """Takes the place of what was said before: a member that is left out says nothing. May be repeated."""
    return await _change(request, What.PUT, Kind.SITES, site_id, if_match)


@router.patch(
    "/directory/devices/{device_id}",
    dependencies=[require(Role.OPERATE)],
    summary="Change members of a device",
    response_model=None,
    openapi_extra=_body(Kind.DEVICES, {"muted_until": "2026-05-08T12:00:00Z", "note": "At the workshop."}),
    responses=_answers(Kind.DEVICES, "It is so, now or before.", _CHANGE | _UNKNOWN[Kind.DEVICES]),
)
async def patch_device(*, request: Request, device_id: DeviceId, if_match: IfMatch = None) -> Response:
    """Changes the members that are given; null takes back what was said."""
    return await _change(request, What.PATCH, Kind.DEVICES, device_id, if_match)


@router.patch(
    "/directory/sites/{site_id}",
    dependencies=[require(Role.OPERATE)],
    summary="Change members of a site",
    response_model=None,
    openapi_extra=_body(Kind.SITES, {"holidays": ["2026-12-20/2027-01-05"]}),
    responses=_answers(Kind.SITES, "It is so, now or before.", _CHANGE | _UNKNOWN[Kind.SITES]),
)
async def patch_site(*, request: Request, site_id: SiteId, if_match: IfMatch = None) -> Response:
    """Changes the members that are given; null takes back what was said."""
    return await _change(request, What.PATCH, Kind.SITES, site_id, if_match)


@router.delete(
    "/directory/sites/{site_id}",
    dependencies=[require(Role.OPERATE)],
    summary="Delete a site that no device names",
    response_model=None,
    responses=_answers(
        Kind.SITES,
        "It is deleted; this is what it was.",
        _UNKNOWN[Kind.SITES]
        | {409: declare("Devices of the directory name it."), 412: _CHANGE[412], 422: PARAMETERS},
    ),
)
async def delete_site(*, request: Request, site_id: SiteId, if_match: IfMatch = None) -> Response:
    """Devices are not deleted: they are `retired`, because what they sent stays."""
    return await _make(request, _asked(request, What.DELETE, Kind.SITES, site_id, if_match))


async def _list(request: Request, kind: Kind, limit: int, cursor: str | None) -> Response:
    end = DirectoryCursor.decode(cursor, kind=kind)
    query = DirectoryQuery(kind=kind, limit=limit + 1, after=None if end is None else end.identifier)
    return list_page(
        request,
        kind.value,
        await state_of(request).directory.page(query),
        limit=limit,
        next_parameters=lambda kept: {
            "cursor": DirectoryCursor(kind, directory.entry_id(kept.entry)).encode()
        },
        as_json=_row,
    )


async def _get(request: Request, kind: Kind, identifier: str) -> Response:
    kept = await changes.find(state_of(request), kind, identifier)
    if kept is None:
        raise changes.missing(kind)
    return _entry(kept)


async def _change(
    request: Request, what: What, kind: Kind, identifier: str, if_match: str | None
) -> Response:
    hold_to(request, _JSON)
    try:
        given = reading.read_object(await read_body(request))
    except ValueError as error:
        return problems.members([Fault(None, str(error))])
    members, faults = directory.read_members(kind, given)
    if not faults and given.get(kind.id_member) not in {None, identifier}:
        faults.append(Fault(kind.id_member, f"is another than {identifier}, which stands in the path"))
    if faults:
        return problems.members(faults)
    return await _make(request, replace(_asked(request, what, kind, identifier, if_match), members=members))


def _asked(request: Request, what: What, kind: Kind, identifier: str, if_match: str | None) -> Asked:
    who = auth.who(request)
    return Asked(who=who, what=what, kind=kind, identifier=identifier, members={}, if_match=if_match)


async def _make(request: Request, asked: Asked) -> Response:
    try:
        kept, is_new = await changes.change(state_of(request), asked)
    except FaultyMembersError as error:
        return problems.members(error.faults)
    return _entry(kept, 201 if is_new else 200)


def _entry(kept: KeptEntry, status: int = 200) -> Response:
    return Response(msgspec.json.encode(_row(kept)), status, {"ETag": changes.etag(kept)}, _JSON)


def _row(kept: KeptEntry) -> dict[str, Any]:
    beside = {"version": kept.version, "changed_at": rfc3339(kept.changed_at)}
    return directory.as_json(kept.entry) | beside
