"""What the lists share: moments and limits in the query, cursors, and pages with a link to the next one."""

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Self, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from fastapi import Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BeforeValidator, WithJsonSchema

from pisync import clock, limits
from pisync.clock import from_ms, read_rfc3339, rfc3339, to_ms

_MILLISECOND: Final = timedelta(milliseconds=1)
_RULE: Final = "must be an RFC 3339 time with an offset, such as 2026-05-08T12:00:00Z, or an age such as 7d"
_AGE_PATTERN: Final = "[0-9]{1,5}[smhdw]"
_AGE: Final = re.compile(_AGE_PATTERN)
UNITS: Final = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}


def _ago(text: object) -> datetime | None:
    """The moment so long before now, as in `7d`; None where the text is no age."""
    if not (isinstance(text, str) and text.isascii() and _AGE.fullmatch(text)):
        return None
    return clock.now() - int(text[:-1]) * UNITS[text[-1]]


def _moment_down(text: object) -> datetime:
    return _ago(text) or _read(text)[0]


def _moment_up(text: object) -> datetime:
    """The moment, a fraction of a millisecond counting as a whole one.

    Events are kept to the millisecond: one at .000 is older than `before` .0005, and not as new as
    `since` .0005.
    """
    ago = _ago(text)
    if ago is not None:
        return ago
    moment, is_cut = _read(text)
    try:
        return moment + _MILLISECOND if is_cut else moment
    except OverflowError:
        raise ValueError(_RULE) from None


def _read(text: object) -> tuple[datetime, bool]:
    try:
        moment, is_cut = read_rfc3339(text)
        return from_ms(to_ms(moment)), is_cut
    except (msgspec.ValidationError, OverflowError):
        if isinstance(text, str) and " " in text:
            raise ValueError(f"{_RULE}; a + in a URL is written %2B") from None
        raise ValueError(_RULE) from None


# A parameter that is optional may be left out, but is never null: the schema says so.
_MOMENT_SCHEMA: Final = WithJsonSchema(
    {
        "anyOf": [
            {"type": "string", "format": "date-time"},
            {
                "type": "string",
                "pattern": f"^{_AGE_PATTERN}$",
                "description": "So long ago: seconds, minutes, hours, days, weeks.",
            },
        ]
    }
)
MomentDown = Annotated[datetime | None, BeforeValidator(_moment_down), _MOMENT_SCHEMA]
MomentUp = Annotated[datetime | None, BeforeValidator(_moment_up), _MOMENT_SCHEMA]
# What these two mean wherever they stand; a route says the moment of what.
SINCE: Final = "Only from this moment on, the moment itself included; `7d`: from seven days ago."
UNTIL: Final = "Only before this moment, the moment itself excluded; `24h`: before 24 hours ago."
Limit = Annotated[int, Query(ge=1, le=limits.PAGE_MAX, description="Rows on a page, at most.")]
CursorText = Annotated[
    str | None,
    WithJsonSchema({"type": "string"}),
    Query(description="From the `next` link of the page before."),
]


def just_before(moment: datetime | None) -> datetime | None:
    """The exclusive lower bound that takes in the moment itself: a millisecond is the finest that is kept."""
    if moment is None or moment - datetime.min.replace(tzinfo=UTC) < _MILLISECOND:
        return None
    return moment - _MILLISECOND


class Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=True):
    """Where a page of a list ended, as opaque text that is safe in a URL.

    A list makes a class of its own whose members are the position of a row. The name of the class is part
    of the text, so that no other list takes it for one of its own.
    """

    def encode(self) -> str:
        """The cursor as the text of the parameter `cursor`."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str | None, **order: str) -> Self | None:
        """The cursor in the parameter `cursor`; None where there is none.

        `order` has the members, with their values, that say in which order the list is asked for.

        Raises:
            RequestValidationError: the text is no cursor, or one of another list or another order.
        """
        if text is None:
            return None
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            cursor = msgspec.json.decode(raw, type=cls)
        except (msgspec.DecodeError, ValueError, RecursionError):  # base64's and UTF-8's are ValueErrors
            raise _refused("is not a cursor that came in a `next` link of this list") from None
        for name, value in order.items():
            if getattr(cursor, name) != value:
                raise _refused(f"belongs to {name}={getattr(cursor, name)}, not to {name}={value}")
        return cursor


def _refused(message: str) -> RequestValidationError:
    return RequestValidationError([{"loc": ("query", "cursor"), "msg": message}])


Row = TypeVar("Row")


def list_page(
    request: Request,
    name: str,
    rows: Sequence[Row],
    /,
    *,
    limit: int,
    has_more: bool = False,
    next_parameters: Callable[[Row], Mapping[str, str]],
    moments: Mapping[str, datetime | None] | None = None,
    as_json: Callable[[Row], object] | None = None,
    **members: object,
) -> Response:
    """A page as JSON, with the way to the next one in its body and in its `Link` header (RFC 8288).

    `rows` are what the store returned when it was asked for `limit + 1`: if they are so many, there is a next
    page; also where there are more than the store could return (`has_more`), and where the page
    would have more than `limits.PAGE_BYTES_MAX` bytes of rows: it ends early then, with one row at least.
    `next_parameters` gives the parameters that continue this request after a row. `moments` are
    the request's own, which the next page takes over as they are now: an age means another moment then.
    `as_json` makes a row of the answer, None where rows are ready to be encoded. `members` stand beside the
    rows.
    """
    page = _encoded(rows[:limit], as_json)
    next_page = None
    if has_more or len(rows) > len(page):
        next_page = next_url(request, next_parameters(rows[len(page) - 1]), moments)
    answer = members | {name: msgspec.Raw(b"[%b]" % b",".join(page)), "next": next_page}
    headers = {} if next_page is None else {"Link": f'<{next_page}>; rel="next"'}
    return Response(msgspec.json.encode(answer), 200, headers, "application/json")


def _encoded(rows: Sequence[Row], as_json: Callable[[Row], object] | None) -> list[bytes]:
    """The first rows as JSON, one at least, that have so many bytes together as a page may have."""
    found: list[bytes] = []
    size = 0
    for row in rows if as_json is None else map(as_json, rows):
        encoded = msgspec.json.encode(row)
        size += len(encoded)
        if size > limits.PAGE_BYTES_MAX and found:
            break
        found.append(encoded)
    return found


def next_url(
    request: Request, parameters: Mapping[str, str], moments: Mapping[str, datetime | None] | None = None
) -> str:
    """The path and query of this request with these parameters, and with its moments as they are now."""
    changes = {name: rfc3339(moment) for name, moment in (moments or {}).items() if moment is not None}
    changes |= parameters
    kept = [(name, value) for name, value in request.query_params.multi_items() if name not in changes]
    return f"{quote(request.scope['path'])}?{urlencode([*kept, *changes.items()])}"
