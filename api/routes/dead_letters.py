"""`/api/dead-letters`: what could not be taken in, and the way to try it again."""

import base64
import re
from http import HTTPStatus
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import WithJsonSchema
from starlette.exceptions import HTTPException

from api import paging, problems, schemas
from api.openapi import LINK, PARAMETERS, UNAVAILABLE, UNEXPECTED, declare
from api.state import Injected, Parts
from pisync import clock, limits, logs
from pisync.clock import rfc3339
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
router = APIRouter(tags=["operators"])

# What the broker lets through, less room for the topic, the Response Topic and the other properties. A broker
# ends the connection over a larger packet, and with it every POST that waits for its receipt.
REPLAY_BYTES_MAX: Final = limits.BROKER_PACKET_BYTES_MAX - 1024

_UNKNOWN: Final = declare("There is no such dead letter.")

LetterId = Annotated[str, Path(description="The dead letter's id.", examples=["0" * 32])]
_ID: Final = re.compile(ID_PATTERN)


@router.get(
    "/dead-letters",
    summary="What could not be taken in, newest first",
    response_model=None,
    responses={
        200: {"model": schemas.DeadLetters, "description": "A page.", "headers": LINK},
        422: PARAMETERS,
        500: UNEXPECTED,
        503: UNAVAILABLE,
    },
)
async def dead_letters(
    *,
    request: Request,
    parts: Injected,
    reason: Annotated[
        Reason | None,
        WithJsonSchema({"type": "string", "enum": list(Reason)}),
        Query(description="Only letters rejected for this reason."),
    ] = None,
    device_id: Annotated[
        str | None,
        WithJsonSchema({"type": "string", "pattern": schemas.DEVICE_ID_PATTERN}),
        Query(
            pattern=schemas.DEVICE_ID_PATTERN, description="Only letters that came on this device's topic."
        ),
    ] = None,
    before: Annotated[paging.MomentUp, Query(description="Only letters first received before this.")] = None,
    after: Annotated[paging.MomentDown, Query(description="Only letters first received after this.")] = None,
    replayed: Annotated[
        bool | None,
        WithJsonSchema({"type": "boolean"}),
        Query(description="Only letters that a replay took in, or only the others."),
    ] = None,
    limit: paging.Limit = limits.PAGE_DEFAULT,
    cursor: Annotated[
        str | None,
        WithJsonSchema({"type": "string"}),
        Query(description="From the `next` link of the page before."),
    ] = None,
) -> Response:
    """The same bytes on the same topic, rejected for the same reason, are one letter.

    Newest first by `received_at`, when a letter came first.
    """
    query = DeadLetterQuery(
        limit=limit + 1,
        reason=reason,
        device_id=device_id,
        before=before,
        after=after,
        replayed=replayed,
        position=None if cursor is None else _position(cursor),
    )
    rows = await parts.letters.find(query)
    shown = rows[:limit]
    next_page = None
    if len(rows) > limit:
        end = DeadLetterPosition(received_at=shown[-1].received_at, letter_id=shown[-1].letter_id)
        next_page = paging.next_url(request, cursor=paging.encode_letter_cursor(end))
    return paging.page({"dead_letters": [_row(entry) for entry in shown]}, next_page)


@router.get(
    "/dead-letters/{letter_id}",
    summary="One dead letter with its payload",
    response_model=None,
    responses={
        200: {"model": schemas.DeadLetter, "description": "The letter."},
        404: _UNKNOWN,
        500: UNEXPECTED,
        503: UNAVAILABLE,
    },
)
async def dead_letter(parts: Injected, letter_id: LetterId) -> Response:
    """The payload is from outside and may hold anything: whoever shows its `text` escapes it."""
    kept = await _kept(parts, letter_id)
    try:
        text = kept.raw.decode()
    except UnicodeDecodeError:
        text = None
    body = _fields(kept.entry) | {"raw_base64": base64.b64encode(kept.raw).decode(), "text": text}
    return Response(msgspec.json.encode(body), media_type="application/json")


@router.post(
    "/dead-letters/{letter_id}/replay",
    summary="Publish a dead letter's payload again",
    response_model=None,
    responses={
        200: {"model": schemas.Receipt, "description": "At least one event was stored, now or before."},
        404: _UNKNOWN,
        409: declare("The letter cannot be published again: its topic named no device, or it is too large."),
        422: declare("Everything in it was rejected again; `errors` says why.", schemas.EventsProblem),
        500: UNEXPECTED,
        503: UNAVAILABLE,
    },
)
async def replay(parts: Injected, letter_id: LetterId) -> Response:
    """The payload goes the way of every message, as it is; repeating is safe, a duplicate counts once.

    A letter that was taken in is marked with the time and the outcome: an operator's action, and the only
    thing that the api itself writes to MongoDB. One that is rejected again stays as it is.
    """
    kept = await _kept(parts, letter_id)
    if kept.entry.device_id is None:
        raise HTTPException(
            HTTPStatus.CONFLICT, "The letter's topic named no device, so there is none to publish it for."
        )
    if len(kept.raw) > REPLAY_BYTES_MAX:
        raise HTTPException(
            HTTPStatus.CONFLICT,
            f"The letter has {len(kept.raw)} bytes; the broker lets no more than {REPLAY_BYTES_MAX} through.",
        )
    receipt = await parts.publisher.publish(kept.entry.device_id, kept.raw)
    if not (receipt.stored or receipt.duplicates):
        return problems.rejected(HTTPStatus.UNPROCESSABLE_ENTITY, receipt.rejected)
    await parts.letters.record_replay(letter_id, _replay(receipt))
    log.info("dead letter replayed", id=letter_id, stored=receipt.stored, duplicates=receipt.duplicates)
    return Response(receipts.encode(receipt), media_type="application/json")


async def _kept(parts: Parts, letter_id: str) -> KeptDeadLetter:
    kept = await parts.letters.get(letter_id) if _ID.fullmatch(letter_id) else None
    if kept is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, "There is no dead letter with this id.")
    return kept


def _position(cursor: str) -> DeadLetterPosition:
    try:
        return paging.decode_letter_cursor(cursor)
    except ValueError as error:
        raise RequestValidationError([{"loc": ("query", "cursor"), "msg": str(error)}]) from None


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
        "id": entry.letter_id,
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
