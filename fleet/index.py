"""The fleet in memory: it takes what changed of devices and sites, and knows the status of each device."""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import count
from typing import Final

import numpy as np

from fleet.columns import Bools, Columns, Indexes
from fleet.order import NO_ROW, IdOrder, NameOrder
from fleet.sites import SilenceLimits, Sites
from fleet.texts import TextNumbers
from pisync import limits
from pisync.clock import to_ms
from pisync.domain.acknowledgements import NO_CODE
from pisync.domain.calendars import Calendar
from pisync.domain.device_status import Status
from pisync.domain.directory import DirectoryDevice, Site
from pisync.domain.habits import HABIT_DAYS, habit_days
from pisync.stores.interfaces.feed import StateSummary

STATUSES: Final = tuple(Status)
FAILING, WOBBLY, OVERDUE, NEVER_HEARD, GOOD = range(len(STATUSES))
# What is learned of a device follows from the days on which it was heard, and many have the same.
_learned_habit = lru_cache(maxsize=16_384)(habit_days)
# Of all fleets, so that none has the version that another one had.
_VERSIONS: Final[Iterator[int]] = count(1)


class Fleet:
    """Every device of the projection and of the directory.

    Devices that are new are not seen before `settle`.
    """

    def __init__(self) -> None:
        self.columns = Columns()
        self.ids = IdOrder()
        self.names = NameOrder()
        self.sites = Sites()
        self.codes = TextNumbers()
        self.device_types = TextNumbers()
        # Sets of labels, each as a number; 0 is the empty one.
        self.label_sets: list[frozenset[str]] = [frozenset()]
        self._label_numbers: dict[frozenset[str], int] = {frozenset(): 0}
        self._unsettled: dict[str, int] = {}
        # Each that is or was in force; those for which, and for how many calendars, moments are known.
        self._habits = {*HABIT_DAYS}
        self._limits_for = (0, 0)
        # Another one where a device, a site, or a status may be another.
        self.version = next(_VERSIONS)

    @property
    def size(self) -> int:
        """How many rows there are to look at; not each is a device that there is."""
        return len(self.ids)

    @property
    def present(self) -> Bools:
        """For each row, whether there is such a device: with events, or in the directory."""
        columns, size = self.columns, self.size
        return columns.in_directory[:size] | (columns.seen_ms[:size] > 0)

    def apply(self, devices: Iterable[tuple[str, StateSummary]]) -> None:
        """Take what changed of these devices; of one that is told twice the last counts."""
        newest = dict(devices)
        rows = self._rows_of(list(newest))
        facts = list(newest.values())
        columns, codes, types = self.columns, self.codes, self.device_types
        columns.received_ms[rows] = [each.received_ms or 0 for each in facts]
        columns.success_ms[rows] = [each.last_success_ms or 0 for each in facts]
        columns.failure_ms[rows] = [each.last_failure_ms or 0 for each in facts]
        columns.failures[rows] = [each.failures for each in facts]
        columns.streak[rows] = [each.streak for each in facts]
        # One that says nothing is none: the answers call both the same.
        columns.code[rows] = [codes.of("" if each.code == NO_CODE else each.code) for each in facts]
        for name in ("ok", "bad", "heard"):
            days = [getattr(each, name) for each in facts]
            getattr(columns, f"{name}_day")[rows] = [each.newest for each in days]
            getattr(columns, f"{name}_bits")[rows] = np.array([each.bits for each in days], np.uint64)
        columns.learned_habit[rows] = [_learned_habit(each.heard) or 0 for each in facts]
        events = [each.last_event for each in facts]
        columns.seen_ms[rows] = [each.timestamp_ms for each in events]
        columns.files[rows] = [each.total_files_synced for each in events]
        columns.errors[rows] = [each.total_errors for each in events]
        columns.speed[rows] = [each.internet_speed for each in events]
        columns.duration_ms[rows] = [
            -1 if each.sync_duration_ms is None else each.sync_duration_ms for each in events
        ]
        columns.device_type[rows] = [types.of(each.device_type or "") for each in events]
        self._judge(rows)

    def set_devices(self, entries: Sequence[DirectoryDevice]) -> None:
        """Take what the directory says of these devices."""
        newest = {entry.device_id: entry for entry in entries}
        rows = self._rows_of(list(newest))
        entries = list(newest.values())
        columns = self.columns
        columns.in_directory[rows] = True
        columns.site[rows] = [self.sites.number(entry.site or "") for entry in entries]
        columns.labels[rows] = [self._labels_number(frozenset(entry.labels)) for entry in entries]
        habits = [entry.habit_days or 0 for entry in entries]
        columns.set_habit[rows] = habits
        self._habits.update(days for days in habits if days)
        columns.muted_until_ms[rows] = [
            0 if entry.muted_until is None else to_ms(entry.muted_until) for entry in entries
        ]
        columns.retired[rows] = [entry.retired for entry in entries]
        self.names.rename(rows.tolist(), [entry.name for entry in entries])
        self._judge(rows)

    def remove_devices(self, device_ids: Iterable[str]) -> None:
        """Forget what the directory said of these devices; those with events stay."""
        rows = self._rows_of(list(dict.fromkeys(device_ids)))
        for column in ("in_directory", "site", "labels", "set_habit", "muted_until_ms", "retired"):
            getattr(self.columns, column)[rows] = 0
        self.names.rename(rows.tolist(), [""] * len(rows))
        self._judge(rows)

    def set_sites(self, entries: Iterable[Site]) -> None:
        """Take what the directory says of these sites."""
        for entry in entries:
            self.sites.set(entry)
        self._judge_all()

    def remove_sites(self, site_ids: Iterable[str]) -> None:
        """Forget what the directory said of these sites; devices may still name them."""
        for site_id in site_ids:
            self.sites.remove(site_id)
        self._judge_all()

    def habits(self) -> set[tuple[Calendar, int]]:
        """For which calendars and habits `set_limits` should say something."""
        return {(calendar, days) for calendar in self.sites.calendars for days in self._habits}

    def set_limits(self, silence_limits: SilenceLimits) -> None:
        """Say since when a device must be silent to be overdue; without that for its habit it is not."""
        self.sites.set_limits(silence_limits)
        if silence_limits.keys() >= self.habits():
            self._limits_for = (len(self.sites.calendars), len(self._habits))
        before, version = self.columns.status[: self.size].copy(), self.version
        self._judge_all()
        # Most of the time nobody became overdue.
        if np.array_equal(before, self.columns.status[: self.size]):
            self.version = version

    @property
    def lacks_limits(self) -> bool:
        """Whether there is a calendar or a habit of which nobody said yet when it makes a device overdue."""
        return self._limits_for != (len(self.sites.calendars), len(self._habits))

    def settle(self) -> None:
        """Let the devices that are new, and names that changed, be seen."""
        if self._unsettled:
            ids = np.array(list(self._unsettled), dtype="S")
            rows = np.array(list(self._unsettled.values()), dtype=np.int32)
            self._unsettled = {}
            self.ids.add(rows, ids)
        self.names.settle(self.size)

    @property
    def unsettled(self) -> int:
        """How many devices are not seen yet, and how many names are not."""
        return len(self._unsettled) + self.names.unsettled

    @property
    def has_many_unsettled(self) -> bool:
        """Whether so many are not seen that it is time to settle them."""
        return self.unsettled > max(limits.FLEET_UNSETTLED_MAX, self.size // limits.FLEET_UNSETTLED_PART)

    def without_facts(self) -> "Fleet":
        """Another fleet, of which nothing is known but what the directory says."""
        self.settle()
        other = Fleet()
        other.columns = self.columns.without_facts()
        other.ids, other.names, other.sites = self.ids.copy(), self.names.copy(), self.sites.copy()
        other.label_sets, other._label_numbers = self.label_sets.copy(), self._label_numbers.copy()
        other._habits = self._habits.copy()
        if not self.lacks_limits:
            other._limits_for = (len(other.sites.calendars), len(other._habits))
        other._judge_all()
        return other

    def _rows_of(self, device_ids: list[str]) -> Indexes:
        """The rows of these devices, each named once; new ones for those that are not known."""
        if not device_ids:
            return np.empty(0, np.intp)
        rows = self.ids.rows_of(np.array(device_ids, dtype="S")).astype(np.intp)
        for place in np.flatnonzero(rows == NO_ROW).tolist():
            rows[place] = self._unsettled.setdefault(device_ids[place], self.size + len(self._unsettled))
        self.columns.make_room(self.size + len(self._unsettled))
        return rows

    def _labels_number(self, labels: frozenset[str]) -> int:
        number = self._label_numbers.setdefault(labels, len(self.label_sets))
        if number == len(self.label_sets):
            self.label_sets.append(labels)
        return number

    def _judge_all(self) -> None:
        self._judge(slice(0, self.size + len(self._unsettled)))

    def _judge(self, rows: Indexes | slice) -> None:
        """Find the status of these devices: the rule of `device_status.status_of`, for many at once."""
        self.version = next(_VERSIONS)
        columns = self.columns
        streak, received_ms = columns.streak[rows], columns.received_ms[rows]
        status = np.full(len(streak), GOOD, np.uint8)
        status[columns.seen_ms[rows] == 0] = NEVER_HEARD
        set_habit = columns.set_habit[rows]
        habits = np.where(set_habit > 0, set_habit, columns.learned_habit[rows])
        since_ms = self.sites.since_ms(columns.site[rows], habits)
        status[(received_ms > 0) & (received_ms < since_ms)] = OVERDUE
        status[streak > 0] = WOBBLY
        status[streak >= limits.STREAK_ALERT] = FAILING
        columns.status[rows] = status
