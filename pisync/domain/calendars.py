"""Which time counts towards a device's silence: not a site's days off, nor when we did not listen."""

from collections.abc import Sequence
from datetime import UTC, date, timedelta, tzinfo
from enum import StrEnum
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from pisync.clock import from_ms
from pisync.domain.days import DAY_MS

# Earlier than any moment; it fits into 64 bits.
NEVER_MS: Final = -(2**63)
_DAYS_BACK: Final = 400
_MINUTE_MS: Final = 60_000


class CalendarError(ValueError):
    """A calendar or a time zone cannot be; the text says why."""


class Weekday(StrEnum):
    """The days of a week, in the order of ISO 8601."""

    MONDAY = "monday"
    TUESDAY = "tuesday"
    WEDNESDAY = "wednesday"
    THURSDAY = "thursday"
    FRIDAY = "friday"
    SATURDAY = "saturday"
    SUNDAY = "sunday"


_WEEK: Final = tuple(Weekday)


class Holiday(msgspec.Struct, frozen=True, gc=False):
    """Dates on which a site is closed, both included."""

    first: date
    last: date


class Calendar(msgspec.Struct, frozen=True, kw_only=True):
    """When a site is closed, by its own dates."""

    time_zone: str = "UTC"
    days_off: frozenset[Weekday] = frozenset()
    holidays: tuple[Holiday, ...] = ()


EVERY_DAY: Final = Calendar()


class ListeningGap(msgspec.Struct, frozen=True, gc=False):
    """A time in which no bridge listened: from its start on, up to its end."""

    start_ms: int
    end_ms: int


def zone(name: str) -> tzinfo:
    """The time zone of a name such as `Africa/Nairobi`.

    Raises:
        CalendarError: there is none.
    """
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise CalendarError(f"there is no time zone {name!r}") from None


def earliest_counted_ms(now_ms: int) -> int:
    """How far back silence is looked at."""
    return now_ms - _DAYS_BACK * DAY_MS


def silence_limit_ms(calendar: Calendar, days: int, now_ms: int, gaps: Sequence[ListeningGap]) -> int:
    """The moment before which the newest receipt of a device must be for more than so many days of silence.

    `NEVER_MS` where so much time does not count that nothing has been silent for so long.
    """
    place = zone(calendar.time_zone)
    left_ms, moment_ms = days * DAY_MS, now_ms
    while moment_ms > earliest_counted_ms(now_ms):
        local = from_ms(moment_ms - _MINUTE_MS).astimezone(place)
        today = local.date()
        is_off = _WEEK[today.weekday()] in calendar.days_off or any(
            holiday.first <= today <= holiday.last for holiday in calendar.holidays
        )
        is_deaf = any(gap.start_ms <= moment_ms - _MINUTE_MS < gap.end_ms for gap in gaps)
        step_ms = _MINUTE_MS
        if not gaps:
            since_midnight = timedelta(hours=local.hour, minutes=local.minute) + timedelta(minutes=1)
            step_ms = int(since_midnight.total_seconds()) * 1000
        if not (is_off or is_deaf):
            if left_ms < step_ms:
                return moment_ms - left_ms
            left_ms -= step_ms
        moment_ms -= step_ms
    return NEVER_MS
