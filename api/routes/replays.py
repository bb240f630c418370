"""`/api/dead-letters/{id}/replay`: a dead letter tried again, as it is or with a corrected clock.

A correction is looked at first, and confirmed. It is written down on the letter before anything is sent, so
that no second one can store the same events twice, whatever becomes of the api in between.
"""

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import AfterValidator, BaseModel, Field, WithJsonSchema
from starlette.exceptions import HTTPException

from api import auth, correcting, corrections, models, problems, replaying
from api.auth import require
from api.correcting import Plan
from api.directory.changes import told_why
from api.models import DeviceId
from api.openapi import UNAVAILABLE, UNEXPECTED, declare
from api.parameters import StrictRoute
from api.replaying import Prepared
from api.routes.dead_letters import UNKNOWN, DeadLetterId, ReplayOutcome, kept_letter
from api.state import State, state_of
from api.writing_down import written_down
from pisync import clock, limits, logs
from pisync.domain import receipts
from pisync.domain.access import Role
from pisync.domain.actions import About, What
from pisync.domain.dead_letters import ID_PATTERN
from pisync.domain.events import Reason, Rejection
from pisync.domain.receipts import Receipt
from pisync.stores.interfaces.dead_letters import Correction, KeptDeadLetter, Replay

log = logs.get("api.dead_letters")
router = APIRouter(tags=["operators"], route_class=StrictRoute)

_ATTEMPT_BYTES: Final = 8

_OTHERWISE: Final = (
    "The letter cannot be published again: its topic named no device, or only its head is kept. Or, with a"
    " correction: its events were sent with another one before, or are not what `confirm` confirms."
)


class CorrectedEvent(BaseModel):
    """One event, with its time as the device gave it, and as the correction makes it."""

    index: Annotated[int | None, Field(description="Its place in the letter's message.")]
    timestamp: Annotated[str, Field(description="The device's own.")]
    corrected: datetime
    expect: Annotated[
        Literal["stored", "duplicate", "rejected"],
        Field(description="What becomes of it, as things stand: the bridge decides when it is sent."),
    ]
    reason: Annotated[Reason | None, Field(description="Why it is rejected; else null.")]
    detail: str | None


class CorrectionPreview(BaseModel):
    """What a correction makes of a letter's events that were rejected for a clock; nothing is sent."""

    id: Annotated[str, Field(pattern=f"^{ID_PATTERN}$")]
    device_id: DeviceId
    reason: Annotated[
        Reason, Field(description="The events that were rejected for this; no others are sent.")
    ]
    correction: Annotated[str, Field(description="As it was stated.")]
    offset: Annotated[str, Field(description="What it adds to the device's times.", examples=["-60d"])]
    confirm: Annotated[
        str, Field(description="What a POST with this correction has to bring: it stands for these events.")
    ]
    expected: ReplayOutcome
    events: list[CorrectedEvent]


def stated(text: str) -> str:
    """A correction as it was stated, with the plus that a URL makes a space."""
    if text == corrections.RECEIVED_AT:
        return text
    corrections.parse_offset(text)
    return f"+{text[1:]}" if text[:1] == " " else text


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be of characters that can be printed")
    return text


_CORRECTION: Final = (
    "How the times of the events that were rejected as `clock_ahead` or `clock_unset` are put right."
    " `received_at`: the newest of them happened when the letter came first, the others as long before it as"
    " the device says. Or what is added to the device's times: `-60d`, `-1h30m`, `+90s`, `-P60DT1H`"
    " (units `w`, `d`, `h`, `m`, `s`, `ms`; ISO 8601)."
)
_EXAMPLES: Final[Any] = {
    "receipt": {"summary": "The newest happened when it came", "value": "received_at"},
    "offset": {"summary": "The clock was 60 days ahead", "value": "-60d"},
}
_PREVIEW: Final = {
    "id": "0" * 32,
    "device_id": "PB-000123",
    "reason": Reason.CLOCK_AHEAD,
    "correction": "-60d",
    "offset": "-60d",
    "confirm": "5f1d3c0e9a7b44d2b8c6e0f1a2938475",
    "expected": {"stored": 1, "duplicates": 0, "rejected": 1},
    "events": [
        {
            "index": 3,
            "timestamp": "2026-07-07T12:00:00Z",
            "corrected": "2026-05-08T12:00:00.000Z",
            "expect": "stored",
            "reason": None,
            "detail": None,
        },
        {
            "index": 4,
            "timestamp": "2026-12-07T12:00:00Z",
            "corrected": "2026-10-08T12:00:00.000Z",
            "expect": "rejected",
            "reason": Reason.CLOCK_AHEAD,
            "detail": "timestamp 2026-10-08T12:00:00+00:00 is more than 10 minutes ahead of the receiver's"
            " clock - at `$.timestamp`",
        },
    ],
}
_SCHEMA: Final = WithJsonSchema({"type": "string", "pattern": corrections.PATTERN})
CorrectionText = Annotated[
    str, AfterValidator(stated), _SCHEMA, Query(description=_CORRECTION, openapi_examples=_EXAMPLES)
]
OnlyClock = Annotated[
    Literal["clock_ahead", "clock_unset"] | None,
    WithJsonSchema({"type": "string", "enum": list(replaying.CLOCK_REASONS)}),
    Query(description="Which events are corrected; needed where the letter has some of both."),
]


@router.get(
    "/dead-letters/{dead_letter_id}/replay",
    dependencies=[require(Role.READ)],
    summary="What a replay with a corrected clock would send",
    response_model=None,
    responses={
        200: {
            "model": CorrectionPreview,
            "description": "Each event before and after, and what to expect.",
            "content": {"application/json": {"example": _PREVIEW}},
        },
        404: UNKNOWN,
        409: declare(_OTHERWISE),
        422: declare(
            "A parameter is not valid, or nothing in the letter was rejected for a clock. Or an event cannot"
            " be read.",
            problems.EventsProblem,
            problems.ParametersProblem,
        ),
        500: UNEXPECTED,
        503: UNAVAILABLE,
    },
)
async def preview(
    *,
    request: Request,
    dead_letter_id: DeadLetterId,
    correction: CorrectionText,
    reason: OnlyClock = None,
) -> Response:
    """Nothing is sent, nothing is written. `confirm` goes into the POST that sends exactly these events."""
    state = state_of(request)
    kept = await kept_letter(state, dead_letter_id)
    try:
        plan = correcting.plan(kept, correction, reason, clock.now())
    except RecursionError:
        return _answer(_too_deep())
    events = await correcting.expected(state.events, plan)
    counts = [one["expect"] for one in events]
    body = {
        "id": dead_letter_id,
        "device_id": plan.device_id,
        "reason": plan.reason,
        "correction": plan.stated,
        "offset": corrections.offset_text(plan.offset_ms),
        "confirm": plan.confirm,
        "expected": {
            "stored": counts.count("stored"),
            "duplicates": counts.count("duplicate"),
            "rejected": counts.count("rejected"),
        },
        "events": events,
    }
    return Response(msgspec.json.encode(body), media_type="application/json")


@router.post(
    "/dead-letters/{dead_letter_id}/replay",
    dependencies=[require(Role.OPERATE)],
    summary="Publish what can be taken of a dead letter again",
    response_model=None,
    responses={
        200: {"model": models.Receipt, "description": "At least one event was stored, now or before."},
        404: UNKNOWN,
        409: declare(_OTHERWISE),
        422: declare(
            "Everything in it was rejected again; `errors` says why. Or a parameter is not valid.",
            problems.EventsProblem,
            problems.ParametersProblem,
        ),
        500: UNEXPECTED,
        503: UNAVAILABLE,
    },
)
async def replay(
    *,
    request: Request,
    dead_letter_id: DeadLetterId,
    correction: Annotated[
        str | None,
        AfterValidator(stated),
        _SCHEMA,
        Query(description=_CORRECTION, openapi_examples=_EXAMPLES),
    ] = None,
    reason: OnlyClock = None,
    confirm: Annotated[
        str | None,
        WithJsonSchema({"type": "string"}),
        Query(description="With a correction: what GET with the same correction returned."),
    ] = None,
    confirmed_by: Annotated[
        str | None,
        Field(min_length=1, max_length=limits.CONFIRMED_BY_CHARS_MAX),
        AfterValidator(_printable),
        WithJsonSchema({"type": "string", "minLength": 1, "maxLength": limits.CONFIRMED_BY_CHARS_MAX}),
        Query(description="With a correction: who confirms it; it is kept with the letter."),
    ] = None,
) -> Response:
    """The events go the way of every message; repeating is safe, a duplicate counts once.

    Without a correction they go as they are: an event that cannot be valid, whatever is stored and whatever
    the time is, is not sent again; a message of too many events is sent as several. With a correction only
    those go that were rejected for a clock, with other times. A letter of which something was taken in is
    marked with the time and the outcome. One that is rejected again stays as it is. `index` is the place in
    the letter's message.
    """
    asked = Asked(correction=correction, reason=reason, confirm=confirm, confirmed_by=confirmed_by)
    return await carry_out(state_of(request), dead_letter_id, asked, who=auth.who(request))


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """How a letter is to be sent: as it is, or with a correction that somebody confirms."""

    correction: str | None = None
    reason: OnlyClock = None
    confirm: str | None = None
    confirmed_by: str | None = None


async def carry_out(state: State, dead_letter_id: str, asked: Asked, *, who: str, why: str = "") -> Response:
    """Publish what can be taken of a letter, as an action of `who`; the endpoint's answer.

    Raises:
        HTTPException: 404, there is none with this id; 409, it cannot be published so.
        RequestValidationError: what was asked does not go together.
        BrokerUnavailable: the broker or a receipt is missing; repeating is safe.
    """
    kept = await kept_letter(state, dead_letter_id)
    now = clock.now()
    try:
        plan = _planned(kept, asked, now)
    except RecursionError:
        return _answer(_too_deep())
    details = {**told_why(why), "correction": asked.correction}
    async with written_down(state, who, What.REPLAY, About.DEAD_LETTERS, dead_letter_id, **details) as (
        _,
        told,
    ):
        if plan is None:
            receipt = await as_it_is(state, kept, now)
        else:
            receipt = await _corrected(state, plan, asked.confirmed_by, now)
        told |= {
            "stored": receipt.stored,
            "duplicates": receipt.duplicates,
            "rejected": len(receipt.rejected),
        }
    return _answer(receipt)


def _planned(kept: KeptDeadLetter, asked: Asked, now: datetime) -> Plan | None:
    """What a correction sends, which was confirmed; None: the letter goes as it is."""
    if asked.correction is None:
        for name in ("reason", "confirm", "confirmed_by"):
            if getattr(asked, name) is not None:
                raise correcting.fault(name, "belongs to a correction, and there is none")
        return None
    plan = correcting.plan(kept, asked.correction, asked.reason, now)
    if asked.confirm is None:
        raise correcting.fault(
            "confirm", "is needed with a correction: a GET shows what would be sent, and says it"
        )
    if asked.confirm != plan.confirm:
        raise HTTPException(
            HTTPStatus.CONFLICT, "This is not what would be sent: look at it again, and confirm that."
        )
    return plan


async def as_it_is(state: State, kept: KeptDeadLetter, now: datetime) -> Receipt:
    """Publish what of a letter can be taken, with the device's own times; one receipt over all of it.

    Raises:
        HTTPException: 409, it cannot be published again.
        BrokerUnavailable: the broker or a receipt is missing; repeating is safe.
    """
    device_id = correcting.device(kept)
    again = replaying.prepare(kept, device_id, now)
    try:
        ahead = {index for index, _ in replaying.rejected_for(kept, device_id, Reason.CLOCK_AHEAD)}
    except RecursionError:
        return _too_deep()
    if not again.sends(ahead):
        return await _send(state, kept, again)
    # Its time may have come; but where it was stored with another time before, it would count twice.
    as_it_is = Correction(
        reason=Reason.CLOCK_AHEAD, offset_ms=0, stated="", confirmed_by=None, confirmed_at=now
    )
    attempt = secrets.token_hex(_ATTEMPT_BYTES)
    other = await _claim(state, kept, as_it_is, attempt)
    if other is None:
        return await _send(state, kept, again, correction=as_it_is, attempt=attempt, places=ahead)
    others = replaying.prepare(kept, device_id, now, without=ahead)
    detail = correcting.told(other)[: limits.DETAIL_CHARS_MAX]
    sent_before = [Rejection(index=index, reason=Reason.CLOCK_AHEAD, detail=detail) for index in ahead]
    again = Prepared(messages=others.messages, rejections=[*others.rejections, *sent_before])
    return await _send(state, kept, again)


async def _corrected(state: State, plan: Plan, confirmed_by: str | None, now: datetime) -> Receipt:
    again = replaying.prepare_corrected(plan.events)
    if not again.messages:
        return receipts.receipt(stored=0, duplicates=0, rejections=again.rejections)
    correction = Correction(
        reason=plan.reason,
        offset_ms=plan.offset_ms,
        stated=plan.stated,
        confirmed_by=confirmed_by,
        confirmed_at=now,
    )
    attempt = secrets.token_hex(_ATTEMPT_BYTES)
    other = await _claim(state, plan.kept, correction, attempt)
    if other is not None:
        raise HTTPException(HTTPStatus.CONFLICT, correcting.told(other))
    places = {one.index for one in plan.events}
    return await _send(state, plan.kept, again, correction=correction, attempt=attempt, places=places)


async def _claim(
    state: State, kept: KeptDeadLetter, correction: Correction, attempt: str
) -> Correction | None:
    """Write down that the events are sent with this; returns the other one that stands in the way, if any."""
    state.publisher.check_ready()  # what surely cannot be sent is not written down
    dead_letter_id = kept.entry.dead_letter_id
    if await state.dead_letters.claim_correction(dead_letter_id, correction, attempt):
        return None
    present = await kept_letter(state, dead_letter_id)
    for other in present.entry.corrections:
        if other.reason is correction.reason:
            return other
    raise HTTPException(HTTPStatus.CONFLICT, "Another replay of this letter ended just now: repeat this one.")


def _too_deep() -> Receipt:
    deep = Rejection(index=None, reason=Reason.MALFORMED, detail="nested too deeply")
    return receipts.receipt(stored=0, duplicates=0, rejections=[deep])


def _answer(receipt: Receipt) -> Response:
    if not (receipt.stored or receipt.duplicates):
        return problems.rejected(HTTPStatus.UNPROCESSABLE_ENTITY, receipt.rejected)
    return Response(receipts.encode(receipt), media_type="application/json")


async def _send(
    state: State,
    kept: KeptDeadLetter,
    again: Prepared,
    *,
    correction: Correction | None = None,
    attempt: str = "",
    places: Collection[int | None] = (),
) -> Receipt:
    """Publish, and record what was taken in; `places` are those that go with the correction."""
    entry = kept.entry
    device_id = correcting.device(kept)
    answers = [await state.publisher.publish(device_id, message.payload) for message in again.messages]
    receipt = again.receipt(answers)
    done = Replay(
        replayed_at=clock.now(),
        stored=receipt.stored,
        duplicates=receipt.duplicates,
        rejected=len(receipt.rejected),
    )
    if correction is not None:
        taken = done if again.taken(answers, places) else None
        await state.dead_letters.settle_correction(entry.dead_letter_id, correction, attempt, taken)
    if not (receipt.stored or receipt.duplicates):
        return receipt
    await state.dead_letters.record_replay(entry.dead_letter_id, done)
    how: dict[str, object] = {}
    if correction is not None and correction.offset_ms:
        how = {
            "device_id": device_id,
            "reason": correction.reason,
            "offset": corrections.offset_text(correction.offset_ms),
            "confirmed_by": correction.confirmed_by,
        }
    log.info(
        "dead letter replayed",
        id=entry.dead_letter_id,
        stored=receipt.stored,
        duplicates=receipt.duplicates,
        **how,
    )
    return receipt
