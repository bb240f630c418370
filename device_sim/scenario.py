"""What a fleet does, made up from a seed: who the devices are, what they record, and when they are offline.

Pure: the same seed and the same `now` give the same events. A device's story is generated when it is asked
for, so that a large fleet is never in memory as a whole.
"""

import itertools
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from random import Random
from typing import Final, Literal

from pisync.clock import from_ms, to_ms
from pisync.domain.events import ErrorDetail, SyncEvent

EVENTS_MAX: Final = 10_000
"""Events a device, at most: hourly syncs, so a little over a year."""
DEVICES_MAX: Final = 100_000
_NUMBERS: Final = 1_000_000  # device ids have six digits
_INTERVAL_MS: Final = 3_600_000
_PERIODS_MAX: Final = 4
_PERIOD_EVENTS: Final = 8  # a device with fewer events than two of these is offline only once
_LIVE_EVENTS_MAX: Final = 3
_FLAKY_SHARE: Final = 0.2
_SINGLES_SHARE: Final = 0.05
_DISORDER_SHARE: Final = 0.3
_REPLAY_SHARE: Final = 0.2
_STREAK_EVENTS_MIN: Final = 4

_ERRORS: Final = (
    ("UPLOAD_TIMEOUT", "The server did not answer within 30 s"),
    ("DNS_FAILURE", "The name of the server could not be resolved"),
    ("CONNECTION_RESET", "The connection was closed during an upload"),
    ("CHECKSUM_MISMATCH", "The uploaded file differs from the one on the device"),
    ("DISK_READ", "A file could not be read from the SD card"),
)


class Profile(StrEnum):
    """How a device's syncs go; a failing one has not had a success for a while."""

    HEALTHY = "healthy"
    FLAKY = "flaky"
    FAILING = "failing"


_FAILURE_SHARE: Final = {Profile.HEALTHY: 0.02, Profile.FLAKY: 0.3, Profile.FAILING: 0.3}


@dataclass(frozen=True, kw_only=True, slots=True)
class Stray:
    """A message to a topic that is not the device's own, and why the bridge rejects it."""

    topic: str
    payload: bytes
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Period:
    """An offline period and the connection that ended it.

    `backlog` lies on the spool when the device connects, in the order in which it goes out; `replayed` is
    how many of it were published once before, in an earlier period. `live` is recorded while connected.
    `connects_ms` is when it connects, epoch milliseconds of the scenario's time; None: whenever it can.
    `raw` are payloads that go out as they are after the backlog, each one that the bridge must reject;
    `raw_reasons` says of each why. `strays` go out too, to topics that are not the device's own: nobody can
    be told of them.
    """

    backlog: tuple[SyncEvent, ...]
    replayed: int
    live: tuple[SyncEvent, ...]
    connects_ms: int | None = None
    raw: tuple[bytes, ...] = ()
    raw_reasons: tuple[str, ...] = ()
    strays: tuple[Stray, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Faults:
    """How often a device, its line or its firmware does wrong: each a share of the messages, from 0 to 1.

    A fault costs messages and time, never an event: what is truncated or claimed in another's name is
    rejected, and the event goes out again as it should be.
    """

    duplicates: float = 0
    disorder: float = 0
    truncations: float = 0
    disconnects: float = 0
    slow_receipts: float = 0
    identity_lies: float = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """All that one device does. `array_events` is the most events it puts into one message.

    `spool_events_max` bounds its spool (None: it holds all); `tokens`: it speaks MQTT 3.1.1 and names a token
    in its topic instead of a Response Topic. `name` and `site` are for the directory. `rejected` is how many
    of its events the bridge must reject, each time that they go out, because of its clock.
    """

    device_id: str
    device_type: Literal["PiBook", "PiBox"]
    profile: Profile
    array_events: int
    failures: int
    streak: int
    periods: tuple[Period, ...]
    spool_events_max: int | None = None
    tokens: bool = False
    faults: Faults = Faults()
    firmware: str | None = None
    name: str | None = None
    site: str | None = None
    rejected: int = 0


class Scenario:
    """A fleet of `devices` devices with `events` events each, the newest a moment before `now`.

    `failing` is the share of devices that end in a streak of failures, from 0 to 1; `array_events` the
    most events in one message of a backlog (some devices publish single events all the same).
    """

    def __init__(
        self,
        *,
        seed: int,
        now: datetime,
        devices: int,
        events: int,
        failing: float = 0.1,
        array_events: int = 50,
    ) -> None:
        if not (1 <= devices <= DEVICES_MAX and 1 <= events <= EVENTS_MAX):
            raise ValueError(f"devices must be 1 to {DEVICES_MAX}, events 1 to {EVENTS_MAX}")
        if not 0 <= failing <= 1:
            raise ValueError("failing must be from 0 to 1")
        self.seed = seed
        self.devices = devices
        self.events = events
        self._now_ms = to_ms(now)
        self._array_events = array_events
        random = Random(seed)
        self._numbers = random.sample(range(_NUMBERS), devices)
        places = random.sample(range(devices), devices)
        failing_devices = round(failing * devices)
        flaky_devices = round(_FLAKY_SHARE * (devices - failing_devices))
        self._failing = frozenset(places[:failing_devices])
        self._flaky = frozenset(places[failing_devices : failing_devices + flaky_devices])
        self._singles = frozenset(random.sample(range(devices), round(_SINGLES_SHARE * devices)))

    @property
    def events_total(self) -> int:
        """How many distinct events all devices record."""
        return self.devices * self.events

    def story(self, place: int) -> Story:
        """The story of the device at this place, from 0 to `devices` - 1."""
        random = Random(f"{self.seed}/{place}")
        device_type: Literal["PiBook", "PiBox"] = random.choice(("PiBook", "PiBox"))
        prefix = "PB" if device_type == "PiBook" else "PX"
        device_id = f"{prefix}-{self._numbers[place]:06d}"
        profile = self._profile(place)
        failed = _failed(random, profile, self.events)
        moment_ms = self._now_ms
        events = []
        for is_failure in reversed(failed):
            moment_ms -= random.randrange(_INTERVAL_MS // 2, _INTERVAL_MS * 3 // 2)
            events.append(_event(random, device_id, device_type, moment_ms, is_failure=is_failure))
        events.reverse()
        return Story(
            device_id=device_id,
            device_type=device_type,
            profile=profile,
            array_events=1 if place in self._singles else self._array_events,
            failures=sum(failed),
            streak=(failed[::-1].index(False) if False in failed else len(failed)),
            periods=_periods(random, events),
        )

    def _profile(self, place: int) -> Profile:
        if place in self._failing:
            return Profile.FAILING
        return Profile.FLAKY if place in self._flaky else Profile.HEALTHY


def _failed(random: Random, profile: Profile, events: int) -> list[bool]:
    """Whether each sync failed, oldest first."""
    failed = [random.random() < _FAILURE_SHARE[profile] for _ in range(events)]
    if profile is Profile.FAILING:
        streak = min(events, max(_STREAK_EVENTS_MIN, round(events * random.uniform(0.1, 0.5))))
        failed[events - streak :] = [True] * streak
    return failed


def _event(
    random: Random,
    device_id: str,
    device_type: Literal["PiBook", "PiBox"],
    moment_ms: int,
    *,
    is_failure: bool,
) -> SyncEvent:
    files = random.randrange(1, 200)
    errors: list[ErrorDetail] = []
    if is_failure:
        files = random.randrange(1, 10) if random.random() < 0.4 else 0
        chosen = random.choices(_ERRORS, k=random.randrange(1, 5))
        errors = [ErrorDetail(code=code, message=message) for code, message in chosen]
    return SyncEvent(
        device_id=device_id,
        timestamp=from_ms(moment_ms),
        total_files_synced=files,
        total_errors=len(errors),
        internet_speed=round(random.uniform(0, 1) if is_failure else random.uniform(0.3, 40), 2),
        device_type=device_type,
        sync_duration_ms=800 + files * random.randrange(40, 400) + len(errors) * 30_000,
        errors=errors or None,
    )


def _periods(random: Random, events: list[SyncEvent]) -> tuple[Period, ...]:
    """Cut a device's events, oldest first, into offline periods, as they reach the broker."""
    count = random.randint(1, min(_PERIODS_MAX, max(1, len(events) // _PERIOD_EVENTS)))
    cuts = [0, *sorted(random.sample(range(1, len(events)), count - 1)), len(events)]
    periods: list[Period] = []
    previous: tuple[SyncEvent, ...] = ()
    for start, end in itertools.pairwise(cuts):
        recorded = events[start:end]
        live = random.randint(0, min(_LIVE_EVENTS_MAX, len(recorded) - 1))
        offline = tuple(recorded[: len(recorded) - live])
        # A power cut took the notes of what was confirmed: the device publishes the last backlog again.
        again = previous if random.random() < _REPLAY_SHARE else ()
        backlog = [*again, *offline]
        if random.random() < _DISORDER_SHARE:
            random.shuffle(backlog)
        periods.append(
            Period(backlog=tuple(backlog), replayed=len(again), live=tuple(recorded[len(offline) :]))
        )
        previous = offline
    return tuple(periods)
