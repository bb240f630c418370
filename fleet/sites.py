"""Sites: their numbers, what the directory says of them, and since when a silent device there is overdue."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.columns import Bools, Longs
from fleet.texts import TextNumbers
from pisync.clock import from_ms, to_ms
from pisync.domain.calendars import EVERY_DAY, NEVER_MS, Calendar, CalendarError, Holiday, Weekday, zone
from pisync.domain.directory import Site

# For a calendar and a habit, in days: the moment before which the newest receipt of an overdue device was.
SilenceLimits = Mapping[tuple[Calendar, int], int]


class Sites:
    """Every site that a device or the directory names, by its number; 0 stands for none."""

    def __init__(self) -> None:
        self.ids = TextNumbers()
        self.entries: dict[str, Site] = {}
        self.calendars: list[Calendar] = [EVERY_DAY]
        self._calendar_places = {EVERY_DAY: 0}
        self._places = np.zeros(1, np.int32)  # of the calendars
        self._is_known = np.zeros(1, np.bool_)
        self._limits: SilenceLimits = {}
        # A row for each calendar, a column for each habit in days.
        self._since_ms: Longs = np.full((1, 1), NEVER_MS, np.int64)

    def number(self, site_id: str) -> int:
        """The number of a site; until something else is said it has no days off."""
        number = self.ids.of(site_id)
        if number >= len(self._places):
            room = 2 * len(self._places)
            self._places = np.resize(self._places, room)
            self._places[number:] = 0
            self._is_known = np.resize(self._is_known, room)
            self._is_known[number:] = False
        return number

    def set(self, entry: Site) -> None:
        """Take what the directory says of a site."""
        self.entries[entry.site_id] = entry
        self._set(entry.site_id, calendar_of(entry), is_known=True)

    def remove(self, site_id: str) -> None:
        """Forget what the directory said of a site; devices may still name it."""
        self.entries.pop(site_id, None)
        self._set(site_id, EVERY_DAY, is_known=False)

    def _set(self, site_id: str, calendar: Calendar, *, is_known: bool) -> None:
        number = self.number(site_id)
        place = self._calendar_places.setdefault(calendar, len(self.calendars))
        if place == len(self.calendars):
            self.calendars.append(calendar)
            self.set_limits(self._limits)
        self._places[number] = place
        self._is_known[number] = is_known

    @property
    def is_known(self) -> Bools:
        """For each number, whether the directory says something of the site."""
        return self._is_known[: len(self.ids)]

    def set_limits(self, silence_limits: SilenceLimits) -> None:
        """The moments; for a calendar and a habit without one nobody is overdue."""
        self._limits = silence_limits
        longest = max((days for _, days in silence_limits), default=0)
        # Any longer habit looks at the last column.
        self._since_ms = np.full((len(self.calendars), longest + 2), NEVER_MS, np.int64)
        for (calendar, days), since_ms in silence_limits.items():
            if calendar in self._calendar_places:
                self._since_ms[self._calendar_places[calendar], days] = since_ms

    def since_ms(self, sites: npt.NDArray[np.int32], habits: npt.NDArray[Any]) -> Longs:
        """For devices at these sites, with these habits (0: none is known)."""
        columns = self._since_ms.shape[1]
        cells = self._places[sites] * np.int32(columns) + np.minimum(habits, columns - 1)
        since_ms: Longs = self._since_ms.ravel().take(cells)
        return since_ms

    def today_ms(self, now_ms: int) -> Longs:
        """For each number, when today began at the site; where nothing says its time zone, in UTC."""
        begun = [_midnight_ms(calendar.time_zone, now_ms) for calendar in self.calendars]
        return np.array(begun, np.int64)[self._places[: len(self.ids)]]

    def copy(self) -> "Sites":
        """The same, to go on from here."""
        other = Sites()
        other.ids, other.entries = self.ids.copy(), self.entries.copy()
        # Calendars that are no longer any site's stay behind.
        used = np.union1d(self._places, [0])
        other.calendars = [self.calendars[place] for place in used.tolist()]
        other._calendar_places = {calendar: place for place, calendar in enumerate(other.calendars)}
        other._places = np.searchsorted(used, self._places).astype(np.int32)
        other._is_known = self._is_known.copy()
        other.set_limits(self._limits)
        return other


def calendar_of(site: Site) -> Calendar:
    """The calendar that a site's entry says, as far as there can be such a one.

    Holidays that overlap are one, and where this machine does not know the time zone, dates are those of UTC.
    """
    holidays: list[Holiday] = []
    for first, last in sorted(site.holiday_ranges()):
        if holidays and first <= holidays[-1].last:
            holidays[-1] = Holiday(holidays[-1].first, max(last, holidays[-1].last))
        else:
            holidays.append(Holiday(first, last))
    return Calendar(
        time_zone=_known_zone(site.time_zone),
        days_off=frozenset(map(Weekday, site.days_off)),
        holidays=tuple(holidays),
    )


def _known_zone(name: str) -> str:
    try:
        zone(name)
    except CalendarError:
        return "UTC"
    return name


def _midnight_ms(time_zone: str, now_ms: int) -> int:
    local = from_ms(now_ms).astimezone(zone(time_zone))
    return to_ms(local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0))
