"""How values are written on a page: numbers, moments, spans of time, and texts that others made up.

What is not known is a dash, and never 0. Every text of a device or an operator is shown with its control and
bidirectional characters as escapes, and cut where it is long, with the whole of it in `title`.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from markupsafe import Markup

from pisync import clock, limits
from pisync.clock import from_ms, read_rfc3339, rfc3339
from pisync.domain.payloads import printable

DASH: Final = "\N{EN DASH}"
"""In place of what is not known."""
UNKNOWN: Final = Markup('<span class="unknown" title="not known">{}</span>').format(DASH)
MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 86_400
# Beyond so many days a date says more than an age.
_AGE_DAYS_MAX: Final = 60

Told = datetime | int | str | None
"""A moment: aware, or in epoch milliseconds, or as answers of the api tell it; None: not known."""


def number(value: float | None, digits: int = 0) -> str | Markup:
    """Such as 1,204 or, with digits, 3.2."""
    return UNKNOWN if value is None else f"{value:,.{digits}f}"


def count(value: int | None, noun: str, plural: str | None = None) -> str | Markup:
    """Such as 1 device, 2 devices."""
    if value is None:
        return UNKNOWN
    return f"{value:,} {noun if value == 1 else plural or noun + 's'}"


def read_moment(told: Told) -> datetime | None:
    """The moment, aware, in UTC."""
    match told:
        case None:
            return None
        case datetime():
            return told.astimezone(UTC)
        case int():
            return from_ms(told)
        case str():
            return read_rfc3339(told)[0].astimezone(UTC)


def exact(told: Told) -> str:
    """Such as 3 May 2026 08:12:05, in UTC; a page says once that it is."""
    moment = read_moment(told)
    if moment is None:
        return DASH
    return f"{moment.day} {MONTHS[moment.month - 1]} {moment.year} {moment:%H:%M:%S}"


def clock_time(told: Told) -> str:
    """Such as 08:12:05, in UTC."""
    moment = read_moment(told)
    return DASH if moment is None else f"{moment:%H:%M:%S}"


def day(told: str) -> str:
    """A date as answers tell it, such as 2026-05-03, as 3 May."""
    year_month_day = told.split("-")
    return f"{int(year_month_day[2])} {MONTHS[int(year_month_day[1]) - 1]}"


def age(told: Told) -> Markup:
    """A moment as how long ago it is, with the exact time in `datetime` and `title`."""
    moment = read_moment(told)
    if moment is None:
        return UNKNOWN
    return _time(moment, _age(moment, clock.now()))


def moment(told: Told) -> Markup:
    """A moment written out, such as 3 May 2026 08:12."""
    found = read_moment(told)
    if found is None:
        return UNKNOWN
    return _time(found, exact(found)[:-3])


def span(seconds: float | None) -> str | Markup:
    """A time that something lasted, in its largest unit, such as 5.4 s, 12 min, 3 h, 2 days."""
    if seconds is None:
        return UNKNOWN
    if seconds < 2 * _MINUTE_S:
        return f"{seconds:.0f} s" if seconds >= 10 or seconds == int(seconds) else f"{seconds:.1f} s"
    return _rough(seconds)


def text(value: object, chars: int = 80) -> str | Markup:
    """A text that somebody else made up; the template escapes its markup."""
    if value is None:
        return UNKNOWN
    shown = printable(str(value))
    if len(shown) <= chars:
        return shown
    whole = shown[: limits.PAGE_TITLE_CHARS_MAX]
    return Markup('<span title="{}">{}…</span>').format(whole, shown[: chars - 1].rstrip())


def visible(value: str) -> str:
    """The whole of a text for a field, with its control and bidirectional characters as escapes."""
    return printable(value)


def words(value: str) -> str:
    """A name of the program's own, such as `never_heard`, in words."""
    return value.replace("_", " ")


def capital(value: str) -> str:
    """The same with its first letter a capital."""
    return value[:1].upper() + value[1:]


def filters() -> Iterator[tuple[str, object]]:
    """What templates call them."""
    for each in (number, count, exact, clock_time, day, age, moment, span, text, visible, words, capital):
        yield each.__name__, each


def _time(moment: datetime, shown: str) -> Markup:
    # All three are of our own making; `Markup.format` would be a tenth of what a list costs.
    return Markup(f'<time datetime="{rfc3339(moment)}" title="{exact(moment)} UTC">{shown}</time>')  # noqa: S704


def _age(moment: datetime, now: datetime) -> str:
    seconds = (now - moment).total_seconds()
    if abs(seconds) > _AGE_DAYS_MAX * _DAY_S:
        return f"{moment.day} {MONTHS[moment.month - 1]} {moment.year}"
    if seconds < -_MINUTE_S:
        return f"in {_rough(-seconds)}"
    if seconds < _MINUTE_S:
        return "just now"
    return f"{_rough(seconds)} ago"


def _rough(seconds: float) -> str:
    """From two hours on in hours, from two days on in days; rounded down."""
    if seconds < 2 * _HOUR_S:
        return f"{int(seconds // _MINUTE_S)} min"
    if seconds < 2 * _DAY_S:
        return f"{int(seconds // _HOUR_S)} h"
    return f"{int(seconds // _DAY_S):,} days"
