"""The body of a request: read within its limit, and decoded where it is compressed."""

import zlib
from http import HTTPStatus
from typing import Final

from fastapi import Request
from starlette.exceptions import HTTPException

from pisync import limits

_GZIP: Final = frozenset({"gzip", "x-gzip"})  # RFC 9110, 8.4.1.3
_GZIP_FORMAT: Final = 16 + zlib.MAX_WBITS
ACCEPTED: Final = "gzip, identity"


def hold_to(request: Request, *media_types: str) -> str:
    """The media type of the body, by name: any other is sent by a browser for any page without asking us.

    Raises:
        HTTPException: 415, it is none of these.
    """
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given not in media_types:
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"The body is taken as {' or '.join(media_types)} only: send `Content-Type: {media_types[0]}`.",
            {"Accept": ", ".join(media_types)},
        )
    return given


def hold_to_identity(request: Request) -> None:
    """Take no body that is compressed.

    Raises:
        HTTPException: 415, it is.
    """
    if any(coding not in {"", "identity"} for coding in _codings(request)):
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "The body is taken as it is, without a Content-Encoding.",
            {"Accept-Encoding": "identity"},
        )


async def read_body(request: Request) -> bytes:
    """The body, decoded; no more than its limit is ever held, neither of it nor of what it decodes to.

    Raises:
        HTTPException: 413, it is too large; 415, its Content-Encoding is one that we do not know; 400, it
            is not what its Content-Encoding says.
    """
    codings = [coding for coding in _codings(request) if coding not in {"", "identity"}]
    if codings and (len(codings) > 1 or codings[0] not in _GZIP):
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"Content-Encoding must be one of {ACCEPTED}.",
            {"Accept-Encoding": ACCEPTED},
        )
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        _hold_to_limit(body)
    return _gunzip(bytes(body)) if codings else bytes(body)


def _codings(request: Request) -> list[str]:
    return [
        coding.strip().lower()
        for line in request.headers.getlist("Content-Encoding")
        for coding in line.split(",")
    ]


def _gunzip(body: bytes) -> bytes:
    """What is in one gzip member, or in several on end (RFC 1952, 2.2)."""
    decoded = bytearray()
    while True:
        member = zlib.decompressobj(_GZIP_FORMAT)
        try:
            decoded += member.decompress(body, limits.HTTP_BODY_BYTES_MAX + 1 - len(decoded))
        except zlib.error:
            raise _not_gzip() from None
        _hold_to_limit(decoded)
        if not member.eof:
            raise _not_gzip()
        body = member.unused_data
        if not body:
            return bytes(decoded)


def _not_gzip() -> HTTPException:
    return HTTPException(HTTPStatus.BAD_REQUEST, "The body is not gzip, as its Content-Encoding says.")


def _hold_to_limit(body: bytearray) -> None:
    if len(body) > limits.HTTP_BODY_BYTES_MAX:
        raise HTTPException(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"The body has more than {limits.HTTP_BODY_BYTES_MAX} bytes.",
        )
