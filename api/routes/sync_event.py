"""`POST /api/sync-event`: a device's events over HTTP, by the same way in as over MQTT."""

from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from api import models, problems
from api.bodies import hold_to, read_body
from api.openapi import UNAVAILABLE, UNEXPECTED, declare, reference
from api.parameters import StrictRoute
from api.state import state_of
from pisync import limits
from pisync.domain import decoding, receipts
from pisync.domain.events import Reason, Rejection
from pisync.domain.receipts import Receipt

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
_STORED: Final = {"stored": 1, "duplicates": 0, "rejected": []}
_NOTHING_NEW: Final = {"stored": 0, "duplicates": 1, "rejected": []}
_EVENT: Final = reference("SyncEvent")
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": f"One event, or an array of 1 to {limits.MESSAGE_EVENTS_MAX} events of one device;"
        f" at most {limits.HTTP_BODY_BYTES_MAX} bytes.",
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
                },
            }
        },
    }
}


@router.post(
    "/sync-event",
    summary="Store one sync event, or a backlog",
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
        413: declare("The body is too large, as it came or decoded."),
        415: declare(
            "The body is not sent as `application/json`, or its Content-Encoding is unknown; `Accept` or"
            " `Accept-Encoding` says what is taken."
        ),
        422: declare(
            "No event was good; `errors` names the members at fault. Or there are parameters.",
            problems.EventsProblem,
            problems.ParametersProblem,
        ),
        500: UNEXPECTED,
        503: UNAVAILABLE,
    },
)
async def sync_event(request: Request) -> Response:
    """Publish the body to the device's MQTT topic and answer from the bridge's receipt.

    A device may forget an event once an answer covers it: 200 and 201 list in `rejected` those events of
    an array that were not taken in. After a 503 the event may be stored all the same; repeating is safe.
    What is not taken in is kept as a dead letter, as over MQTT. A body may be compressed with gzip.
    """
    hold_to(request, _JSON)
    body = await read_body(request)
    device_id = decoding.claimed_device_id(body)
    publisher = state_of(request).publisher
    if isinstance(device_id, Rejection):
        await publisher.publish(None, body)
        return _refusal([device_id])
    return _answer(await publisher.publish(device_id, body))


def _answer(receipt: Receipt) -> Response:
    if not (receipt.stored or receipt.duplicates):
        return _refusal(receipt.rejected)
    status = HTTPStatus.CREATED if receipt.stored else HTTPStatus.OK
    return Response(receipts.encode(receipt), status, media_type="application/json")


def _refusal(rejections: list[Rejection]) -> Response:
    conflict = any(rejection.reason is Reason.CONFLICT for rejection in rejections)
    return problems.rejected(HTTPStatus.CONFLICT if conflict else HTTPStatus.UNPROCESSABLE_ENTITY, rejections)
