"""`/api/incidents`: sites that fail or fell silent as one, codes that spread; one line for each."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final
from urllib.parse import urlencode

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field, WithJsonSchema
from starlette.exceptions import HTTPException

from api import acknowledging, fleet_truth, models, paging
from api.auth import require
from api.directory.reading import FileFormat
from api.fleet_filters import NONE, shown_cause
from api.fleet_truth import Truth, loaded_fleet
from api.list_files import Rows, file_response, list_files
from api.models import DeviceIdFilter, NextUrl
from api.openapi import LOADING, UNAVAILABLE, Responses, declare, list_responses, object_body
from api.paging import list_page
from api.parameters import StrictRoute
from api.routes.acknowledgements import (
    ACKNOWLEDGING,
    IncidentAcknowledging,
    Said,
    acknowledged,
    answers,
    taken_back,
)
from api.state import state_of
from fleet.incidents import devices_of
from pisync import clock, limits
from pisync.clock import rfc3339, to_ms
from pisync.domain import incidents as domain
from pisync.domain.access import Role
from pisync.domain.acknowledgements import Acknowledgement, Subject, SubjectKind
from pisync.domain.incidents import IncidentKind
from pisync.stores.interfaces.incidents import IncidentQuery

router = APIRouter(tags=["operators"], route_class=StrictRoute)

_PATH: Final = "/incidents"
_MILLISECOND: Final = timedelta(milliseconds=1)


class Incident(BaseModel):
    """Many devices that fail or fell silent alike. Times are by the worker's clock, but for `since`."""

    id: Annotated[str, Field(description="Opaque.")]
    kind: Annotated[
        IncidentKind,
        Field(
            description="`site_failing`: of a site's devices that tried, most fail with one code, which"
            " chance does not explain. `site_silent`: most of a site's devices are silent since about the"
            " same time, for longer than is usual of them together. `cause_spreading`: devices of many sites"
            " fail by a code, more than usual."
        ),
    ]
    site: Annotated[models.DeviceId | None, Field(description="null: of many sites.")]
    site_name: Annotated[str | None, Field(description="As the directory has it; null: it says none.")]
    code: Annotated[
        str | None, Field(description="The error code, `-` where failures gave none; null: of silence.")
    ]
    since: Annotated[
        datetime,
        Field(description="When the first failed, by the devices' clocks; when one was heard last, by ours."),
    ]
    resumed_at: Annotated[
        datetime | None, Field(description="Likewise of the last time that it was opened again; else null.")
    ]
    opened_at: datetime
    updated_at: Annotated[datetime, Field(description="When what it has was last seen to have changed.")]
    closed_at: Annotated[datetime | None, Field(description="null: it is open.")]
    devices: Annotated[int, Field(ge=0, description="Devices in it now, or when it was closed.")]
    of: Annotated[
        int,
        Field(
            ge=0,
            description="Of how many: those of the site that tried since it began, that are usually heard, or"
            " all that fail by the code.",
        ),
    ]
    peak: Annotated[int, Field(ge=0, description="The most devices that it had.")]
    sites: Annotated[int, Field(ge=0, description="At how many sites they are.")]
    usual: Annotated[
        int | None,
        Field(
            ge=0,
            description="How many failed by the code on the day with most of the 7 before, about; null: of a"
            " site.",
        ),
    ]
    evidence: Annotated[str, Field(description="The same in a sentence, with times of the site's zone.")]
    reopened: Annotated[int, Field(ge=0, description="How often it came back within a day.")]
    devices_url: Annotated[
        str, Field(description="Its devices, about.", examples=["/api/devices?site=S-17&cause=E_TIMEOUT"])
    ]


class ListedIncident(Incident):
    """An incident, and what an operator said of it."""

    acknowledged: Annotated[
        Said | None, Field(description="What an operator said of it, while that holds; null: it is loud.")
    ]


class Incidents(BaseModel):
    """A page of incidents, newest first."""

    incidents: list[ListedIncident]
    next: NextUrl


class OneIncident(ListedIncident, Truth):
    """An incident with its devices."""

    device_ids: Annotated[
        list[models.DeviceId],
        Field(
            max_length=limits.INCIDENT_DEVICES_TOLD_MAX,
            description=f"Those in it now, by id, the first {limits.INCIDENT_DEVICES_TOLD_MAX}; none once it"
            " is closed.",
        ),
    ]


class IncidentsCursor(paging.Cursor, frozen=True):
    """The last incident of a page."""

    incident_id: Annotated[str, msgspec.Meta(min_length=1)]


class IncidentState(StrEnum):
    """Which incidents are listed."""

    OPEN = "open"
    CLOSED = "closed"
    ALL = "all"


_IS_OPEN: Final = {IncidentState.OPEN: True, IncidentState.CLOSED: False, IncidentState.ALL: None}
_EXAMPLE: Final[dict[str, Any]] = {
    "id": "019aa0c1d2e0a1b2c3d4e5f60718",
    "kind": "site_failing",
    "site": "S-17",
    "site_name": "Kampala Primary",
    "code": "E_TIMEOUT",
    "since": "2026-11-20T05:12:00.000Z",
    "resumed_at": None,
    "opened_at": "2026-11-20T05:24:10.000Z",
    "updated_at": "2026-11-20T06:04:30.000Z",
    "closed_at": None,
    "devices": 38,
    "of": 40,
    "peak": 38,
    "sites": 1,
    "usual": None,
    "evidence": "38 of the 40 that tried, E_TIMEOUT, since 20 Nov 08:12 Africa/Kampala",
    "reopened": 0,
    "devices_url": "/api/devices?site=S-17&cause=E_TIMEOUT",
}
_State = Annotated[IncidentState, Query(description="Which incidents.")]
_Kind = Annotated[
    IncidentKind | None,
    WithJsonSchema({"type": "string", "enum": list(IncidentKind)}),
    Query(description="Only incidents of this kind."),
]
_Site = Annotated[DeviceIdFilter, Query(description="Only incidents of this site.")]
_Cause = Annotated[
    str | None,
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": limits.ERROR_CODE_CHARS_MAX}),
    Query(
        min_length=1,
        max_length=limits.ERROR_CODE_CHARS_MAX,
        description="Only incidents with this error code; `-`: with none.",
    ),
]


@router.get(
    _PATH,
    dependencies=[require(Role.READ)],
    summary="Incidents, newest first",
    response_model=None,
    responses=list_responses(
        Incidents, example={"incidents": [{**_EXAMPLE, "acknowledged": None}], "next": None}
    ),
)
async def incidents(
    *,
    request: Request,
    state: _State = IncidentState.OPEN,
    kind: _Kind = None,
    site: _Site = None,
    cause: _Cause = None,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    cursor: paging.CursorText = None,
) -> Response:
    """One outage is one line: what many devices have in common, instead of an alert for each.

    A worker infers them while all is known, and once a condition has held for two minutes; closes them when
    it has not for ten; and opens one again that comes back within a day. Newest first by when they were
    opened.
    """
    stores = state_of(request)
    query = _query(state, kind=kind, site=site, cause=cause, cursor=cursor, limit=limit + 1)
    found = await stores.incidents.find(query)
    quiet = await acknowledging.quiet_incidents(stores, found[:limit])
    return list_page(
        request,
        "incidents",
        found,
        limit=limit,
        next_parameters=lambda each: {"cursor": IncidentsCursor(each.incident_id).encode()},
        as_json=lambda each: _listed(request, each, quiet),
    )


@list_files(
    router,
    _PATH,
    _EXAMPLE,
    summary="Incidents",
    responses={503: UNAVAILABLE},
    dependencies=[require(Role.READ)],
)
async def incidents_file(
    *,
    request: Request,
    state: _State = IncidentState.OPEN,
    kind: _Kind = None,
    site: _Site = None,
    cause: _Cause = None,
    cursor: paging.CursorText = None,
    file_format: FileFormat,
) -> Response:
    """All rows from the cursor on, without what operators said of them."""
    query = _query(state, kind=kind, site=site, cause=cause, cursor=cursor, limit=limits.PAGE_MAX)
    return await file_response(file_format, "incidents", list(_EXAMPLE), _pages(request, query))


async def _pages(request: Request, query: IncidentQuery) -> AsyncIterator[Rows]:
    while True:
        found = await state_of(request).incidents.find(query)
        yield [row(request, each) for each in found]
        if len(found) < query.limit:
            return
        query = replace(query, before=found[-1].incident_id)


IncidentId = Annotated[str, Path(min_length=1, description="The incident's id, as the list gives it.")]
_UNKNOWN: Final[Responses] = {404: declare("There is no incident with this id.")}


@router.get(
    "/incidents/{incident_id}",
    dependencies=[require(Role.READ)],
    summary="One incident, and its devices",
    response_model=None,
    responses=list_responses(
        OneIncident,
        {**_UNKNOWN, 503: LOADING},
        example={
            **_EXAMPLE,
            "acknowledged": None,
            "device_ids": ["PB-000123", "PB-000124"],
            **fleet_truth.EXAMPLE,
        },
    ),
)
async def one_incident(*, request: Request, incident_id: IncidentId) -> Response:
    """What it has, as it was seen last, and the devices that are in it now."""
    stores = state_of(request)
    found = (await stores.incidents.get_many([incident_id])).get(incident_id)
    if found is None:
        raise HTTPException(404, "There is no incident with this id.")
    quiet = await acknowledging.quiet_incidents(stores, [found])
    fleet = loaded_fleet(request)
    truth = fleet_truth.truth(request)
    device_ids: list[str] = []
    if found.closed_at is None:
        rows = devices_of(fleet, found.key, to_ms(found.began_at), to_ms(clock.now()))
        device_ids = sorted(fleet.ids.ids_of(rows))[: limits.INCIDENT_DEVICES_TOLD_MAX]
    answer = _listed(request, found, quiet) | {"device_ids": device_ids}
    return Response(msgspec.json.encode(answer | truth), media_type="application/json")


@router.post(
    "/incidents/{incident_id}/acknowledge",
    dependencies=[require(Role.OPERATE)],
    summary="Acknowledge an open incident",
    response_model=None,
    openapi_extra=object_body(
        IncidentAcknowledging,
        recovery={"until": "recovery", "reason": "The provider knows of it."},
        more_devices={"until": {"more_devices": 10}, "reason": "The provider knows of it."},
    ),
    responses=answers(
        "It said the same before.", ACKNOWLEDGING | _UNKNOWN | {409: declare("The incident is closed.")}
    ),
)
async def acknowledge(*, request: Request, incident_id: IncidentId) -> Response:
    """The incident is quiet until then, or until it is closed. Should it come back, it is loud again.

    May be repeated; what is said anew takes the place of what was said.
    """
    return await acknowledged(request, Subject(kind=SubjectKind.INCIDENTS, target=incident_id))


@router.delete(
    "/incidents/{incident_id}/acknowledge",
    dependencies=[require(Role.OPERATE)],
    summary="Take the acknowledgement of an incident back",
    response_model=None,
    responses=answers(
        "It is taken back; this is what it was.",
        {404: declare("There is no incident with this id, or it is not acknowledged.")},
    ),
)
async def unacknowledge(*, request: Request, incident_id: IncidentId) -> Response:
    """The incident is loud again."""
    return await taken_back(request, Subject(kind=SubjectKind.INCIDENTS, target=incident_id))


def _query(
    state: IncidentState,
    *,
    kind: IncidentKind | None,
    site: str | None,
    cause: str | None,
    cursor: str | None,
    limit: int,
) -> IncidentQuery:
    end = IncidentsCursor.decode(cursor)
    return IncidentQuery(
        limit=limit,
        is_open=_IS_OPEN[state],
        kind=kind,
        site=site,
        code="" if cause == NONE else cause,
        before=None if end is None else end.incident_id,
    )


def _listed(
    request: Request, incident: domain.Incident, quiet: Mapping[str, Acknowledgement]
) -> dict[str, object]:
    acknowledgement = quiet.get(incident.incident_id)
    said = None if acknowledgement is None else acknowledging.said(acknowledgement)
    return row(request, incident) | {"acknowledged": said}


def row(request: Request, incident: domain.Incident) -> dict[str, object]:
    """The members of `Incident`."""
    key, evidence = incident.key, incident.evidence
    entry = state_of(request).fleet.fleet.sites.entries.get(key.site or "")
    return {
        "id": incident.incident_id,
        "kind": key.kind,
        "site": key.site,
        "site_name": None if entry is None else entry.name or None,
        "code": None if key.code is None else shown_cause(key.code),
        "since": rfc3339(incident.since),
        "resumed_at": _moment(incident.resumed_at),
        "opened_at": rfc3339(incident.opened_at),
        "updated_at": rfc3339(incident.updated_at),
        "closed_at": _moment(incident.closed_at),
        "devices": evidence.devices,
        "of": evidence.of,
        "peak": incident.peak,
        "sites": evidence.sites,
        "usual": evidence.usual,
        "evidence": incident.sentence,
        "reopened": incident.reopened,
        "devices_url": _devices_url(request, incident),
    }


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)


def _devices_url(request: Request, incident: domain.Incident) -> str:
    key = incident.key
    asked: dict[str, str] = {}
    if key.site is not None:
        asked["site"] = key.site
    if key.code is not None:
        asked["cause"] = shown_cause(key.code)
    if key.kind is IncidentKind.SITE_SILENT:
        asked["heard_before"] = rfc3339(incident.began_at + _MILLISECOND)
    return f"{request.scope.get('root_path', '')}/api/devices?{urlencode(asked)}"
