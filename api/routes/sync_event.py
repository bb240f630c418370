"""`POST /api/sync-event`: a device's events over HTTP, by the same way in as over MQTT."""

import asyncio
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

import msgspec
from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from api import models, problems
from api.auth import require
from api.bodies import hold_to, pieces_of_body, read_body
from api.bulk import Bulk, Outcome, publishing
from api.directory.reading import FileFormat
from api.lines import Lines
from api.openapi import UNEXPECTED, declare, reference
from api.parameters import StrictRoute
from api.state import State, state_of
from pisync import limits, logs
from pisync.domain import decoding, receipts
from pisync.domain.access import Role
from pisync.domain.decoding import Claimed
from pisync.domain.events import Reason, Rejection
from pisync.domain.receipts import Receipt

log = logs.get("api.sync_event")
router = APIRouter(tags=["devices"], route_class=StrictRoute)

_EXAMPLE: Final = {
    "device_id": "PB-000123",
    "timestamp": "2026-05-08T12:00:00Z",
    "total_files_synced": 20,
    "total_errors": 1,
    "internet_speed": 3.2,
    "device_type": "PiBook",
    "sync_duration_ms": 5400,
    "errors": [{"code": "timeout", "message": "lesson-14.mp4: no answer in 30 s"}],
}

_JSON: Final = "application/json"
_NDJSON: Final = FileFormat.NDJSON.media_type
# Lines after which others get their turn.
_LINES_AT_ONCE: Final = 100
_LINES: Final = "".join(
    f"{msgspec.json.encode(_EXAMPLE | {'device_id': device_id}).decode()}\n"
    for device_id in ("PB-000123", "PB-000124")
)
_STORED: Final = {"stored": 1, "duplicates": 0, "rejected": []}
_NOTHING_NEW: Final = {"stored": 0, "duplicates": 1, "rejected": []}
_EMPTY: Final = Rejection(index=None, reason=Reason.EMPTY, detail="the message is empty")
_EVENT: Final = reference("SyncEvent")
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": f"One event, or an array of 1 to {limits.MESSAGE_EVENTS_MAX} events, of one device or"
        f" several; at most {limits.HTTP_BODY_BYTES_MAX} bytes. Or an event a line, of any devices: at most"
        f" {limits.BULK_LINES_MAX} lines and {limits.BULK_BYTES_MAX} bytes, of which a line has at most"
        f" {limits.MESSAGE_BYTES_MAX}.",
        "content": {
            _JSON: {
                "schema": {
                    "oneOf": [
                        _EVENT,
                        {
                            "type": "array",
                            "items": _EVENT,
                            "minItems": 1,
                            "maxItems": limits.MESSAGE_EVENTS_MAX,
                        },
                    ]
                },
                "examples": {
                    "one": {"summary": "One event", "value": _EXAMPLE},
                    "backlog": {
                        "summary": "A backlog",
                        "value": [_EXAMPLE, _EXAMPLE | {"timestamp": "2026-05-08T13:00:00Z"}],
                    },
                    "several": {
                        "summary": "Events of several devices",
                        "value": [_EXAMPLE, _EXAMPLE | {"device_id": "PB-000124"}],
                    },
                },
            },
            _NDJSON: {"schema": {"type": "string"}, "example": _LINES},
        },
    }
}


@router.post(
    "/sync-event",
    dependencies=[require(Role.INGEST)],
    summary="Store one sync event, a backlog, or events of many devices",
    status_code=HTTPStatus.CREATED,
    response_model=None,
    openapi_extra=_BODY,
    responses={
        200: {
            "model": models.Receipt,
            "description": "Nothing new: every good event was stored before.",
            "content": {"application/json": {"example": _NOTHING_NEW}},
        },
        201: {
            "model": models.Receipt,
            "description": "At least one event was stored.",
            "content": {"application/json": {"example": _STORED}},
        },
        400: declare("The body is not what its Content-Encoding says, or ended early."),
        409: declare("Another event of the same device and timestamp is stored.", problems.EventsProblem),
        413: declare(
            "The body is too large, as it came or decoded, or has too many lines. Of lines those that came"
            " before may be stored; repeating them is safe."
        ),
        415: declare(
            "The body is sent as neither `application/json` nor `application/x-ndjson`, or its"
            " Content-Encoding is unknown; `Accept` or `Accept-Encoding` says what is taken."
        ),
        422: declare(
            "No event was good; `errors` names the members at fault. Or there are parameters.",
            problems.EventsProblem,
            problems.ParametersProblem,
        ),
        500: UNEXPECTED,
        503: declare(
            "No receipt came in time, of some events at least, a part of the system is unavailable, or there"
            " are too many connections.",
            problems.UnansweredProblem,
            problems.UnavailableProblem,
            problems.Problem,
            Retry_After="Seconds to wait before the request is repeated.",
        ),
    },
)
async def sync_event(request: Request) -> Response:
    """Publish the body to its devices' MQTT topics and answer from the bridge's receipts.

    A device may forget an event once an answer covers it: 200 and 201 list in `rejected` those events of
    an array, or those lines, that were not taken in. After a 503 the event may be stored all the same;
    repeating is safe. Of several devices, or of lines, it says in `unknown` which events that is about, and
    tells of the others what 200, 201 or 422 would. What is not taken in is kept as a dead letter, as over
    MQTT. A body may be compressed with gzip.

    `index` is the place in the array, or the line, from 0.
    """
    state = state_of(request)
    if hold_to(request, _JSON, _NDJSON) == _NDJSON:
        return await _take_lines(request, state)
    body = await read_body(request)
    claims = decoding.claims(body)
    if isinstance(claims, list):
        async with publishing(state.publisher, state.publishes) as bulk:
            for place, claimed in enumerate(claims):
                await _add(bulk, place, claimed)
            return _answer_of_bulk(await bulk.finish())
    if isinstance(claims, Rejection):
        await state.publisher.publish(None, body)
        return _refusal([claims])
    return _answer(await state.publisher.publish(claims, body))


async def _take_lines(request: Request, state: State) -> Response:
    """Publish the events of a body that has one a line, while it comes in."""
    if state.bulks.locked():
        raise HTTPException(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"{limits.BULKS_AT_ONCE} bodies of events a line are under way: repeat this one later.",
            {"Retry-After": str(limits.RETRY_AFTER_S)},
        )
    lines = Lines(limits.MESSAGE_BYTES_MAX)
    async with state.bulks, publishing(state.publisher, state.publishes) as bulk:
        async for piece in pieces_of_body(request, limits.BULK_BYTES_MAX):
            await _add_lines(bulk, lines.feed(piece))
            if bulk.has_given_up:
                break
        else:
            await _add_lines(bulk, lines.end())
        outcome = await bulk.finish()
        if not outcome.read:
            await state.publisher.publish(None, b"")
            outcome.reject(_EMPTY)
    log.info(
        "events taken in bulk",
        lines=outcome.read,
        stored=outcome.stored,
        duplicates=outcome.duplicates,
        rejected=outcome.rejections,
        unknown=sum(map(len, outcome.unknown.values())),
    )
    return _answer_of_bulk(outcome)


async def _add_lines(bulk: Bulk, lines: Iterable[tuple[int, bytes | None]]) -> None:
    for number, line in lines:
        place = number - 1
        if number > limits.BULK_LINES_MAX:
            raise HTTPException(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"The body has more than {limits.BULK_LINES_MAX} lines. Those may be stored: cut it in two;"
                " repeating them is safe.",
            )
        if line is None:
            detail = f"the line has more than {limits.MESSAGE_BYTES_MAX} bytes"
            bulk.refuse(place, Rejection(index=place, reason=Reason.TOO_LARGE, detail=detail))
        elif bare := line.strip():
            await _add(bulk, place, decoding.claim(bare, place))
        if number % _LINES_AT_ONCE == 0:
            await asyncio.sleep(0)


async def _add(bulk: Bulk, place: int, claimed: Claimed) -> None:
    if isinstance(claimed.device, Rejection) and not claimed.raw:
        bulk.refuse(place, claimed.device)  # an array that is cut off between two events: nothing to keep
    else:
        await bulk.add(place, claimed)


def _answer(receipt: Receipt) -> Response:
    if not (receipt.stored or receipt.duplicates):
        return _refusal(receipt.rejected)
    status = HTTPStatus.CREATED if receipt.stored else HTTPStatus.OK
    return Response(receipts.encode(receipt), status, media_type="application/json")


def _answer_of_bulk(outcome: Outcome) -> Response:
    """As a receipt that covers all of them; where one came of some alone, it would be no such receipt."""
    receipt = outcome.receipt()
    if outcome.unknown:
        unknown = {why: sorted(places) for why, places in outcome.unknown.items()}
        return problems.unanswered(receipt, unknown, outcome.read)
    if not (receipt.stored or receipt.duplicates):
        return _refusal(receipt.rejected, outcome.rejections)
    return _answer(receipt)


def _refusal(rejections: list[Rejection], count: int | None = None) -> Response:
    conflict = any(rejection.reason is Reason.CONFLICT for rejection in rejections)
    status = HTTPStatus.CONFLICT if conflict else HTTPStatus.UNPROCESSABLE_ENTITY
    return problems.rejected(status, rejections, count)
