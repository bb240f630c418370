"""`/api/dead-letters`: what could not be taken in, and the way to try it again."""

import base64
import re
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Final, Literal, Self

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field, WithJsonSchema
from starlette.exceptions import HTTPException

from api import models, paging, problems
from api.models import Count, DeviceId, DeviceIdFilter, NextUrl
from api.openapi import PARAMETERS, UNAVAILABLE, UNEXPECTED, declare, list_responses
from api.paging import list_page
from api.parameters import StrictRoute
from api.state import State, state_of
from pisync import clock, limits, logs
from pisync.clock import from_ms, rfc3339, to_ms
from pisync.domain import payloads, receipts
from pisync.domain.events import Reason
from pisync.domain.receipts import Receipt
from pisync.stores.interfaces.dead_letters import (
    ID_PATTERN,
    DeadLetterEntry,
    DeadLetterPosition,
    DeadLetterQuery,
    KeptDeadLetter,
    Replay,
)

log = logs.get("api.dead_letters")
router = APIRouter(tags=["operators"], route_class=StrictRoute)

# What the broker lets through, less room for the topic, the Response Topic and the other properties. A broker
# ends the connection over a larger packet, and with it every POST that waits for its receipt.
REPLAY_BYTES_MAX: Final = limits.BROKER_PACKET_BYTES_MAX - 1024

_UNKNOWN: Final = declare("There is no such dead letter.")

DeadLetterId = Annotated[str, Path(description="The dead letter's id.", examples=["0" * 32])]
_ID: Final = re.compile(ID_PATTERN)


class Preview(BaseModel):
    """The beginning of a payload."""

    encoding: Annotated[
        Literal["text", "base64"], Field(description="`base64` where the payload does not begin as UTF-8.")
    ]
    content: Annotated[
        str,
        Field(
            description=f"The first {payloads.PREVIEW_CHARS_MAX} characters or so;"
            r" in text, those that cannot be seen are escaped as `\n`, `\x1b`, `\u202e`."
        ),
    ]
    truncated: Annotated[bool, Field(description="Whether the payload goes on.")]


class ReplayOutcome(BaseModel):
    """How many events of a replayed letter were stored, stored before, and rejected."""

    stored: Count
    duplicates: Count
    rejected: Count


class _DeadLetter(BaseModel):
    id: Annotated[str, Field(pattern=f"^{ID_PATTERN}$")]
    reason: Reason
    detail: str
    topic: Annotated[str, Field(description="The MQTT topic that it came on.")]
    device_id: Annotated[DeviceId | None, Field(description="The device in the topic; null: there is none.")]
    received_at: Annotated[datetime, Field(description="When it came first.")]
    last_received_at: Annotated[datetime, Field(description="When it came last.")]
    size_bytes: Count
    replayed_at: Annotated[datetime | None, Field(description="When a replay took it in, the latest one.")]
    replay_outcome: ReplayOutcome | None


class DeadLetterRow(_DeadLetter):
    """A message, or one event of a message, that could not be taken in."""

    preview: Preview


class DeadLetters(BaseModel):
    """A page of dead letters, newest first."""

    dead_letters: list[DeadLetterRow]
    next: NextUrl


class DeadLetter(_DeadLetter):
    """A dead letter with its payload."""

    raw_base64: Annotated[str, Field(description="The payload.")]
    text: Annotated[str | None, Field(description="The payload as text; null where it is not UTF-8.")]


class DeadLettersCursor(paging.Cursor, frozen=True):
    """The last dead letter of a page."""

    received_ms: Annotated[int, msgspec.Meta(ge=0, le=to_ms(datetime.max.replace(tzinfo=UTC)))]
    dead_letter_id: Annotated[str, msgspec.Meta(pattern=rf"^{ID_PATTERN}\Z")]

    @classmethod
    def of(cls, entry: DeadLetterEntry) -> Self:
        """The cursor that continues after this dead letter."""
        return cls(to_ms(entry.received_at), entry.dead_letter_id)

    def position(self) -> DeadLetterPosition:
        """Where the store goes on."""
        return DeadLetterPosition(received_at=from_ms(self.received_ms), dead_letter_id=self.dead_letter_id)


@router.get(
    "/dead-letters",
    summary="What could not be taken in, newest first",
    response_model=None,
    responses=list_responses(DeadLetters),
)
async def dead_letters(
    *,
    request: Request,
    reason: Annotated[
        Reason | None,
        WithJsonSchema({"type": "string", "enum": list(Reason)}),
        Query(description="Only dead letters rejected for this reason."),
    ] = None,
    device_id: Annotated[
        DeviceIdFilter, Query(description="Only dead letters that came on this device's topic.")
    ] = None,
    since: Annotated[
        paging.MomentUp, Query(description=paging.SINCE + " By when a letter came first.")
    ] = None,
    until: Annotated[
        paging.MomentUp, Query(description=paging.UNTIL + " By when a letter came first.")
    ] = None,
    replayed: Annotated[
        bool | None,
        WithJsonSchema({"type": "boolean"}),
        Query(description="Only dead letters that a replay took in, or only the others."),
    ] = None,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    cursor: paging.CursorText = None,
) -> Response:
    """The same bytes on the same topic, rejected for the same reason, are one letter.

    Newest first by `received_at`, when a letter came first.
    """
    end = DeadLettersCursor.decode(cursor)
    query = DeadLetterQuery(
        limit=limit + 1,
        reason=reason,
        device_id=device_id,
        before=until,
        after=paging.just_before(since),
        replayed=replayed,
        position=None if end is None else end.position(),
    )
    return list_page(
        request,
        "dead_letters",
        await state_of(request).dead_letters.find(query),
        limit=limit,
        next_parameters=lambda entry: {"cursor": DeadLettersCursor.of(entry).encode()},
        moments={"since": since, "until": until},
        as_json=_row,
    )


@router.get(
    "/dead-letters/{dead_letter_id}",
    summary="One dead letter with its payload",
    response_model=None,
    responses={
        200: {"model": DeadLetter, "description": "The letter."},
        404: _UNKNOWN,
        422: PARAMETERS,
        500: UNEXPECTED,
        503: UNAVAILABLE,
    },
)
async def dead_letter(request: Request, dead_letter_id: DeadLetterId) -> Response:
    """The payload is from outside and may hold anything: who displays its `text` has to escape it."""
    kept = await _kept(state_of(request), dead_letter_id)
    try:
        text = kept.raw.decode()
    except UnicodeDecodeError:
        text = None
    body = _fields(kept.entry) | {"raw_base64": base64.b64encode(kept.raw).decode(), "text": text}
    return Response(msgspec.json.encode(body), media_type="application/json")


@router.post(
    "/dead-letters/{dead_letter_id}/replay",
    summary="Publish a dead letter's payload again",
    response_model=None,
    responses={
        200: {"model": models.Receipt, "description": "At least one event was stored, now or before."},
        404: _UNKNOWN,
        409: declare("The letter cannot be published again: its topic named no device, or it is too large."),
        422: declare(
            "Everything in it was rejected again; `errors` says why. Or there are parameters.",
            problems.EventsProblem,
            problems.ParametersProblem,
        ),
        500: UNEXPECTED,
        503: UNAVAILABLE,
    },
)
async def replay(request: Request, dead_letter_id: DeadLetterId) -> Response:
    """The payload goes the way of every message, as it is; repeating is safe, a duplicate counts once.

    A letter that was taken in is marked with the time and the outcome: an operator's action, and the only
    thing that the api itself writes to MongoDB. One that is rejected again stays as it is.
    """
    state = state_of(request)
    kept = await _kept(state, dead_letter_id)
    if kept.entry.device_id is None:
        raise HTTPException(
            HTTPStatus.CONFLICT, "The letter's topic named no device, so there is none to publish it for."
        )
    if len(kept.raw) > REPLAY_BYTES_MAX:
        raise HTTPException(
            HTTPStatus.CONFLICT,
            f"The letter has {len(kept.raw)} bytes; the broker lets no more than {REPLAY_BYTES_MAX} through.",
        )
    receipt = await state.publisher.publish(kept.entry.device_id, kept.raw)
    if not (receipt.stored or receipt.duplicates):
        return problems.rejected(HTTPStatus.UNPROCESSABLE_ENTITY, receipt.rejected)
    await state.dead_letters.record_replay(dead_letter_id, _replay(receipt))
    log.info("dead letter replayed", id=dead_letter_id, stored=receipt.stored, duplicates=receipt.duplicates)
    return Response(receipts.encode(receipt), media_type="application/json")


async def _kept(state: State, dead_letter_id: str) -> KeptDeadLetter:
    kept = await state.dead_letters.get(dead_letter_id) if _ID.fullmatch(dead_letter_id) else None
    if kept is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, "There is no dead letter with this id.")
    return kept


def _replay(receipt: Receipt) -> Replay:
    return Replay(
        replayed_at=clock.now(),
        stored=receipt.stored,
        duplicates=receipt.duplicates,
        rejected=len(receipt.rejected),
    )


def _row(entry: DeadLetterEntry) -> dict[str, object]:
    return _fields(entry) | {"preview": payloads.preview(entry.head, entry.size_bytes)}


def _fields(entry: DeadLetterEntry) -> dict[str, object]:
    done = entry.replay
    return {
        "id": entry.dead_letter_id,
        "reason": entry.reason,
        "detail": entry.detail,
        "topic": entry.topic,
        "device_id": entry.device_id,
        "received_at": rfc3339(entry.received_at),
        "last_received_at": rfc3339(entry.last_received_at),
        "size_bytes": entry.size_bytes,
        "replayed_at": None if done is None else rfc3339(done.replayed_at),
        "replay_outcome": None
        if done is None
        else {"stored": done.stored, "duplicates": done.duplicates, "rejected": done.rejected},
    }
