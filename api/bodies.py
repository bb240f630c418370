"""The body of a request: read within its limit, and decoded where it is compressed."""

import zlib
from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus
from typing import Final

from fastapi import Request
from starlette.exceptions import HTTPException

from pisync import limits

_GZIP: Final = frozenset({"gzip", "x-gzip"})  # RFC 9110, 8.4.1.3
_GZIP_FORMAT: Final = 16 + zlib.MAX_WBITS
_PIECE_BYTES: Final = 64 * 1024
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
    is_gzip = _is_gzip(request)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        _hold_to_limit(len(body), limits.HTTP_BODY_BYTES_MAX)
    if not is_gzip:
        return bytes(body)
    gunzip = _Gunzip(limits.HTTP_BODY_BYTES_MAX)
    decoded = b"".join(gunzip.feed(bytes(body)))
    gunzip.end()
    return decoded


async def pieces_of_body(request: Request, bytes_max: int) -> AsyncIterator[bytes]:
    """The body, decoded, piece by piece as it comes.

    Raises:
        HTTPException: as for `read_body`; what came before was given out already.
    """
    gunzip = _Gunzip(bytes_max) if _is_gzip(request) else None
    told = request.headers.get("content-length", "")
    _hold_to_limit(int(told) if told.isdecimal() else 0, bytes_max)
    came = 0
    async for chunk in request.stream():
        came += len(chunk)
        _hold_to_limit(came, bytes_max)
        if gunzip is None:
            yield chunk
        else:
            for piece in gunzip.feed(chunk):
                yield piece
    if gunzip is not None:
        gunzip.end()


def _is_gzip(request: Request) -> bool:
    """Whether the body is compressed, in the one way that is taken."""
    codings = [coding for coding in _codings(request) if coding not in {"", "identity"}]
    if codings and (len(codings) > 1 or codings[0] not in _GZIP):
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"Content-Encoding must be one of {ACCEPTED}.",
            {"Accept-Encoding": ACCEPTED},
        )
    return bool(codings)


def _codings(request: Request) -> list[str]:
    return [
        coding.strip().lower()
        for line in request.headers.getlist("Content-Encoding")
        for coding in line.split(",")
    ]


class _Gunzip:
    """What is in one gzip member, or in several on end (RFC 1952, 2.2), in pieces of a bounded size."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._decoded = 0
        self._member: zlib._Decompress | None = None
        self._is_whole = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What these bytes decode to."""
        while data:
            if self._member is None:
                self._member, self._is_whole = zlib.decompressobj(_GZIP_FORMAT), False
            room = min(_PIECE_BYTES, self._bytes_max + 1 - self._decoded)
            try:
                piece = self._member.decompress(data, room)
            except zlib.error:
                raise _not_gzip() from None
            self._decoded += len(piece)
            _hold_to_limit(self._decoded, self._bytes_max)
            data = self._member.unconsumed_tail
            if self._member.eof:
                data, self._member, self._is_whole = self._member.unused_data, None, True
            yield piece

    def end(self) -> None:
        """Say that there is no more."""
        if not self._is_whole:
            raise _not_gzip()


def _not_gzip() -> HTTPException:
    return HTTPException(HTTPStatus.BAD_REQUEST, "The body is not gzip, as its Content-Encoding says.")


def _hold_to_limit(size_bytes: int, bytes_max: int) -> None:
    if size_bytes > bytes_max:
        raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body has more than {bytes_max} bytes.")
