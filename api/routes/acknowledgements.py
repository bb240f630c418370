"""`/api/acknowledgements`, `/api/causes/{code}/acknowledgement`: what operators know of, and until when."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from api import acknowledging, auth, models, paging, problems
from api.acknowledging import Asked, Told
from api.auth import require
from api.bodies import hold_to, read_body
from api.directory.reading import read_object
from api.models import NextUrl
from api.openapi import OBJECT_BODY, Responses, declare, list_responses, object_body, object_responses
from api.paging import list_page
from api.parameters import StrictRoute
from api.state import state_of
from pisync import clock, limits
from pisync.domain import acknowledgements as domain
from pisync.domain.access import Role
from pisync.domain.acknowledgements import NO_CODE, Subject, SubjectKind, Why
from pisync.domain.alerts import Rule
from pisync.domain.directory import CONTROL_CHARACTERS, Fault
from pisync.stores.interfaces.acknowledgements import AcknowledgementQuery

router = APIRouter(tags=["operators"], route_class=StrictRoute)

_JSON: Final = "application/json"
_EXAMPLE: Final = {"until": "2026-12-01T00:00:00Z", "reason": "The line is repaired in November."}
_MORE_EXAMPLE: Final = {"until": {"more_devices": 10}, "reason": "The provider knows of it."}

Reason = Annotated[
    str,
    Field(
        pattern=f"^[^{CONTROL_CHARACTERS}]*$",
        max_length=limits.ACKNOWLEDGEMENT_REASON_CHARS_MAX,
        description="Why, for those who ask later.",
    ),
]


class MoreDevices(BaseModel):
    """Until so many devices more fail by the cause, or are in the incident, than when that was said."""

    model_config = ConfigDict(extra="forbid")

    more_devices: Annotated[int, Field(ge=1, le=limits.ACKNOWLEDGEMENT_MORE_DEVICES_MAX)]


class AlertAcknowledging(BaseModel):
    """How long an alert is to be quiet; it is over when the alert closes in any case."""

    model_config = ConfigDict(extra="forbid")

    until: Annotated[
        Literal["recovery"] | datetime, Field(description="`recovery`, or a moment that is to come.")
    ]
    reason: Reason = ""


class CauseAcknowledging(BaseModel):
    """How long a cause is to be quiet."""

    model_config = ConfigDict(extra="forbid")

    until: Annotated[
        Literal["recovery"] | datetime | MoreDevices,
        Field(
            description="`recovery`: no device fails by it any more; a moment that is to come; or so many"
            " devices more than fail by it now."
        ),
    ]
    reason: Reason = ""


class IncidentAcknowledging(BaseModel):
    """How long an incident is to be quiet; that is over when it is closed in any case."""

    model_config = ConfigDict(extra="forbid")

    until: Annotated[
        Literal["recovery"] | datetime | MoreDevices,
        Field(
            description="`recovery`: it is closed; a moment that is to come; or so many devices more are in"
            " it than now."
        ),
    ]
    reason: Reason = ""


class AcknowledgementEnd(BaseModel):
    """When and why it ended."""

    at: Annotated[
        datetime,
        Field(
            description="Of a cause that recovered or has come to too many devices: when that was noticed."
        ),
    ]
    why: Annotated[
        Why,
        Field(
            description="What it was to last until: `recovery`, `moment`, `more_devices`; or an operator:"
            " `replaced` by another one, `taken_back`."
        ),
    ]
    by: Annotated[str | None, Field(description="The operator who ended it; null: nobody did.")]


class Said(BaseModel):
    """What an operator said of an alert, an incident or a cause."""

    by: Annotated[str, Field(description="The name of the key or user; `unknown`: the api asked for none.")]
    at: datetime
    reason: str
    until: Literal["recovery"] | datetime | MoreDevices


class Acknowledgement(Said):
    """That an operator knows of an alert, of an incident or of a cause."""

    id: Annotated[str, Field(description="Opaque; the id of its action, too.")]
    kind: SubjectKind
    alert_id: Annotated[str | None, Field(description="The alert that is acknowledged; else null.")]
    device_id: Annotated[models.DeviceId | None, Field(description="The alert's device.")]
    rule: Annotated[Rule | None, Field(description="The alert's rule.")]
    incident_id: Annotated[str | None, Field(description="The incident that is acknowledged; else null.")]
    code: Annotated[
        str | None, Field(description=f"The cause that is acknowledged; else null. `{NO_CODE}`: no code.")
    ]
    devices: Annotated[
        int | None,
        Field(
            ge=0,
            description="How many failed by the cause, or were in the incident, then; null: not known.",
        ),
    ]
    devices_now: Annotated[
        int | None,
        Field(
            ge=0,
            description="How many do, or are, now. Null: an alert, or not surely known; what goes by their"
            " number stays quiet meanwhile.",
        ),
    ]
    back_at: Annotated[
        int | None,
        Field(ge=0, description="It is over when so many do, or are; null: it does not go by that."),
    ]
    ended: Annotated[AcknowledgementEnd | None, Field(description="null: it is quiet.")]


class Acknowledgements(BaseModel):
    """A page of acknowledgements, newest first."""

    acknowledgements: list[Acknowledgement]
    next: NextUrl


class AcknowledgementsCursor(paging.Cursor, frozen=True):
    """The last acknowledgement of a page."""

    acknowledgement_id: Annotated[str, msgspec.Meta(min_length=1)]


class AcknowledgementState(StrEnum):
    """Which acknowledgements are listed."""

    OPEN = "open"
    ENDED = "ended"
    ALL = "all"


_IS_OPEN: Final = {
    AcknowledgementState.OPEN: True,
    AcknowledgementState.ENDED: False,
    AcknowledgementState.ALL: None,
}
Code = Annotated[
    str,
    Path(
        min_length=1,
        max_length=limits.ERROR_CODE_CHARS_MAX,
        description="The code of the newest failure of devices that fail now, percent-encoded;"
        f" `{NO_CODE}`: those that gave none.",
        examples=["E_TIMEOUT"],
    ),
]


def answers(description: str, others: Responses | None = None) -> Responses:
    """The answers of a route that acknowledges, or takes that back."""
    return object_responses(Acknowledgement, description, others)


ACKNOWLEDGING: Final[Responses] = OBJECT_BODY | {
    201: {"model": Acknowledgement, "description": "It is acknowledged, in place of what was said of it."}
}


@router.put(
    "/causes/{code:path}/acknowledgement",
    dependencies=[require(Role.OPERATE)],
    summary="Acknowledge a cause",
    response_model=None,
    openapi_extra=object_body(CauseAcknowledging, more_devices=_MORE_EXAMPLE, moment=_EXAMPLE),
    responses=answers(
        "It said the same before.", ACKNOWLEDGING | {409: declare("No device fails by the code now.")}
    ),
)
async def put_cause(*, request: Request, code: Code) -> Response:
    """The cause is quiet until then. May be repeated; what is said anew takes the place of what was said.

    A recovery is over when no device fails by the code. A moment does not end earlier, whatever happens.
    With `more_devices`, it counts how many fail by the code now and is over when that and so many more do.
    """
    return await acknowledged(request, Subject(kind=SubjectKind.CAUSES, target=code))


@router.delete(
    "/causes/{code:path}/acknowledgement",
    dependencies=[require(Role.OPERATE)],
    summary="Take the acknowledgement of a cause back",
    response_model=None,
    responses=answers("It is taken back; this is what it was.", {404: declare("It is not acknowledged.")}),
)
async def delete_cause(*, request: Request, code: Code) -> Response:
    """The cause is loud again."""
    return await taken_back(request, Subject(kind=SubjectKind.CAUSES, target=code))


@router.get(
    "/acknowledgements",
    dependencies=[require(Role.READ)],
    summary="What is acknowledged, and what was, newest first",
    response_model=None,
    responses=list_responses(Acknowledgements),
)
async def acknowledgements(
    *,
    request: Request,
    state: Annotated[
        AcknowledgementState,
        Query(
            description="Which ones. One that ended by itself is among the open ones, with its end, until the"
            " worker has written that down."
        ),
    ] = AcknowledgementState.ALL,
    kind: Annotated[
        SubjectKind | None,
        WithJsonSchema({"type": "string", "enum": list(SubjectKind)}),
        Query(description="Only those of these."),
    ] = None,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    cursor: paging.CursorText = None,
) -> Response:
    """Who acknowledged what, why, until when, and how it ended. Kept for good."""
    end = AcknowledgementsCursor.decode(cursor)
    query = AcknowledgementQuery(
        limit=limit + 1,
        is_open=_IS_OPEN[state],
        kind=kind,
        before=None if end is None else end.acknowledgement_id,
    )
    pisync = state_of(request)
    return list_page(
        request,
        "acknowledgements",
        await acknowledging.told(pisync, await pisync.acknowledgements.find(query)),
        limit=limit,
        next_parameters=lambda row: {
            "cursor": AcknowledgementsCursor(row.acknowledgement.acknowledgement_id).encode()
        },
        as_json=acknowledging.as_json,
    )


async def acknowledged(request: Request, subject: Subject) -> Response:
    """Acknowledge an alert, an incident or a cause as the body of a request says."""
    hold_to(request, _JSON)
    try:
        given = read_object(await read_body(request))
    except ValueError as error:
        return problems.members([Fault(None, str(error))])
    until, reason, faults = domain.read(subject.kind, given, clock.now())
    if faults:
        return problems.members(faults)
    asked = Asked(who=auth.who(request), subject=subject, until=until, reason=reason)
    told, is_new = await acknowledging.acknowledge(state_of(request), asked)
    return _answer(told, 201 if is_new else 200)


async def taken_back(request: Request, subject: Subject) -> Response:
    """Take back what was said of an alert, an incident or a cause."""
    return _answer(await acknowledging.take_back(state_of(request), auth.who(request), subject))


def _answer(told: Told, status: int = 200) -> Response:
    return Response(msgspec.json.encode(acknowledging.as_json(told)), status, media_type=_JSON)
