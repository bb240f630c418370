"""What one device of a scenario did: when it synced and connected, and what it recorded, by its own clock."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from random import Random
from typing import Final

from device_sim.scenario import EVENTS_MAX, Period, Profile, Story, Stray
from device_sim.scenarios.payloads import PAYLOADS, Payload
from device_sim.scenarios.places import Place
from device_sim.scenarios.plan import Cause, Clock, DeviceGroup
from device_sim.scenarios.reading import DAY_MS, HOUR_MS, MINUTE_MS
from pisync.clock import from_ms, to_ms
from pisync.domain.directory import WEEKDAYS, DirectoryDevice
from pisync.domain.events import ErrorDetail, SyncEvent
from pisync.limits import CLOCK_EARLIEST_MS, STREAK_ALERT

LABEL: Final = "simulated"
_FLAKY_SHARE: Final = 0.15
# A run takes a while, so that a bridge may take or reject what is stamped in the minutes behind `now`.
_UNCERTAIN_MS: Final = 6 * HOUR_MS
_ON_A_CLOCK_MS: Final = 7


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """What holds for all devices of a scenario: seed, moments in epoch milliseconds, and causes by name."""

    drawn_from: str
    first_ms: int
    end_ms: int
    now_ms: int
    causes: Mapping[str, Cause]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedDevice:
    """A device: its kind, and where it stands."""

    device_id: str
    group: DeviceGroup
    place: Place
    desk: int

    @property
    def site(self) -> str | None:
        """The id of its site."""
        return self.place.site_id if self.place.is_told else None

    @property
    def name(self) -> str:
        """What the directory calls it."""
        at = "" if self.site is None else f"{self.place.name}, "
        return f"{at}{self.group.name} {self.desk}"

    @property
    def entry(self) -> DirectoryDevice:
        """It, as the directory is told of it."""
        labels = tuple(sorted({LABEL, *self.group.labels}))
        return DirectoryDevice(device_id=self.device_id, name=self.name, site=self.site, labels=labels)


def tell(frame: Frame, device: PlannedDevice) -> Story:
    """The story of a device."""
    return _Telling(frame, device).story()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sync:
    """A sync by the true time and by the device's clock, and its event."""

    moment_ms: int
    event: SyncEvent


@dataclass(kw_only=True, slots=True)
class _Connection:
    """What a device sent in one connection."""

    at_ms: int
    backlog: list[_Sync] = field(default_factory=list)
    live: list[_Sync] = field(default_factory=list)


class _Telling:
    """Makes up one story."""

    def __init__(self, frame: Frame, device: PlannedDevice) -> None:
        self._frame = frame
        self._device = device
        self._group = device.group
        self._place = device.place
        self._line = device.place.group.line
        self._random = Random(f"{frame.drawn_from}/{device.device_id}")
        self._stamped: set[int] = set()
        self._backs: dict[int, int] = {}
        self._offset_days = self._random.randrange(400)
        self._hurry_ms = self._random.randrange(DAY_MS)
        self._boot_ms: tuple[date | None, int] = None, 0
        self._from_ms, self._until_ms = self._interval(self._group.from_ms, self._group.until_ms)

    def _interval(self, begins: int | None, ends: int) -> tuple[int, int]:
        """Two moments of the plan, the first None where the story begins, as epoch milliseconds."""
        end_ms = self._frame.end_ms
        return self._frame.first_ms if begins is None else end_ms + begins, end_ms + ends

    def story(self) -> Story:
        connections = self._connections()
        taken = sorted(
            (
                sync.event
                for connection in connections
                for sync in (*connection.backlog, *connection.live)
                if self._is_taken(sync.event)
            ),
            key=lambda event: event.timestamp,
        )
        failed = [event.total_errors > 0 for event in taken]
        failures = sum(failed)
        streak = failed[::-1].index(False) if False in failed else len(failed)
        flaky = failures > _FLAKY_SHARE * len(failed)
        group = self._group
        periods = self._periods(connections)
        return Story(
            device_id=self._device.device_id,
            device_type=group.device_type,
            profile=Profile.FAILING
            if streak >= STREAK_ALERT
            else Profile.FLAKY
            if flaky
            else Profile.HEALTHY,
            array_events=group.array_events,
            failures=failures,
            streak=streak,
            periods=periods,
            spool_events_max=group.spool_events_max,
            tokens=group.tokens,
            faults=group.faults,
            firmware=group.firmware,
            name=self._device.name if group.listed else None,
            site=self._device.site if group.listed else None,
            rejected=sum(
                not self._is_taken(event)
                for period in periods
                for event in (*period.backlog[: group.spool_events_max], *period.live)
            ),
        )

    def _is_taken(self, event: SyncEvent) -> bool:
        return CLOCK_EARLIEST_MS <= to_ms(event.timestamp) <= self._frame.now_ms

    def _connections(self) -> list[_Connection]:
        found: list[_Connection] = []
        for moment_ms in self._moments():
            at_ms = self._connects_ms(moment_ms)
            if at_ms > self._frame.end_ms:
                break  # it waits in the spool, and so does what comes after it
            event = self._event(moment_ms)
            if event is None:
                continue
            sync = _Sync(moment_ms=moment_ms, event=event)
            last = found[-1] if found else None
            if last is not None and at_ms <= last.at_ms:
                last.backlog.append(sync)
            elif last is not None and at_ms == moment_ms and self._stays_online(last.at_ms, moment_ms):
                last.live.append(sync)
            else:
                found.append(_Connection(at_ms=at_ms, backlog=[sync]))
        return found

    def _stays_online(self, since_ms: int, moment_ms: int) -> bool:
        """Whether it is still connected: the whole day, unless the line or the power went away."""
        if self._group.spool_events_max is not None or moment_ms - since_ms >= DAY_MS // 2:
            return False
        return not (
            self._place.line_away.between(since_ms, moment_ms)
            or self._place.power_away.between(since_ms, moment_ms)
        )

    def _connects_ms(self, moment_ms: int) -> int:
        """When it connects with what it recorded at a moment."""
        at_ms = moment_ms
        if self._group.connects_every_ms:
            every_ms = self._group.connects_every_ms
            at_ms += -(at_ms - self._hurry_ms) % every_ms
        elif self._group.connects_at_ms is not None:
            day = from_ms(moment_ms).astimezone(self._place.zone).date()
            at_ms = self._place.midnight_ms(day) + self._group.connects_at_ms
            if at_ms < moment_ms:
                at_ms += DAY_MS
        while True:
            back_ms = self._place.line_away.back_ms(at_ms) or self._place.power_away.back_ms(at_ms)
            if back_ms is None:
                return at_ms
            if back_ms not in self._backs:
                self._backs[back_ms] = back_ms + self._random.randrange(self._line.back_within_ms)
            at_ms = self._backs[back_ms]

    def _moments(self) -> Iterator[int]:
        """When it synced, by true time, in order."""
        habit, place, random = self._group.habit, self._place, self._random
        count = 0
        for day in place.dates(self._from_ms, self._until_ms):
            if (day.toordinal() + self._offset_days) % habit.every_days:
                continue
            is_day = place.is_open(day) if habit.days is None else WEEKDAYS[day.weekday()] in habit.days
            if not is_day or random.random() >= habit.share:
                continue
            midnight_ms = place.midnight_ms(day)
            moments = {
                midnight_ms + random.randrange(begins_ms, ends_ms)
                for begins_ms, ends_ms in habit.at
                for _ in range(random.randint(*habit.syncs))
            }
            for moment_ms in sorted(moments):
                if not self._from_ms <= moment_ms < self._until_ms:
                    continue
                if place.power_away.back_ms(moment_ms) is not None:
                    continue
                count += 1
                if count > EVENTS_MAX:
                    return
                yield moment_ms

    def _event(self, moment_ms: int) -> SyncEvent | None:
        """What it recorded; None where nobody can say whether a bridge takes it."""
        random = self._random
        cause = self._cause(moment_ms)
        errors = [] if cause is None else self._errors(cause)
        files = random.randrange(3, 180)
        low, high = self._line.speed
        if cause is not None:
            files = random.randrange(1, 12) if random.random() < cause.files else 0
            low, high = low // 4, max(low // 4, high // 10)
        speed = random.randint(low, high) / 100
        duration_ms = 800 + files * random.randrange(40, 400) + len(errors) * 30_000
        stamp_ms = self._stamp_ms(moment_ms)
        if 0 < stamp_ms - self._frame.now_ms <= _UNCERTAIN_MS:
            return None
        has_code = cause is not None and cause.code
        return SyncEvent(
            device_id=self._device.device_id,
            timestamp=from_ms(stamp_ms),
            total_files_synced=files,
            total_errors=len(errors),
            internet_speed=speed,
            device_type=self._group.device_type,
            sync_duration_ms=duration_ms,
            errors=errors if has_code else None,
        )

    def _cause(self, moment_ms: int) -> Cause | None:
        """Why the sync of this moment failed."""
        causes = self._frame.causes
        if self._line.cause is not None and self._place.line_away.back_ms(moment_ms) is not None:
            return causes[self._line.cause]
        for each in self._group.fails:
            begins_ms, ends_ms = self._interval(each.from_ms, each.until_ms)
            if begins_ms <= moment_ms < ends_ms and self._random.random() < each.share:
                return causes[each.cause]
        return None

    def _errors(self, cause: Cause) -> list[ErrorDetail]:
        number = self._random.randint(*cause.errors)
        return [ErrorDetail(code=cause.code, message=cause.message) for _ in range(number)]

    def _stamp_ms(self, moment_ms: int) -> int:
        """The moment by the device's clock; no two of its events have the same."""
        clock = self._group.clock
        stamp_ms = moment_ms if clock is None else self._wrong_ms(clock, moment_ms)
        while stamp_ms in self._stamped:
            stamp_ms += _ON_A_CLOCK_MS
        self._stamped.add(stamp_ms)
        return stamp_ms

    def _wrong_ms(self, clock: Clock, moment_ms: int) -> int:
        begins_ms, ends_ms = self._interval(clock.from_ms, clock.until_ms)
        if not begins_ms <= moment_ms < ends_ms:
            return moment_ms
        if clock.boots_at_ms is not None:
            day = from_ms(moment_ms).astimezone(self._place.zone).date()
            if self._boot_ms[0] != day:
                self._boot_ms = day, moment_ms - self._random.randrange(MINUTE_MS, 5 * MINUTE_MS)
            return clock.boots_at_ms + moment_ms - self._boot_ms[1]
        return moment_ms + clock.offset_ms + clock.drift_ms * (moment_ms - begins_ms) // DAY_MS

    def _periods(self, connections: list[_Connection]) -> tuple[Period, ...]:
        payloads = self._payloads(connections)
        found: list[Period] = []
        before: tuple[SyncEvent, ...] = ()
        for number, connection in enumerate(connections):
            again = before if self._group.resends and self._random.random() < self._group.resends else ()
            backlog = tuple(sync.event for sync in connection.backlog)
            before = backlog
            raw = payloads.get(number, [])
            found.append(
                Period(
                    backlog=again + backlog,
                    replayed=len(again),
                    live=tuple(sync.event for sync in connection.live),
                    connects_ms=connection.at_ms,
                    raw=tuple(each.payload for each in raw if not each.topic),
                    raw_reasons=tuple(each.reason.value for each in raw if not each.topic),
                    strays=tuple(
                        Stray(topic=each.topic, payload=each.payload, reason=each.reason.value)
                        for each in raw
                        if each.topic
                    ),
                )
            )
        return tuple(found)

    def _payloads(self, connections: list[_Connection]) -> dict[int, list[Payload]]:
        """What the firmware's bugs make, by the number of the connection in which it goes out."""
        found: dict[int, list[Payload]] = {}
        if not connections:
            return found
        made_of = next((sync.event for sync in connections[0].backlog if self._is_taken(sync.event)), None)
        last = len(connections) - 1
        for number, name in enumerate(self._group.payloads):
            kind = PAYLOADS[name]
            if made_of is None or (kind.contradicts and not last):
                continue  # what it contradicts must be stored in a connection before
            at = last if kind.contradicts else number % len(connections)
            found.setdefault(at, []).append(kind.of(made_of))
        return found
