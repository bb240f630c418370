"""What the paged routes share: moments and limits in the query, cursors, and links to the next page."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from fastapi import Query, Request, Response
from pydantic import BeforeValidator, WithJsonSchema

from pisync import limits
from pisync.clock import from_ms, to_ms
from pisync.domain import topics
from pisync.stores.interfaces import dead_letters
from pisync.stores.interfaces.dead_letters import DeadLetterPosition
from pisync.stores.interfaces.ranking import Position, RankedBy

_Moment = Annotated[datetime, msgspec.Meta(tz=True)]
_MILLISECOND: Final = timedelta(milliseconds=1)
_RULE: Final = "must be an RFC 3339 time with an offset, such as 2026-05-08T12:00:00Z"


def _moment(text: object) -> datetime:
    try:
        given = msgspec.convert(text, _Moment)
        moment = from_ms(to_ms(given))
    except (msgspec.ValidationError, OverflowError):
        if isinstance(text, str) and " " in text:
            raise ValueError(f"{_RULE}; a + in a URL is written %2B") from None
        raise ValueError(_RULE) from None
    return moment


def _moment_up(text: object) -> datetime:
    """The moment, a fraction of a millisecond counting as a whole one.

    Events are kept to the millisecond: one at .000 is older than `before` .0005, and not as new as
    `since` .0005.
    """
    moment = _moment(text)
    try:
        return moment if moment == msgspec.convert(text, _Moment) else moment + _MILLISECOND
    except OverflowError:
        raise ValueError(_RULE) from None


# A parameter that is optional may be left out, but is never null: the schema says so.
_MOMENT_SCHEMA: Final = WithJsonSchema({"type": "string", "format": "date-time"})
MomentDown = Annotated[datetime | None, BeforeValidator(_moment), _MOMENT_SCHEMA]
MomentUp = Annotated[datetime | None, BeforeValidator(_moment_up), _MOMENT_SCHEMA]
Limit = Annotated[int, Query(ge=1, le=limits.PAGE_MAX, description="Rows on a page, at most.")]


T = TypeVar("T")


class _Ranked(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    ranked_by: RankedBy
    score: Annotated[int, msgspec.Meta(ge=0, le=limits.COUNT_MAX)]
    device_id: Annotated[str, msgspec.Meta(pattern=rf"^{topics.DEVICE_ID_PATTERN}\Z")]


def encode_cursor(ranked_by: RankedBy, position: Position) -> str:
    """The position as opaque text that is safe in a URL."""
    return _pack(_Ranked(ranked_by, position.score, position.device_id))


def decode_cursor(text: str, ranked_by: RankedBy) -> Position:
    """The position in a cursor.

    Raises:
        ValueError: the text is no cursor, or one of another order.
    """
    cursor = _unpack(text, _Ranked)
    if cursor.ranked_by is not ranked_by:
        raise ValueError(f"belongs to sort={cursor.ranked_by}, not to sort={ranked_by}")
    return Position(score=cursor.score, device_id=cursor.device_id)


class _Letter(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    received_ms: Annotated[int, msgspec.Meta(ge=0, le=to_ms(datetime.max.replace(tzinfo=UTC)))]
    letter_id: Annotated[str, msgspec.Meta(pattern=rf"^{dead_letters.ID_PATTERN}\Z")]


def encode_letter_cursor(position: DeadLetterPosition) -> str:
    """The position as opaque text that is safe in a URL."""
    return _pack(_Letter(to_ms(position.received_at), position.letter_id))


def decode_letter_cursor(text: str) -> DeadLetterPosition:
    """The position in a cursor.

    Raises:
        ValueError: the text is no cursor, or one of another resource.
    """
    cursor = _unpack(text, _Letter)
    return DeadLetterPosition(received_at=from_ms(cursor.received_ms), letter_id=cursor.letter_id)


class _Alert(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    alert_id: Annotated[str, msgspec.Meta(min_length=1)]


def encode_alert_cursor(alert_id: str) -> str:
    """The last alert of a page as opaque text that is safe in a URL."""
    return _pack(_Alert(alert_id))


def decode_alert_cursor(text: str) -> str:
    """The id of the alert in a cursor.

    Raises:
        ValueError: the text is no cursor, or one of another resource.
    """
    return _unpack(text, _Alert).alert_id


def _pack(cursor: msgspec.Struct) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")


def _unpack(text: str, kind: type[T]) -> T:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, ValueError):  # of which base64's and UTF-8's errors are kinds
        raise ValueError("is not a cursor that came in a `next` link") from None


def next_url(request: Request, **changes: str) -> str:
    """The path and query of this request with some of its parameters changed."""
    kept = [(name, value) for name, value in request.query_params.multi_items() if name not in changes]
    return f"{quote(request.scope['path'])}?{urlencode([*kept, *changes.items()])}"


def page(body: dict[str, Any], next_page: str | None) -> Response:
    """A page as JSON, with the way to the next one in its body and in its `Link` header (RFC 8288)."""
    headers = {} if next_page is None else {"Link": f'<{next_page}>; rel="next"'}
    return Response(msgspec.json.encode(body | {"next": next_page}), 200, headers, "application/json")
