"""`POST /api/enrol`: a device has the key signed that it made, by a token that an operator gave it."""

from http import HTTPStatus
from math import ceil
from typing import Final

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from api.auth.addresses import address_of
from api.auth.refusals import Refusal
from api.bodies import hold_to, hold_to_identity, pieces_of_body
from api.enrolment import TooManyError, WrongTokenError
from api.openapi import UNAVAILABLE, UNEXPECTED, declare
from api.parameters import StrictRoute
from api.problems import ParametersProblem, Problem
from api.state import state_of
from pisync import limits, logs
from pisync.errors import CertificateRefused, ConfigurationError

router = APIRouter(tags=["devices"], route_class=StrictRoute)
log = logs.get("api.enrolment")

PEM: Final = "application/x-pem-file"
PKCS10: Final = "application/pkcs10"
_BEARER: Final = 'Bearer realm="pisync enrolment"'
_BODY: Final = {
    "requestBody": {
        "required": True,
        "description": "A certificate request (PKCS #10) as PEM, whose one common name is the device's id; at"
        f" most {limits.CERTIFICATE_REQUEST_BYTES_MAX} bytes.",
        "content": {media_type: {"schema": {"type": "string"}} for media_type in (PEM, PKCS10)},
    },
}


@router.post(
    "/enrol",
    summary="Have a device's own key signed",
    response_model=None,
    openapi_extra=_BODY,
    responses={
        200: {
            "description": "The certificate as PEM, with those between it and the root behind it.",
            "content": {PEM: {"schema": {"type": "string"}}},
        },
        400: declare("The body ended early."),
        401: declare(
            "The token is none, or another device's, or was used for another key, or it expired.",
            WWW_Authenticate="Names the scheme that is expected, `Bearer`.",
        ),
        404: declare("This api signs no certificates."),
        413: declare("The body is too large."),
        415: declare(f"The body is not sent as `{PEM}` or `{PKCS10}`, or it is compressed."),
        422: declare("The certificate request is not taken; `detail` says why.", Problem, ParametersProblem),
        429: declare(
            "Too many requests, or too many wrong tokens, came from this address.",
            Retry_After="Seconds to wait before the request is repeated.",
        ),
        500: UNEXPECTED,
        503: UNAVAILABLE,
    },
)
async def enrol(request: Request) -> Response:
    """Asks for no key, but for `Authorization: Bearer` and a token of `pisync devices enrol-token`.

    May be repeated with the same request while the token holds: the answer is the same certificate.
    """
    state = state_of(request)
    enrolment = state.enrolment
    if enrolment is None:
        raise HTTPException(
            HTTPStatus.NOT_FOUND, "This api signs no certificates: PISYNC_ENROLMENT_CA_DIRECTORY is not set."
        )
    address = address_of(request)
    try:
        enrolment.hold_to_pace(address)
        hold_to(request, PEM, PKCS10)
        hold_to_identity(request)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        pieces = pieces_of_body(request, limits.CERTIFICATE_REQUEST_BYTES_MAX)
        pem = b"".join([piece async for piece in pieces])
        token = token.strip() if scheme.lower() == "bearer" else ""
        certificate = await enrolment.enrol(token, pem)
    except TooManyError as error:
        raise _too_many(error.wait_s) from None
    except WrongTokenError:
        wait_s = state.access.refusals.add(address, Refusal.WRONG)
        if wait_s:
            raise _too_many(wait_s) from None
        raise HTTPException(
            HTTPStatus.UNAUTHORIZED,
            "The token is none, or another device's, or was used for another key, or it expired: ask for a"
            " new one.",
            {"WWW-Authenticate": _BEARER},
        ) from None
    except CertificateRefused as error:
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, f"{error}.") from None
    except ConfigurationError as error:
        log.warning("the authority cannot sign", why=str(error))
        raise HTTPException(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "The authority cannot sign for now: its operator has to see to it.",
            {"Retry-After": str(limits.ENROLMENT_RETRY_S)},
        ) from None
    return Response(certificate, media_type=PEM)


def _too_many(wait_s: float) -> HTTPException:
    return HTTPException(
        HTTPStatus.TOO_MANY_REQUESTS,
        "Too many requests, or wrong tokens, came from this address.",
        {"Retry-After": str(ceil(wait_s))},
    )
