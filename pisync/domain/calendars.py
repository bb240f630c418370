"""Which time counts towards a device's silence: not its site's days off, nor when no bridge listened.

A day of silence is 24 hours of time that counts. Days off and holidays are whole dates of the site's time
zone, of 23 or 25 hours where its clocks change.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, time, tzinfo
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from pisync import limits
from pisync.clock import from_ms, to_ms
from pisync.domain.days import DAY_MS

# Earlier than any moment; it fits into 64 bits.
NEVER_MS: Final = -(2**63)


class CalendarError(ValueError):
    """A calendar, a time zone or a moment in it cannot be; the text says why, for who wrote it."""


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


_ZONE_NAME: Final = re.compile(rf"[A-Za-z][A-Za-z0-9_+/-]{{0,{limits.TIME_ZONE_CHARS_MAX - 1}}}")
_NO_ZONES: Final = ("posix/", "right/", "posixrules", "localtime")


def zone(name: str) -> tzinfo:
    """The time zone of a name such as `Africa/Nairobi`.

    Raises:
        CalendarError: there is none, as far as this machine's tz database knows.
    """
    if name == "UTC":  # known without a tz database
        return UTC
    # Beside zones the database has files that depend on the machine, and zones that count leap seconds.
    if _ZONE_NAME.fullmatch(name) is not None and not name.startswith(_NO_ZONES):
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            pass
    shown = name if len(name) <= limits.TIME_ZONE_CHARS_MAX else f"{name[: limits.TIME_ZONE_CHARS_MAX]}…"
    raise CalendarError(
        f"there is no time zone {shown!r} in this machine's tz database (Debian's package tzdata);"
        " a name is such as Africa/Nairobi, or UTC"
    )


class Holiday(msgspec.Struct, frozen=True, gc=False):
    """Dates on which a site is closed, both included."""

    first: date
    last: date

    def __post_init__(self) -> None:
        """Refuse one that ends before it begins.

        Raises:
            CalendarError: it does.
        """
        if self.last < self.first:
            raise CalendarError(f"the holiday of {self.first} ends before it begins, on {self.last}")

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first} to {self.last}"


class Calendar(msgspec.Struct, frozen=True, kw_only=True):
    """When a site is closed, by its own dates; the holidays are kept in their order, whatever was given."""

    time_zone: str = "UTC"
    days_off: frozenset[Weekday] = frozenset()
    holidays: tuple[Holiday, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no calendar can be.

        Raises:
            CalendarError: there is no such time zone, holidays overlap, or there are too many.
        """
        zone(self.time_zone)
        if len(self.holidays) > limits.HOLIDAYS_MAX:
            raise CalendarError(f"more than {limits.HOLIDAYS_MAX} holidays")
        ordered = tuple(sorted(self.holidays, key=lambda holiday: holiday.first))
        for one, other in pairwise(ordered):
            if other.first <= one.last:
                raise CalendarError(f"the holidays {one} and {other} overlap")
        msgspec.structs.force_setattr(self, "holidays", ordered)

    @property
    def has_days_off(self) -> bool:
        """Whether there is any day that does not count."""
        return bool(self.days_off or self.holidays)


EVERY_DAY: Final = Calendar()


class ListeningGap(msgspec.Struct, frozen=True, gc=False):
    """A time in which no bridge listened: from its start on, up to its end."""

    start_ms: int
    end_ms: int


def moment_in(time_zone: str, wall: datetime) -> datetime:
    """The moment at which the clocks of a zone show a time; the first of two, where they are set back.

    Raises:
        CalendarError: there is no such zone, or its clocks never show this, because they are set forward over
            it.
    """
    moment = wall.replace(tzinfo=zone(time_zone), fold=0)
    if moment.astimezone(UTC).astimezone(moment.tzinfo).replace(tzinfo=None) != wall.replace(fold=0):
        raise CalendarError(f"the clocks of {time_zone} never show {wall}: they are set forward over it")
    return moment.astimezone(UTC)


def silence_limit_ms(calendar: Calendar, days: int, now_ms: int, gaps: Sequence[ListeningGap]) -> int:
    """The moment before which the newest receipt of a device must be for more than so many days of silence.

    It never goes back while the time goes on, but to `NEVER_MS`: less than that counts of the last
    `limits.SILENCE_DAYS_BACK` days, and nobody is silent for too long.

    Args:
        calendar: the site's.
        days: how many days of silence are usual, each of 24 hours that count.
        now_ms: now.
        gaps: ascending, none in another, and all there are since `earliest_counted_ms(now_ms)`.
    """
    left_ms = days * DAY_MS
    for start_ms, end_ms in _counted(calendar, now_ms, gaps):
        if end_ms - start_ms > left_ms:
            return end_ms - left_ms
        left_ms -= end_ms - start_ms
    return NEVER_MS


def silence_ms(calendar: Calendar, since_ms: int, now_ms: int, gaps: Sequence[ListeningGap]) -> int:
    """How much time counts from a moment until now; what is before `earliest_counted_ms(now_ms)` does not."""
    counted_ms = 0
    for start_ms, end_ms in _counted(calendar, now_ms, gaps):
        if end_ms <= since_ms:
            break
        counted_ms += end_ms - max(start_ms, since_ms)
    return counted_ms


def earliest_counted_ms(now_ms: int) -> int:
    """How far back silence is looked at."""
    return now_ms - limits.SILENCE_DAYS_BACK * DAY_MS


def _counted(calendar: Calendar, now_ms: int, gaps: Sequence[ListeningGap]) -> Iterator[tuple[int, int]]:
    """The times that count, each from its start to its end, newest first."""
    earliest_ms = earliest_counted_ms(now_ms)
    off = [weekday in calendar.days_off for weekday in _WEEK]
    holidays, older_gaps = list(calendar.holidays), list(gaps)
    day = from_ms(now_ms).astimezone(zone(calendar.time_zone)).date().toordinal()
    end_ms = now_ms
    while end_ms > earliest_ms:
        midnight_ms = _midnight_ms(calendar.time_zone, day)
        start_ms = max(midnight_ms, earliest_ms)
        while holidays and holidays[-1].first.toordinal() > day:
            holidays.pop()
        is_holiday = bool(holidays) and day <= holidays[-1].last.toordinal()
        if not is_holiday and not off[(day - 1) % len(off)]:  # the first ordinal was a Monday
            yield from _between_gaps(start_ms, end_ms, older_gaps)
        end_ms, day = start_ms, day - 1


def _between_gaps(start_ms: int, end_ms: int, older_gaps: list[ListeningGap]) -> Iterator[tuple[int, int]]:
    """What of a time is in no gap, newest first; gaps that begin after it are taken off the list."""
    while end_ms > start_ms:
        while older_gaps and older_gaps[-1].start_ms >= end_ms:
            older_gaps.pop()
        if not older_gaps or older_gaps[-1].end_ms <= start_ms:
            yield start_ms, end_ms
            return
        gap = older_gaps[-1]
        if gap.end_ms < end_ms:
            yield gap.end_ms, end_ms
        end_ms = gap.start_ms


@lru_cache(maxsize=8192)
def _midnight_ms(time_zone: str, day: int) -> int:
    """When a date begins in a zone; where its clocks are set forward over midnight, when that is done."""
    return to_ms(datetime.combine(date.fromordinal(day), time(), zone(time_zone)))


def gaps_between(intervals: Iterable[tuple[int, int]], since_ms: int, until_ms: int) -> list[ListeningGap]:
    """The times of a window that are in none of the intervals in which bridges listened, ascending.

    Those of a few seconds are left out: a bridge says only now and then that it listens, and starts anew.
    """
    shortest_ms = limits.LISTENING_GAP_MIN_S * 1000
    gaps = []
    heard_until_ms = since_ms
    for start_ms, end_ms in [*sorted(intervals), (until_ms, until_ms)]:
        gap = ListeningGap(heard_until_ms, min(start_ms, until_ms))
        if gap.end_ms - gap.start_ms > shortest_ms:
            gaps.append(gap)
        heard_until_ms = max(heard_until_ms, end_ms)
    return gaps
