"""A year of a fleet of schools, made up from a seed: what each device recorded, and when it was received.

Pure: the same seed, the same end and the same size give the same events, byte for byte. A device's story is
made when it is asked for. What is received late is: while the line of a school is down, or no bridge listens,
or between two visits of a device that hands its events over every few days, events wait in its spool.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from random import Random
from typing import Final

from device_sim.scenarios.schools import (
    CODE_WEIGHTS,
    CODES,
    DAY_MS,
    HOUR_MS,
    DeviceProfile,
    Rhythm,
    School,
    profile,
    schools,
)
from pisync.clock import EPOCH, from_ms, to_ms
from pisync.domain.events import ErrorDetail, SyncEvent

DAYS_MIN: Final = 40
_ATTENDANCE: Final = 0.94
_BAD_SHARE: Final = 0.97
_DUPLICATES_SHARE: Final = 0.02
_REPLAYING_SHARE: Final = 0.05
_REPLAYED_MS: Final = 30 * DAY_MS
_LESSONS_MS: Final = (7 * HOUR_MS, 18 * HOUR_MS)
_MESSAGES: Final = ("no answer from 10.0.{} within {} s", "could not be read, block {}{}", "")
# When no bridge listened: the share of the year at which that ended, and for how long.
_DEAF: Final = ((0.31, 2 * DAY_MS), (0.62, 5 * HOUR_MS), (0.9, 20 * 60_000))
# And how long before the end of the year the last such time ended.
_DEAF_LAST: Final = (5 * DAY_MS, 30 * HOUR_MS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """An event, and when a bridge received it: for the first time, or again."""

    received_ms: int
    event: SyncEvent


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """All that one device did. `deliveries` are in the order of their receipt; `spool` waits at the end."""

    profile: DeviceProfile
    deliveries: tuple[Delivery, ...]
    spool: tuple[SyncEvent, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Listening:
    """A bridge listened from one moment until another."""

    bridge_id: str
    start_ms: int
    until_ms: int


class Year:
    """The schools, the devices and the bridges of `days` days that end at `until`."""

    def __init__(self, *, seed: int, until: datetime, devices: int, days: int = 365) -> None:
        if devices < 1 or days < DAYS_MIN:
            raise ValueError(f"devices must be at least 1, days at least {DAYS_MIN}")
        self.seed = seed
        self.days = days
        self.until_ms = to_ms(until)
        self.first_ms = self.until_ms - days * DAY_MS
        found = schools(seed, first_ms=self.first_ms, until_ms=self.until_ms, devices=devices)
        self.schools = [school for school, _ in found]
        self._school_of = [school for school, size in found for _ in range(size)]
        self._deaf = self._deaf_times()

    @property
    def devices(self) -> int:
        """How many devices there are."""
        return len(self._school_of)

    def profile(self, place: int) -> DeviceProfile:
        """The device at this place, from 0 to `devices` - 1."""
        school = self._school_of[place]
        return profile(self.seed, place, school, first_ms=self.first_ms, until_ms=self.until_ms)

    def story(self, place: int) -> Story:
        """The story of the device at this place."""
        return _Telling(self, self.profile(place)).story()

    def stories(self) -> Iterator[Story]:
        """All stories, one after the other."""
        return map(self.story, range(self.devices))

    def listening(self) -> list[Listening]:
        """When bridges listened: one through all but the times in which none did, another one seldom."""
        random = Random(f"{self.seed}/listening")
        edges = [self.first_ms, *(edge for deaf in self._deaf for edge in deaf), self.until_ms]
        found = []
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            found.append(Listening(bridge_id="bridge-0", start_ms=start, until_ms=end))
            begins = start + random.randrange(max(1, end - start))
            ends = random.randint(begins, end)
            found.append(Listening(bridge_id="bridge-1", start_ms=begins, until_ms=ends))
        return found

    def heard_ms(self, sent_ms: int, school: School, random: Random) -> int:
        """When something is received that a device of a school sends from a moment on."""
        moment_ms = sent_ms
        while True:
            waits = [end for start, end in school.outages_ms if start <= moment_ms < end]
            spread_ms = 2 * HOUR_MS
            if not waits:
                waits = [end for start, end in self._deaf if start <= moment_ms < end]
                spread_ms = HOUR_MS
            if not waits:
                return moment_ms
            moment_ms = max(waits) + random.randrange(spread_ms)

    def _deaf_times(self) -> list[tuple[int, int]]:
        length_ms = self.until_ms - self.first_ms
        ends = [(self.first_ms + round(share * length_ms), lasts) for share, lasts in _DEAF]
        last_ago_ms, lasted_ms = _DEAF_LAST
        ends.append((self.until_ms - last_ago_ms, lasted_ms))
        found: list[tuple[int, int]] = []
        for end, lasts in sorted(ends):
            if not found or end - lasts > found[-1][1]:
                found.append((end - lasts, end))
        return found


class _Telling:
    """Makes up one story."""

    def __init__(self, year: Year, profile: DeviceProfile) -> None:
        self._year = year
        self._pupil = profile
        self._random = Random(f"{year.seed}/story/{profile.device_id}")
        self._stamped: set[int] = set()
        random = self._random
        self._offset_days = random.randrange(182)
        self._repeats = random.choice((7, 7, 7, 14)) if profile.rhythm is Rhythm.WEEKLY else 28
        if profile.rhythm is Rhythm.MONTHLY:
            self._repeats = random.choice((28, 28, 31))

    def story(self) -> Story:
        year, profile, random = self._year, self._pupil, self._random
        deliveries, spool = [], []
        for moment_ms in self._moments():
            event = self._event(moment_ms)
            sent_ms = self._sent_ms(moment_ms)
            received_ms = year.heard_ms(sent_ms + random.randint(200, 60_000), profile.school, random)
            if received_ms > year.until_ms:
                spool.append(event)
                continue
            deliveries.append(Delivery(received_ms=received_ms, event=event))
            if random.random() < _DUPLICATES_SHARE:
                self._again(deliveries, event, received_ms + random.randrange(2 * DAY_MS))
        self._replay(deliveries)
        deliveries.sort(key=lambda delivery: delivery.received_ms)
        random.shuffle(spool)
        return Story(profile=profile, deliveries=tuple(deliveries), spool=tuple(spool))

    def _again(self, deliveries: list[Delivery], event: SyncEvent, sent_ms: int) -> None:
        received_ms = self._year.heard_ms(sent_ms, self._pupil.school, self._random)
        if received_ms <= self._year.until_ms:
            deliveries.append(Delivery(received_ms=received_ms, event=event))

    def _replay(self, deliveries: list[Delivery]) -> None:
        """Some devices lose their notes of what was confirmed, and send the last weeks again."""
        if self._random.random() >= _REPLAYING_SHARE or not deliveries:
            return
        at_ms = self._random.choice(deliveries).received_ms
        for delivery in list(deliveries):
            if at_ms - _REPLAYED_MS < delivery.received_ms <= at_ms:
                self._again(deliveries, delivery.event, at_ms + self._random.randrange(HOUR_MS))

    def _moments(self) -> Iterator[int]:
        """When the device synced, by true time."""
        profile, random = self._pupil, self._random
        day = (EPOCH + timedelta(milliseconds=profile.first_ms)).date()
        last = (EPOCH + timedelta(milliseconds=profile.last_ms)).date() + timedelta(days=1)
        begins_ms, ends_ms = _LESSONS_MS
        while day <= last:
            if self._syncs_on(day):
                midnight_ms = profile.school.midnight_ms(day)
                count = profile.syncs_a_day if profile.rhythm in {Rhythm.ALWAYS, Rhythm.SCHOOL_DAYS} else 1
                for _ in range(count):
                    moment_ms = midnight_ms + random.randrange(begins_ms, ends_ms)
                    if profile.first_ms <= moment_ms < profile.last_ms:
                        yield moment_ms
            day += timedelta(days=1)

    def _syncs_on(self, day: date) -> bool:
        number = day.toordinal() + self._offset_days
        match self._pupil.rhythm:
            case Rhythm.NEVER:
                return False
            case Rhythm.TWICE_A_YEAR:
                return number % 182 == 0
            case Rhythm.WEEKLY | Rhythm.MONTHLY:
                return number % self._repeats == 0
            case Rhythm.ALWAYS:
                return self._random.random() < _ATTENDANCE
            case Rhythm.SCHOOL_DAYS:
                return self._pupil.school.is_open(day) and self._random.random() < _ATTENDANCE

    def _sent_ms(self, moment_ms: int) -> int:
        """When a device that hands its events over every few days does so next."""
        every_ms = self._pupil.backlog_days * DAY_MS
        return moment_ms if not every_ms else moment_ms - moment_ms % -every_ms

    def _event(self, moment_ms: int) -> SyncEvent:
        profile, random = self._pupil, self._random
        wrong_from_ms, wrong_until_ms = profile.clock_wrong_ms
        stamp_ms = moment_ms + (profile.clock_ms if wrong_from_ms <= moment_ms < wrong_until_ms else 0)
        while stamp_ms in self._stamped:
            stamp_ms += 1
        self._stamped.add(stamp_ms)
        fails = random.random() < (_BAD_SHARE if moment_ms >= profile.bad_ms else profile.failing)
        files = random.randrange(1, 200)
        if fails and random.random() < 0.6:
            files = 0
        errors = self._errors() if fails else []
        return SyncEvent(
            device_id=profile.device_id,
            timestamp=from_ms(stamp_ms),
            total_files_synced=files,
            total_errors=max(1, len(errors)) if fails else 0,
            internet_speed=round(random.uniform(0.05, 1) if fails else random.uniform(0.3, 60), 2),
            device_type=profile.device_type if profile.tells_type else None,
            sync_duration_ms=800 + files * 100 if random.random() < 0.9 else None,
            errors=errors or None,
        )

    def _errors(self) -> list[ErrorDetail]:
        random = self._random
        code = self._pupil.code if random.random() < 0.8 else random.choices(CODES, CODE_WEIGHTS)[0]
        if not code:
            return []
        first = random.choice(_MESSAGES).format(random.randrange(90), random.randrange(90))
        others = random.choices(CODES[:3], k=random.randrange(3))
        return [
            ErrorDetail(code=code, message=first),
            *(ErrorDetail(code=other, message="") for other in others),
        ]
