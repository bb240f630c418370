"""The wall clock, and the two shapes in which time travels: aware datetimes and epoch milliseconds."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import msgspec

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# The times that are taken, but for dates that there are not: RFC 3339's, and those with a space for the T, or
# with an offset without its colon, which strftime writes.
RFC3339_PATTERN: Final = (
    r"^\d{4}-\d{2}-\d{2}[Tt ]([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?"
    r"([Zz]|[+-]([01]\d|2[0-3]):?[0-5]\d)$"
)


def now() -> datetime:
    """The current time, aware, in UTC, cut to the millisecond that the stores keep."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def to_ms(moment: datetime) -> int:
    """Milliseconds since 1970-01-01T00:00Z of an aware datetime, rounded down."""
    since = moment - EPOCH
    return since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000


def from_ms(milliseconds: int) -> datetime:
    """The aware UTC datetime of an epoch time in milliseconds."""
    return EPOCH + timedelta(milliseconds=milliseconds)


def read_rfc3339(text: object) -> tuple[datetime, bool]:
    """The moment of an RFC 3339 text, cut to the millisecond, and whether that cut anything off.

    The text is cut before it is read: msgspec rounds what is finer than a microsecond, and so would read
    07.9999999 as 08, which is another event.

    Raises:
        msgspec.ValidationError: it is no such text, or no moment that there is.
    """
    finer = _FINER.match(text) if isinstance(text, str) else None
    if finer is None:
        return msgspec.convert(text, Moment), False
    return msgspec.convert(finer[1] + finer[3], Moment), finer[2].strip("0") != ""


_FINER: Final = re.compile(r"([^.]*[.][0-9]{3})([0-9]+)(.*)", re.DOTALL)


def rfc3339(moment: datetime) -> str:
    """An aware datetime as RFC 3339 in UTC with milliseconds, such as 2026-05-08T12:00:00.000Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def rfc3339_of_utc(moments: Sequence[datetime]) -> list[str]:
    """The same text of each of many datetimes without a zone, which are in UTC and whole milliseconds.

    One call encodes them all, with six digits where the seconds are not whole, and another cuts the last
    three off: `isoformat` on each costs several times as much.
    """
    if not moments:
        return []
    texts = msgspec.json.encode(moments).replace(b'000"', b'Z"')[2:-2].decode().split('","')
    return [text if len(text) > _WHOLE_SECOND else f"{text}.000Z" for text in texts]


_WHOLE_SECOND = len("2026-05-08T12:00:00")
