"""The line that a page shows after an action, with the way to undo it: kept by the browser until it is shown.

It travels in a cookie, which no other site can set, over HTTPS no other host of the domain either, and not
in the address, which anybody could make up.
"""

import base64
from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from fastapi import Request, Response
from starlette.responses import RedirectResponse

from api.auth import cookies
from pisync import limits


class Undo(msgspec.Struct, frozen=True, kw_only=True):
    """The form that takes an action back: the path that it is sent to, and its members."""

    path: str
    members: dict[str, str] = {}


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What was done, as a sentence; `is_fault`: what was not, and why."""

    text: str
    is_fault: bool = False
    undo: Undo | None = None


def done(
    request: Request, path: str, text: str, *, undo: Undo | None = None, is_fault: bool = False
) -> Response:
    """Lead from a form that was sent to a page, path and query, which then shows what was done."""
    message = Message(text=text[: limits.PAGE_MESSAGE_CHARS_MAX], is_fault=is_fault, undo=undo)
    prefix = request.scope.get("root_path", "")
    response = RedirectResponse(f"{prefix}{path}", HTTPStatus.SEE_OTHER)
    value = base64.urlsafe_b64encode(msgspec.json.encode(message)).decode().rstrip("=")
    cookies.write(request, response, cookies.MESSAGE, value, limits.PAGE_MESSAGE_S, samesite="strict")
    return response


def take(request: Request) -> Message | None:
    """The message that this page has to show."""
    value = cookies.read(request, cookies.MESSAGE)
    if not value:
        return None
    try:
        raw = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
        message = msgspec.json.decode(raw, type=Message)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    undo = message.undo
    # It is the browser's word. A form leads nowhere but to our own pages anyway.
    if undo is not None and (not undo.path.startswith("/") or undo.path.startswith("//")):
        return msgspec.structs.replace(message, undo=None)
    return message


def forget(request: Request, headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of an answer that showed the message."""
    if not cookies.read(request, cookies.MESSAGE):
        return dict(headers)
    return {**headers, "Set-Cookie": cookies.forgotten(request, cookies.MESSAGE)}
