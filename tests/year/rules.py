"""What operators should be told, counted once more from the stored events in the plainest way.

Written from the documents, sharing no code with the product: only the standard library is imported.
It does no I/O; its caller brings the evidence, and the moment.
"""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, Final
from zoneinfo import ZoneInfo

Json = dict[str, Any]

SECOND_MS: Final = 1000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS
# No time zone has its midnight anywhere else.
_QUARTER_MS: Final = 15 * MINUTE_MS
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

STATES: Final = ("failing", "wobbly", "overdue", "never_heard", "good")
"""The worst first."""
NO_CODE: Final = "-"
ALERT_STREAK: Final = 3
LOOKED_BACK_DAYS: Final = 400
WINDOW_DAYS: Final = 64
CELL_DAYS: Final = 28
COUNTED_MAX: Final = 1000
"""Lists count failures up to here."""
CODE_CHARS: Final = 40
GAP_MS_MIN: Final = 10 * SECOND_MS
LATE_MS: Final = DAY_MS
NOT_IN_TIME_MS: Final = HOUR_MS
AHEAD_MS: Final = 120 * SECOND_MS
SUSPECT_DAYS: Final = 3
SAMPLES: Final = 5
SAMPLED: Final = 20


def text_of(moment_ms: int | None) -> str | None:
    """A moment as answers tell it."""
    if moment_ms is None:
        return None
    moment = _EPOCH + timedelta(milliseconds=moment_ms)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment_ms % 1000:03d}Z"


def ms_of(moment: datetime) -> int:
    """Milliseconds since 1970."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def day_of(moment_ms: int) -> int:
    """The day in UTC, counted from 1970-01-01."""
    return moment_ms // DAY_MS


def day_text(day: int) -> str:
    """Such as 2026-05-08."""
    return (_EPOCH + timedelta(days=day)).date().isoformat()


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """An event as MongoDB has it. `errors` are pairs of code and message; None: it gave none."""

    device_id: str
    timestamp_ms: int
    received_ms: int
    files: int
    errors: int
    speed: float
    device_type: str | None
    duration_ms: int | None
    details: tuple[tuple[str, str], ...] | None

    @property
    def outcome(self) -> str:
        """How it went."""
        if not self.errors:
            return "success"
        return "partial" if self.files else "failed"

    @property
    def code(self) -> str:
        """The code of its first error, as far as it is kept; empty where it gave none."""
        return self.details[0][0][:CODE_CHARS] if self.details else ""

    @property
    def cause(self) -> str:
        """The same as answers tell it."""
        return self.code or NO_CODE

    def row(self) -> Json:
        """As a history tells it."""
        details = self.details
        return {
            "timestamp": text_of(self.timestamp_ms),
            "outcome": self.outcome,
            "total_files_synced": self.files,
            "total_errors": self.errors,
            "internet_speed": self.speed,
            "device_type": self.device_type,
            "sync_duration_ms": self.duration_ms,
            "errors": None if details is None else [{"code": c, "message": m} for c, m in details],
            "received_at": text_of(self.received_ms),
        }


def habit(heard: Collection[int]) -> int | None:
    """Within how many days a device is usually heard, by the days on which it was; None: not known."""
    newest = max(heard, default=0)
    days = sorted(day for day in heard if newest - day < WINDOW_DAYS)
    gaps = sorted((newer - older for older, newer in pairwise(days)), reverse=True)
    if len(gaps) < 2:
        return None
    tenth = len(gaps) // 10
    if not tenth and gaps[0] >= 3 * gaps[1]:
        tenth = 1
    for days_of_class in (2, 4, 7, 14, 30):

        def fits(gap: int, days_of_class: int = days_of_class) -> bool:
            return gap < 30 if days_of_class == 30 else gap + math.ceil(gap / 3) <= days_of_class

        if all(map(fits, gaps[tenth:])):
            return days_of_class if sum(filter(fits, gaps)) >= 14 else None
    return None


@lru_cache(maxsize=64)
def _dates(time_zone: str, first_quarter: int, quarters: int) -> list[tuple[int, date]]:
    """When each date begins in a zone, found by asking every hour, and near midnight every quarter of it."""
    zone = ZoneInfo(time_zone)

    def date_at(quarter: int) -> date:
        return (_EPOCH + timedelta(milliseconds=quarter * _QUARTER_MS)).astimezone(zone).date()

    found = [(first_quarter * _QUARTER_MS, date_at(first_quarter))]
    last = first_quarter + quarters - 1
    for hour in range(first_quarter, last + 4, 4):
        quarter = min(hour, last)
        day = date_at(quarter)
        if day != found[-1][1]:
            begins = next(
                each for each in range(max(first_quarter, quarter - 3), quarter + 1) if date_at(each) == day
            )
            found.append((begins * _QUARTER_MS, day))
    return found


class CountedTime:
    """The time that counts for the silence of a site's devices, until now."""

    def __init__(self, site: Json | None, gaps: Sequence[tuple[int, int]], now_ms: int) -> None:
        earliest_ms = now_ms - LOOKED_BACK_DAYS * DAY_MS
        time_zone = "UTC" if site is None else site["time_zone"]
        days_off = set() if site is None else set(site["days_off"])
        closed = {day for holiday in ([] if site is None else site["holidays"]) for day in _days(holiday)}
        first_quarter = earliest_ms // _QUARTER_MS
        dates = _dates(time_zone, first_quarter, now_ms // _QUARTER_MS - first_quarter + 1)
        ends = [start_ms for start_ms, _ in dates[1:]] + [now_ms]
        self._parts: list[tuple[int, int]] = []
        for (start_ms, day), end_ms in zip(dates, ends, strict=True):
            if _WEEKDAYS[day.weekday()] not in days_off and day not in closed:
                self._parts += _without(gaps, max(start_ms, earliest_ms), end_ms)
        self._ends = [end_ms for _, end_ms in self._parts]
        # For each part, how much counts from its beginning until now.
        self._until_now = [0] * (len(self._parts) + 1)
        for place in reversed(range(len(self._parts))):
            start_ms, end_ms = self._parts[place]
            self._until_now[place] = self._until_now[place + 1] + end_ms - start_ms
        self.today_ms = dates[-1][0]

    def since(self, moment_ms: int) -> int:
        """How much of the time since a moment counts."""
        place = bisect_right(self._ends, moment_ms)
        if place == len(self._parts):
            return 0
        start_ms, _ = self._parts[place]
        return self._until_now[place] - max(0, moment_ms - start_ms)


def _days(holiday: str) -> list[date]:
    first, _, last = holiday.partition("/")
    begins, ends = date.fromisoformat(first), date.fromisoformat(last or first)
    return [begins + timedelta(days=number) for number in range((ends - begins).days + 1)]


def _without(gaps: Sequence[tuple[int, int]], start_ms: int, end_ms: int) -> list[tuple[int, int]]:
    """What of a time is in no gap."""
    parts = [(start_ms, end_ms)]
    for gap_start, gap_end in gaps:
        parts = [
            rest
            for start, end in parts
            for rest in ((start, min(end, gap_start)), (max(start, gap_end), end))
            if rest[0] < rest[1]
        ]
    return parts


def gaps_of(intervals: Iterable[tuple[int, int]], since_ms: int, until_ms: int) -> list[tuple[int, int]]:
    """When no bridge listened, of a time; less than ten seconds are none."""
    found: list[tuple[int, int]] = []
    heard_until = since_ms
    for start_ms, end_ms in sorted(intervals):
        if start_ms > heard_until:
            found.append((heard_until, min(start_ms, until_ms)))
        heard_until = max(heard_until, end_ms)
    found.append((heard_until, until_ms))
    return [gap for gap in found if gap[1] - gap[0] > GAP_MS_MIN]


@dataclass(kw_only=True)
class Device:
    """What the events of a device, and the directory, come to."""

    device_id: str
    events: list[Stored] = field(default_factory=list)
    entry: Json | None = None

    def said(self, name: str) -> Any:
        """What the directory says; None where it says nothing."""
        return None if self.entry is None else self.entry.get(name)

    @property
    def site(self) -> str | None:
        """Its site."""
        found: str | None = self.said("site")
        return found

    @property
    def retired(self) -> bool:
        """Whether it is missed no longer."""
        return bool(self.said("retired"))

    @cached_property
    def in_order(self) -> list[Stored]:
        """By its own clock."""
        return sorted(self.events, key=lambda event: event.timestamp_ms)

    @cached_property
    def newest(self) -> Stored | None:
        """The newest, by its own clock."""
        return self.in_order[-1] if self.events else None

    @cached_property
    def received_ms(self) -> int | None:
        """When something of it was received last."""
        return max((event.received_ms for event in self.events), default=None)

    @cached_property
    def failures(self) -> list[Stored]:
        """Those with errors, oldest first."""
        return [event for event in self.in_order if event.errors]

    @cached_property
    def streak(self) -> int:
        """Failures since its newest success."""
        count = 0
        for event in reversed(self.in_order):
            if not event.errors:
                break
            count += 1
        return count

    @cached_property
    def last_success_ms(self) -> int | None:
        """Its newest success."""
        return max((event.timestamp_ms for event in self.events if not event.errors), default=None)

    @cached_property
    def cause(self) -> str | None:
        """Why it fails now."""
        return self.failures[-1].cause if self.streak else None

    @cached_property
    def ok(self) -> set[int]:
        """Days of successes."""
        return _window(day_of(event.timestamp_ms) for event in self.events if not event.errors)

    @cached_property
    def bad(self) -> set[int]:
        """Days of failures."""
        return _window(day_of(event.timestamp_ms) for event in self.failures)

    @cached_property
    def heard(self) -> set[int]:
        """Days on which something of it was received."""
        return _window(day_of(event.received_ms) for event in self.events)

    @cached_property
    def habit(self) -> int | None:
        """As set, or as learned."""
        return self.said("habit_days") or habit(self.heard)

    @cached_property
    def lateness_ms(self) -> int | None:
        """How much later than its own time what came last was received, at least."""
        if self.newest is None or self.received_ms is None:
            return None
        return max(0, self.received_ms - self.newest.timestamp_ms)

    @cached_property
    def clock_suspect(self) -> bool:
        """Whether its clock is ahead of ours, or may be behind."""
        if self.newest is None or self.received_ms is None:
            return False
        day = day_of(self.newest.timestamp_ms)
        behind = [heard for heard in self.heard if heard > day + 1]
        return self.newest.timestamp_ms - self.received_ms > AHEAD_MS or len(behind) >= SUSPECT_DAYS


def _window(days: Iterable[int]) -> set[int]:
    found = set(days)
    newest = max(found, default=0)
    return {day for day in found if newest - day < WINDOW_DAYS}


class Count:
    """Everything that is told of a fleet at a moment, counted from its events."""

    def __init__(
        self,
        *,
        events: Iterable[Stored],
        devices: Iterable[Json],
        sites: Iterable[Json],
        listened: Collection[tuple[int, int]],
        now_ms: int,
    ) -> None:
        self.now_ms = now_ms
        self.events = list(events)
        self.site_entries = {entry["site_id"]: entry for entry in sites}
        self.devices: dict[str, Device] = {}
        for event in self.events:
            self._device(event.device_id).events.append(event)
        for entry in devices:
            self._device(entry["device_id"]).entry = entry
        self.gaps = gaps_of(listened, now_ms - LOOKED_BACK_DAYS * DAY_MS, now_ms)
        self._counted: dict[str | None, CountedTime] = {}

    def _device(self, device_id: str) -> Device:
        return self.devices.setdefault(device_id, Device(device_id=device_id))

    def at(self, now_ms: int) -> "Count":
        """The same at another moment; nothing is counted twice but what depends on it."""
        other = object.__new__(Count)
        other.__dict__.update(self.__dict__)
        for name in ("states", "rows"):
            other.__dict__.pop(name, None)
        other.now_ms, other._counted = now_ms, {}
        # The newest gap goes on, where nobody listens now.
        other.gaps = [(start, now_ms if end == self.now_ms else end) for start, end in self.gaps]
        return other

    def counted_at(self, site: str | None) -> CountedTime:
        """The time that counts at a site."""
        entry = self.site_entries.get(site or "")
        place = None if entry is None else site
        if place not in self._counted:
            self._counted[place] = CountedTime(entry, self.gaps, self.now_ms)
        return self._counted[place]

    def silent_ms(self, device: Device) -> int:
        """For how long it has been silent, as far as that counts."""
        return self.counted_at(device.site).since(device.received_ms or 0)

    def state(self, device: Device) -> str:
        """The worst that holds."""
        if device.streak:
            return "failing" if device.streak >= ALERT_STREAK else "wobbly"
        if device.newest is None:
            return "never_heard"
        if device.habit is not None and self.silent_ms(device) > device.habit * DAY_MS:
            return "overdue"
        return "good"

    @cached_property
    def states(self) -> dict[str, str]:
        """Of every device."""
        return {device_id: self.state(device) for device_id, device in self.devices.items()}

    @cached_property
    def rows(self) -> dict[str, Json]:
        """Every device as lists tell it."""
        return {device_id: self._row(device) for device_id, device in self.devices.items()}

    def _row(self, device: Device) -> Json:
        newest, lateness_ms = device.newest, device.lateness_ms
        return {
            "device_id": device.device_id,
            "name": device.said("name") or None,
            "site": device.site,
            "labels": sorted(device.said("labels") or []),
            "type": None if newest is None else newest.device_type,
            "state": self.states[device.device_id],
            "streak": min(device.streak, COUNTED_MAX),
            "failures": min(len(device.failures), COUNTED_MAX),
            "cause": device.cause,
            "last_received": text_of(device.received_ms),
            "last_seen": None if newest is None else text_of(newest.timestamp_ms),
            "last_success": text_of(device.last_success_ms),
            "last_failure": text_of(device.failures[-1].timestamp_ms) if device.failures else None,
            "habit_days": device.habit,
            "partial": bool(device.streak and newest is not None and newest.files),
            "late": lateness_ms is not None and lateness_ms > LATE_MS,
            "clock_suspect": device.clock_suspect,
            "muted_until": device.said("muted_until"),
            "retired": device.retired,
        }

    def present(self, retired: bool | None = False) -> list[Device]:
        """The devices, without retired ones, by id."""
        found = [self.devices[device_id] for device_id in sorted(self.devices)]
        return [device for device in found if retired is None or device.retired == retired]

    def by_site(self) -> dict[str | None, list[Device]]:
        """The devices of each site, without retired ones."""
        found: dict[str | None, list[Device]] = defaultdict(list)
        for device in self.present():
            found[device.site].append(device)
        return found

    def states_of(self, devices: Iterable[Device]) -> dict[str, int]:
        """How many are in each state."""
        states = [self.states[device.device_id] for device in devices]
        return {state: states.count(state) for state in STATES}

    def failing(self) -> list[Device]:
        """Those that fail now, without retired ones."""
        return [device for device in self.present() if device.streak]


def by_cause(devices: Iterable[Device]) -> Mapping[str, list[Device]]:
    """Those that fail now, by their cause."""
    found: dict[str, list[Device]] = defaultdict(list)
    for device in devices:
        if device.cause is not None:
            found[device.cause].append(device)
    return found
