"""`/api/recipients`: whom a worker tells of incidents and alerts, and what became of the last messages."""

from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from api import auth, models, problems
from api import recipients as changing
from api.auth import require
from api.bodies import hold_to, read_body
from api.directory.changes import FaultyMembersError
from api.directory.reading import read_object
from api.openapi import (
    OBJECT_BODY,
    PARAMETERS,
    UNAVAILABLE,
    UNEXPECTED,
    Responses,
    declare,
    object_body,
    object_responses,
)
from api.parameters import StrictRoute
from api.recipients import Asked
from api.state import state_of
from pisync import clock, limits
from pisync.clock import rfc3339
from pisync.domain import recipients as domain
from pisync.domain import topics
from pisync.domain.access import Role
from pisync.domain.actions import What
from pisync.domain.directory import Fault
from pisync.domain.notifications import MessageState
from pisync.domain.recipients import CHOICES, QUIET_PATTERN, Channel, KeptRecipient, Mode

router = APIRouter(tags=["operators"], route_class=StrictRoute)

_JSON: Final = "application/json"
RecipientId = Annotated[
    str,
    Path(
        pattern=models.DEVICE_ID_PATTERN,
        description="The recipient's id: " + topics.DEVICE_ID_RULE + ".",
        examples=["office"],
    ),
]
# As text, which the domain looks at: the type's own schema has topics that nobody chooses.
_Choice = Annotated[str, WithJsonSchema({"type": "string", "enum": [topic.value for topic in CHOICES]})]


class _Members(BaseModel):
    """What operators say of a recipient, but for what is secret."""

    sites: Annotated[
        list[str], Field(max_length=limits.RECIPIENT_CHOICES_MAX, description="Only of these; empty: of all.")
    ] = []
    labels: Annotated[
        list[str],
        Field(
            max_length=limits.RECIPIENT_CHOICES_MAX,
            description="Only of devices or sites with one of these; empty: of all.",
        ),
    ] = []
    topics: Annotated[list[_Choice], Field(description="Only of these; empty: of all.")] = []
    mode: Annotated[
        Mode, Field(description="`immediate`, or a `digest` each morning, also where nothing happened.")
    ] = Mode.IMMEDIATE
    morning: Annotated[str, Field(pattern="^([01][0-9]|2[0-3]):[0-5][0-9]$")] = "07:00"
    time_zone: Annotated[str, Field(max_length=limits.TIME_ZONE_CHARS_MAX)] = "UTC"
    quiet_hours: Annotated[
        str | None,
        Field(
            pattern=f"^{QUIET_PATTERN}$",
            description="Such as `22:00-06:00`: what is told waits for the end; not so digests and tests.",
        ),
    ] = None
    still_open_hours: Annotated[
        int,
        Field(
            ge=0,
            le=limits.STILL_OPEN_HOURS_MAX,
            description="Each so many hours, counted from `morning`, one that is `immediate` is told what"
            f" still is open, of each at most {limits.STILL_OPEN_TOLD_MAX} times; 0: never.",
        ),
    ] = limits.STILL_OPEN_HOURS
    disabled: bool = False


class RecipientMembers(_Members):
    """What operators say of a recipient; null is the same as nothing."""

    model_config = ConfigDict(extra="forbid")

    kind: Channel
    address: Annotated[
        str,
        Field(
            max_length=limits.RECIPIENT_ADDRESS_CHARS_MAX,
            description="The URL of a webhook, a mail address, or a URL as Apprise has it.",
        ),
    ]
    signing_key: Annotated[
        str,
        Field(
            min_length=limits.SIGNING_KEY_CHARS_MIN,
            max_length=limits.SIGNING_KEY_CHARS_MAX,
            description="Signs what is sent to a webhook. Without it a new one has a key made, and others"
            " keep theirs.",
        ),
    ] = ""


class RecipientChange(RecipientMembers):
    """Members of a recipient that change."""

    kind: Channel = Channel.WEBHOOK
    address: str = ""


class AttemptRow(BaseModel):
    """That a message was sent, or why not."""

    at: datetime
    message_id: str
    why: Annotated[str | None, Field(description="Why it was not sent; null: it was.")]


class RecipientEntry(_Members):
    """A recipient, and what became of the last messages."""

    recipient_id: str
    kind: Channel
    address: Annotated[str, Field(description="Cut where what follows may be secret.")]
    has_signing_key: bool
    next_digest: Annotated[datetime | None, Field(description="When it is due; null: it has none.")]
    changed_at: datetime
    failures: Annotated[int, Field(ge=0, description="So many attempts failed since the last that did not.")]
    failing_since: datetime | None
    attempts: Annotated[
        list[AttemptRow], Field(description=f"The newest {limits.RECIPIENT_ATTEMPTS_KEPT}, newest first.")
    ]


class ChangedRecipient(RecipientEntry):
    """A recipient that was changed."""

    signing_key: Annotated[
        str | None,
        Field(description="The key that was made for it, which is told only here; null: none was."),
    ]


class Recipients(BaseModel):
    """All recipients, by id."""

    recipients: list[RecipientEntry]


class SentTest(BaseModel):
    """A test that a worker sends within seconds."""

    message_id: str
    state: MessageState


_EXAMPLE: Final = {
    "kind": "webhook",
    "address": "https://hooks.example.org/pisync",
    "labels": ["pilot"],
    "quiet_hours": "22:00-06:00",
    "time_zone": "Africa/Kampala",
}
_UNKNOWN: Final[Responses] = {404: declare("There is no recipient with this id.")}


@router.get(
    "/recipients",
    dependencies=[require(Role.READ)],
    summary="Who is told what happens",
    response_model=None,
    responses=object_responses(Recipients, "All of them."),
)
async def recipients(request: Request) -> Response:
    """Whom a worker tells of incidents and alerts. What is secret of an address or a key is never told."""
    kept = await state_of(request).recipients.all()
    return _answer({"recipients": [_row(each) for each in kept]})


@router.get(
    "/recipients/{recipient_id}",
    dependencies=[require(Role.READ)],
    summary="A recipient, and the last messages to it",
    response_model=None,
    responses=object_responses(RecipientEntry, "The recipient.", _UNKNOWN),
)
async def recipient(request: Request, recipient_id: RecipientId) -> Response:
    """What operators said of it, and what became of the last messages."""
    return _answer(_row(await changing.find(state_of(request), recipient_id)))


@router.put(
    "/recipients/{recipient_id}",
    dependencies=[require(Role.OPERATE)],
    summary="Say all of a recipient",
    response_model=None,
    openapi_extra=object_body(RecipientMembers, recipient=_EXAMPLE),
    responses=object_responses(
        ChangedRecipient,
        "It is so, now or before.",
        OBJECT_BODY | {201: {"model": ChangedRecipient, "description": "The recipient is new."}},
    ),
)
async def put(request: Request, recipient_id: RecipientId) -> Response:
    """Takes the place of what was said before, but for the signing key. May be repeated."""
    return await _change(request, What.PUT, recipient_id)


@router.patch(
    "/recipients/{recipient_id}",
    dependencies=[require(Role.OPERATE)],
    summary="Change members of a recipient",
    response_model=None,
    openapi_extra=object_body(RecipientChange, recipient={"disabled": True}),
    responses=object_responses(ChangedRecipient, "It is so, now or before.", OBJECT_BODY | _UNKNOWN),
)
async def patch(request: Request, recipient_id: RecipientId) -> Response:
    """Changes the members that are given; null takes back what was said."""
    return await _change(request, What.PATCH, recipient_id)


@router.delete(
    "/recipients/{recipient_id}",
    dependencies=[require(Role.OPERATE)],
    summary="Delete a recipient",
    response_model=None,
    responses=object_responses(RecipientEntry, "It is deleted; this is what it was.", _UNKNOWN),
)
async def delete(request: Request, recipient_id: RecipientId) -> Response:
    """What waits for it is not sent any more."""
    return _answer(_row(await changing.delete(state_of(request), auth.who(request), recipient_id)))


@router.post(
    "/recipients/{recipient_id}/test",
    dependencies=[require(Role.OPERATE)],
    summary="Send a test to a recipient",
    response_model=None,
    responses={
        202: {"model": SentTest, "description": "A worker sends it; `attempts` tell what became of it."},
        **_UNKNOWN,
        409: declare("The recipient is disabled."),
        422: PARAMETERS,
        500: UNEXPECTED,
        503: UNAVAILABLE,
    },
)
async def send_test(request: Request, recipient_id: RecipientId) -> Response:
    """Also in quiet hours, at once, and only once."""
    message = await changing.send_test(state_of(request), auth.who(request), recipient_id)
    return _answer({"message_id": message.message_id, "state": message.state}, 202)


async def _change(request: Request, what: What, recipient_id: str) -> Response:
    """Make the change that the body asks for."""
    hold_to(request, _JSON)
    try:
        given = read_object(await read_body(request))
    except ValueError as error:
        return problems.members([Fault(None, str(error))])
    members, faults = domain.read_members(given)
    if faults:
        return problems.members(faults)
    asked = Asked(who=auth.who(request), what=what, recipient_id=recipient_id, members=members)
    try:
        changed = await changing.change(state_of(request), asked)
    except FaultyMembersError as error:
        return problems.members(error.faults)
    answer = {**_row(changed.kept), "signing_key": changed.made_key}
    return _answer(answer, 201 if changed.before is None else 200)


def _row(kept: KeptRecipient) -> dict[str, Any]:
    recipient = kept.recipient
    has_digests = recipient.mode is Mode.DIGEST and not recipient.disabled
    return {
        **domain.as_json(recipient),
        "next_digest": rfc3339(recipient.next_morning(clock.now())) if has_digests else None,
        "changed_at": rfc3339(kept.changed_at),
        "failures": kept.failures,
        "failing_since": None if kept.failing_since is None else rfc3339(kept.failing_since),
        "attempts": [
            {"at": rfc3339(each.at), "message_id": each.message_id, "why": each.why}
            for each in reversed(kept.attempts)
        ],
    }


def _answer(members: dict[str, Any], status: int = 200) -> Response:
    return Response(msgspec.json.encode(members), status, media_type=_JSON)
