"""The made-up fleet that `pisync up --demo` opens on: five schools and 60 devices, and five weeks of theirs.

Pure: the same end gives the same fleet. A school day is the seven hours before the time of day at which the
story ends, so that one is behind it whenever somebody looks; the syncs of the same devices after that are a
slow school day without end.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from random import Random
from typing import Final

import msgspec

from device_sim.scenarios.schools import DAY_MS, HOUR_MS
from device_sim.scenarios.year import Delivery, Listening
from pisync.clock import from_ms, rfc3339, to_ms
from pisync.domain import decoding, topics
from pisync.domain.dead_letters import DeadLetter, dead_letter
from pisync.domain.directory import WEEKDAYS, DirectoryDevice, Site
from pisync.domain.events import ErrorDetail, SyncEvent
from pisync.limits import STREAK_ALERT

SEED: Final = 1
DAYS: Final = 35
LABEL: Final = "demo"
LINE_DOWN_SITE: Final = "S-2"
DEVICES_OF_SITE: Final = 12
_MINUTE_MS: Final = 60_000
_PAUSE_S: Final = (5.0, 20.0)
_RECEIVED_EVERY_MS: Final = 20 * _MINUTE_MS
_LESSONS_MS: Final = 7 * HOUR_MS
# When no bridge listened, before the end: at night, by the story's own hours.
_DEAF_MS: Final = (12 * DAY_MS + 14 * HOUR_MS, 12 * DAY_MS + 10 * HOUR_MS)
_SITES: Final = (
    ("S-1", "Kampala Primary", "Africa/Kampala"),
    (LINE_DOWN_SITE, "Gulu Central", "Africa/Kampala"),
    ("S-3", "Mbale Hill School", "Africa/Kampala"),
    ("S-4", "Kisumu Lakeside", "Africa/Nairobi"),
    ("S-5", "Dodoma Secondary", "Africa/Dar_es_Salaam"),
)
_MESSAGES: Final = {
    "E_TIMEOUT": "The server did not answer within 30 s",
    "E_DISK": "A file could not be read from the SD card",
    "E_CHECKSUM": "The uploaded file differs from the one on the device",
}


class Role(StrEnum):
    """What a device is there to show."""

    GOOD = "good"
    LINE_DOWN = "line_down"
    BAD_CARD = "bad_card"
    WOBBLY = "wobbly"
    NEVER_HEARD = "never_heard"
    OVERDUE = "overdue"
    LATE = "late"
    WEEKLY = "weekly"
    RETIRED = "retired"


_ROLES: Final = {
    "PB-103": Role.BAD_CARD,
    "PB-105": Role.WOBBLY,
    "PB-109": Role.WEEKLY,
    "PB-302": Role.WOBBLY,
    "PB-309": Role.NEVER_HEARD,
    "PB-311": Role.RETIRED,
    "PB-404": Role.OVERDUE,
    "PB-407": Role.WOBBLY,
    "PB-410": Role.WEEKLY,
    "PB-506": Role.LATE,
}
_SILENT: Final = {Role.NEVER_HEARD, Role.OVERDUE, Role.WEEKLY, Role.RETIRED}
_WRONG_CLOCK: Final = "PB-508"
_CUT_SHORT: Final = "PB-402"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sync:
    """A sync of the day that goes on; an empty code: it succeeded. The next one follows after the pause."""

    device_id: str
    code: str
    pause_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Letter:
    """A message that was not taken in, and when it came."""

    received_ms: int
    letter: DeadLetter


class Demo:
    """The fleet as of a moment."""

    def __init__(self, *, until: datetime, seed: int = SEED) -> None:
        self._seed = seed
        self._until_ms = to_ms(until)
        self._first_ms = self._until_ms - DAYS * DAY_MS
        # A school day ends at `until`, also at a weekend.
        self._days_off = {5: ("sunday",), 6: ("friday", "saturday")}.get(
            until.weekday(), ("saturday", "sunday")
        )
        self.sites = [
            Site(
                site_id=site_id,
                name=name,
                time_zone=zone,
                days_off=self._days_off,
                holidays=(str((until - timedelta(days=16)).date()),),
                labels=(LABEL,),
                note="Made up.",
            )
            for site_id, name, zone in _SITES
        ]
        self.devices = [
            DirectoryDevice(
                device_id=f"PB-{site.site_id[2:]}{place:02d}",
                name=f"{site.name}, desk {place}",
                site=site.site_id,
                labels=(LABEL,),
                retired=role_of(f"PB-{site.site_id[2:]}{place:02d}") is Role.RETIRED,
            )
            for site in self.sites
            for place in range(1, DEVICES_OF_SITE + 1)
        ]

    def deliveries(self) -> list[Delivery]:
        """All events, in the order of their receipt."""
        found = [each for device in self.devices for each in self._story(device.device_id)]
        return sorted(found, key=lambda each: (each.received_ms, each.event.device_id))

    def listening(self) -> list[Listening]:
        """When the bridge listened: always but for one night's hours."""
        deaf, again = (self._until_ms - ago for ago in _DEAF_MS)
        return [
            Listening(bridge_id="bridge-0", start_ms=self._first_ms - DAY_MS, until_ms=deaf),
            Listening(bridge_id="bridge-0", start_ms=again, until_ms=self._until_ms),
        ]

    def letters(self) -> list[Letter]:
        """Messages of a device whose clock was never set or is ahead, and one that was cut short."""
        clocks = [
            *((hours, from_ms(hours * _MINUTE_MS)) for hours in (6, 5, 4)),
            (3, from_ms(self._until_ms + 400 * DAY_MS)),
        ]
        found = [
            self._letter(_WRONG_CLOCK, hours, _as_sent(sync_event(Random(hours), _WRONG_CLOCK, moment, "")))
            for hours, moment in clocks
        ]
        cut_short = b'{"device_id":"PB-402","timestamp":"2026-05-08T12:00:00Z","total_files_'
        return [*found, self._letter(_CUT_SHORT, 26, cut_short)]

    def school_day(self) -> Iterator[Sync]:
        """Syncs without end that follow the story: every device goes on as what it is there to show."""
        random = Random(f"{self._seed}/school_day")
        speaking = [each.device_id for each in self.devices if role_of(each.device_id) not in _SILENT]
        for turn in itertools.count():
            for device_id in random.sample(speaking, len(speaking)):
                code = _code_of_today(role_of(device_id), turn, random)
                yield Sync(device_id=device_id, code=code, pause_s=random.uniform(*_PAUSE_S))

    def _letter(self, device_id: str, hours_ago: int, payload: bytes) -> Letter:
        received_ms = self._until_ms - hours_ago * HOUR_MS
        rejections = decoding.decode(payload, device_id, from_ms(received_ms)).rejections
        letter = dead_letter(
            topic=topics.sync(device_id), device_id=device_id, payload=payload, rejections=rejections
        )
        return Letter(received_ms=received_ms, letter=letter)

    def _story(self, device_id: str) -> Iterator[Delivery]:
        role = role_of(device_id)
        random = Random(f"{self._seed}/{device_id}")
        for moment_ms, code in self._syncs(role, random):
            # Together with others of some minutes: one write for each would take long to load.
            received_ms = moment_ms - moment_ms % -_RECEIVED_EVERY_MS
            if role is Role.LATE and moment_ms > self._until_ms - 18 * DAY_MS:
                received_ms = self._until_ms - 2 * HOUR_MS
            event = sync_event(random, device_id, from_ms(moment_ms), code)
            yield Delivery(received_ms=min(received_ms, self._until_ms), event=event)

    def _syncs(self, role: Role, random: Random) -> Iterator[tuple[int, str]]:
        """When it synced, and the code by which that failed; empty: it did not."""
        if role is Role.NEVER_HEARD:
            return
        quiet_days = {Role.OVERDUE: 12, Role.RETIRED: 20}.get(role, 0)
        for back in range(DAYS - 1, quiet_days - 1, -1):
            anchor_ms = self._until_ms - back * DAY_MS
            if role is Role.WEEKLY:
                is_due = back % 7 == 2
            else:
                is_open = WEEKDAYS[from_ms(anchor_ms).weekday()] not in self._days_off
                is_due = is_open and (role is not Role.GOOD or random.random() < 0.95)
            count = (3 if role is Role.BAD_CARD else random.randint(1, 3)) if is_due else 0
            # The last hours of today are written below, by what the device is there to show.
            latest_ms = 4 * HOUR_MS if not back else 0
            for _ in range(count):
                moment_ms = anchor_ms - random.randrange(max(latest_ms, _MINUTE_MS), _LESSONS_MS)
                if role is Role.BAD_CARD and back < 5:
                    code = "E_DISK"
                else:
                    code = "E_TIMEOUT" if random.random() < 0.02 and role is Role.GOOD else ""
                yield moment_ms, code
        for ago_minutes, code in _last_hours(role):
            yield self._until_ms - ago_minutes * _MINUTE_MS - random.randrange(9 * _MINUTE_MS), code


def role_of(device_id: str) -> Role:
    """What the device is there to show."""
    if device_id.startswith("PB-2"):
        return Role.LINE_DOWN
    return _ROLES.get(device_id, Role.GOOD)


def _last_hours(role: Role) -> list[tuple[int, str]]:
    match role:
        case Role.GOOD | Role.LATE:
            return [(90, "")]
        case Role.LINE_DOWN:
            return [(170, "E_TIMEOUT"), (110, "E_TIMEOUT"), (50, "E_TIMEOUT")]
        case Role.BAD_CARD:
            return [(60, "E_DISK")]
        case Role.WOBBLY:
            return [(100, ""), (70, "E_CHECKSUM"), (30, "E_CHECKSUM")]
        case _:
            return []


def _code_of_today(role: Role, turn: int, random: Random) -> str:
    match role:
        case Role.LINE_DOWN:
            return "E_TIMEOUT"
        case Role.BAD_CARD:
            return "E_DISK"
        case Role.WOBBLY:
            # Never often enough in a row for an alert.
            return "E_CHECKSUM" if turn % STREAK_ALERT else ""
        case _:
            return "E_TIMEOUT" if random.random() < 0.02 else ""


def sync_event(random: Random, device_id: str, moment: datetime, code: str) -> SyncEvent:
    """A sync of that moment; with a code, a failed one."""
    files = random.randrange(5, 120) if not code else random.choice((0, 0, 3, 8))
    return SyncEvent(
        device_id=device_id,
        timestamp=moment,
        total_files_synced=files,
        total_errors=1 if code else 0,
        internet_speed=round(random.uniform(0.1, 0.8) if code else random.uniform(1, 20), 2),
        device_type="PiBook",
        sync_duration_ms=900 + files * 120,
        errors=[ErrorDetail(code=code, message=_MESSAGES[code])] if code else None,
    )


def _as_sent(event: SyncEvent) -> bytes:
    members = msgspec.to_builtins(event) | {"timestamp": rfc3339(event.timestamp)}
    return msgspec.json.encode({name: value for name, value in members.items() if value is not None})
