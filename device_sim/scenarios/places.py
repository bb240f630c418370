"""The sites of a scenario as they were: when each was open, and when its line or its power was away."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from random import Random
from typing import Final
from zoneinfo import ZoneInfo

from device_sim.scenarios.plan import Interruption, SiteGroup
from device_sim.scenarios.reading import DAY_MS, MINUTE_MS
from pisync.clock import from_ms, to_ms
from pisync.domain.directory import WEEKDAYS, Site

Interval = tuple[int, int]
"""From one moment until another, in epoch milliseconds."""

_FAR_MS: Final = 2 * DAY_MS


@dataclass(frozen=True, kw_only=True)
class Place:
    """One site. Its own choices are drawn from the seed and its id."""

    seed: str
    group: SiteGroup
    number: int
    first_ms: int
    end_ms: int

    @property
    def site_id(self) -> str:
        """Its id."""
        return self.group.id if self.group.count == 1 else f"{self.group.id}-{self.number:02d}"

    @property
    def is_told(self) -> bool:
        """Whether it is a site of the file."""
        return bool(self.group.id)

    @property
    def name(self) -> str:
        """What the directory calls it."""
        return self.group.name if self.group.count == 1 else f"{self.group.name} {self.number}"

    @cached_property
    def zone(self) -> ZoneInfo:
        """Its time zone."""
        return ZoneInfo(self.group.time_zone)

    @cached_property
    def entry(self) -> Site:
        """It, as the directory is told of it."""
        group = self.group
        return Site(
            site_id=self.site_id,
            name=self.name,
            time_zone=group.time_zone,
            days_off=tuple(sorted(set(group.days_off), key=WEEKDAYS.index)),
            holidays=tuple(
                f"{first}/{last}" if first != last else f"{first}" for first, last in self._holidays
            ),
            labels=tuple(sorted(set(group.labels))),
            note="Made up.",
        )

    @cached_property
    def _holidays(self) -> list[tuple[date, date]]:
        return sorted(
            (self._date(self.end_ms + first), self._date(self.end_ms + last))
            for first, last in self.group.holidays
        )

    def _date(self, moment_ms: int) -> date:
        return from_ms(moment_ms).astimezone(self.zone).date()

    def dates(self, from_ms_: int, until_ms: int) -> Iterator[date]:
        """The dates that begin before one moment and end after another, in order."""
        day, last = self._date(from_ms_), self._date(until_ms)
        while day <= last:
            yield day
            day += timedelta(days=1)

    def is_open(self, day: date) -> bool:
        """Whether there is school on this date."""
        if WEEKDAYS[day.weekday()] in self.group.days_off:
            return False
        return not any(first <= day <= last for first, last in self._holidays)

    def midnight_ms(self, day: date) -> int:
        """When this date begins here."""
        return to_ms(datetime(day.year, day.month, day.day, tzinfo=self.zone))

    @cached_property
    def line_away(self) -> "Away":
        """When its line was away."""
        return Away(self._intervals("line", self.group.line.outages))

    @cached_property
    def power_away(self) -> "Away":
        """When its power was away."""
        return Away(self._intervals("power", self.group.power_cuts))

    def _intervals(self, what: str, interruptions: Iterable[Interruption]) -> Iterator[Interval]:
        for number, each in enumerate(interruptions):
            random = Random(f"{self.seed}/{self.site_id}/{what}/{number}")
            if each.at is not None:
                begins_ms, ends_ms = each.at
                for day in self.dates(self.first_ms - _FAR_MS, self.end_ms + _FAR_MS):
                    if random.random() < each.share:
                        midnight_ms = self.midnight_ms(day)
                        yield midnight_ms + begins_ms, midnight_ms + ends_ms
            elif each.every_ms:
                at_ms = self.first_ms + random.randrange(each.every_ms)
                while at_ms < self.end_ms:
                    ends_ms = at_ms + _about(random, each.lasts_ms)
                    yield at_ms, ends_ms
                    at_ms = ends_ms + _about(random, each.every_ms - each.lasts_ms + MINUTE_MS)
            else:
                yield self.end_ms + each.from_ms, self.end_ms + each.until_ms


def _about(random: Random, length_ms: int) -> int:
    """From half as long to one and a half times as long."""
    return random.randrange(length_ms // 2, length_ms + length_ms // 2 + 1)


class Away:
    """When something was away: intervals that are found by a moment."""

    def __init__(self, intervals: Iterable[Interval]) -> None:
        joined: list[Interval] = []
        for begins_ms, ends_ms in sorted(intervals):
            if joined and begins_ms <= joined[-1][1]:
                joined[-1] = joined[-1][0], max(joined[-1][1], ends_ms)
            else:
                joined.append((begins_ms, ends_ms))
        self.intervals = joined
        self._begins = [begins_ms for begins_ms, _ in joined]

    def back_ms(self, moment_ms: int) -> int | None:
        """When it is back that is away at a moment; None: it is not away."""
        place = bisect_right(self._begins, moment_ms) - 1
        if place < 0 or moment_ms >= self.intervals[place][1]:
            return None
        return self.intervals[place][1]

    def between(self, from_ms_: int, until_ms: int) -> bool:
        """Whether it was away at any moment after one and up to another."""
        place = bisect_right(self._begins, until_ms) - 1
        return place >= 0 and self.intervals[place][1] > from_ms_
