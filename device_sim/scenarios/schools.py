"""Schools and their devices, made up from a seed: what a directory says of them, and what it does not know.

A school has a time zone, days off and holidays, and now and then its line is down for days. A device has a
rhythm, and may be new, silent from some day on, failing, or have a wrong clock.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from random import Random
from typing import Final, Literal
from zoneinfo import ZoneInfo

from pisync.clock import EPOCH, from_ms
from pisync.domain.directory import WEEKDAYS, DirectoryDevice, Site

DAY_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000
DEVICES_OF_SCHOOL: Final = (5, 60)
# A holiday that a school may have, in weeks after each other one.
_TERM_WEEKS: Final = 13
_ZONES: Final = (
    "Africa/Kampala",
    "Africa/Nairobi",
    "Africa/Lagos",
    "Africa/Cairo",
    "Asia/Kathmandu",
    "Asia/Beirut",
    "America/Bogota",
    "America/St_Johns",
    "Pacific/Apia",
    "Europe/Berlin",
)
_WEEKENDS: Final = (("saturday", "sunday"),) * 7 + (("friday", "saturday"), ("sunday",), ())
_NAMES: Final = (
    "Kampala Primary",
    "St. Mary's",
    "école du marché",
    "Ntinda",
    "Üsküdar",
    "=cmd|' /C calc'!A0",
)
_LABELS: Final = ("pilot", "solar", "loan", "2nd floor")
CODES: Final = (
    "E_TIMEOUT",
    "E_DNS",
    "E_TLS",
    "E_DISK",
    "E_CHECKSUM",
    "quota/exceeded",
    "=HYPERLINK(1)",
    "délai dépassé",
    "E_VERY_LONG_CODE_OF_WHICH_ONLY_FORTY_CHARACTERS_ARE_KEPT",
    "-",
    "",
)
"""Codes of failures, the usual ones first; the empty one stands for a failure that gives no errors."""
CODE_WEIGHTS: Final = (30, 15, 10, 8, 6, 3, 2, 2, 2, 1, 4)


class Rhythm(StrEnum):
    """When a device syncs."""

    ALWAYS = "always"
    SCHOOL_DAYS = "school_days"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    TWICE_A_YEAR = "twice_a_year"
    NEVER = "never"


_RHYTHMS: Final = {
    Rhythm.ALWAYS: 15,
    Rhythm.SCHOOL_DAYS: 58,
    Rhythm.WEEKLY: 15,
    Rhythm.MONTHLY: 6,
    Rhythm.TWICE_A_YEAR: 3,
    Rhythm.NEVER: 3,
}


@dataclass(frozen=True, kw_only=True)
class School:
    """A school as its directory has it, and when its line was down."""

    entry: Site
    in_directory: bool
    outages_ms: tuple[tuple[int, int], ...]

    @cached_property
    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.entry.time_zone)

    @cached_property
    def _holidays(self) -> frozenset[date]:
        return frozenset(
            first + timedelta(days=day)
            for first, last in self.entry.holiday_ranges()
            for day in range((last - first).days + 1)
        )

    def is_open(self, day: date) -> bool:
        """Whether there is school on this date."""
        return WEEKDAYS[day.weekday()] not in self.entry.days_off and day not in self._holidays

    def midnight_ms(self, day: date) -> int:
        """When this date begins at the school."""
        return round(datetime(day.year, day.month, day.day, tzinfo=self._zone).timestamp() * 1000)


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """A device, as its directory has it and as it is. Times are true ones, in epoch milliseconds.

    It has a story from `first_ms` until `last_ms`, fails with the share `failing` of its syncs, and with
    nearly all from `bad_ms` on, mostly with `code`; its events are handed over every `backlog_days` days, at
    once where that is 0. Its clock differs by `clock_ms` between the two moments of `clock_wrong_ms`.
    """

    entry: DirectoryDevice
    in_directory: bool
    school: School
    device_type: Literal["PiBook", "PiBox"]
    tells_type: bool
    rhythm: Rhythm
    syncs_a_day: int
    first_ms: int
    last_ms: int
    failing: float
    bad_ms: int
    code: str
    backlog_days: int
    clock_ms: int
    clock_wrong_ms: tuple[int, int]

    @property
    def device_id(self) -> str:
        """Its id."""
        return self.entry.device_id


def schools(seed: int, *, first_ms: int, until_ms: int, devices: int) -> list[tuple[School, int]]:
    """Schools with so many devices each that they have so many together."""
    random = Random(f"{seed}/schools")
    found: list[tuple[School, int]] = []
    left = devices
    smallest, largest = DEVICES_OF_SCHOOL
    while left:
        size = min(left, random.randint(smallest, min(largest, max(smallest, devices // 4))))
        found.append((_school(random, len(found), first_ms, until_ms), size))
        left -= size
    return found


def _school(random: Random, number: int, first_ms: int, until_ms: int) -> School:
    days = (until_ms - first_ms) // DAY_MS
    entry = Site(
        site_id=f"S-{number:03d}",
        name=f"{random.choice(_NAMES)} {number}",
        time_zone=random.choice(_ZONES),
        days_off=random.choice(_WEEKENDS),
        holidays=tuple(sorted(_holidays(random, number, first_ms, days))),
        labels=tuple(sorted(random.sample(_LABELS, random.randrange(3)))),
    )
    outages = []
    for _ in range(random.randrange(4)):
        begins = first_ms + random.randrange(days * DAY_MS)
        outages.append((begins, begins + random.randint(DAY_MS, 21 * DAY_MS)))
    # The line of every sixth school is down as the year ends; some other schools got theirs back just now.
    if number % 6 == 1:
        outages.append((until_ms - random.randint(DAY_MS, 24 * DAY_MS), until_ms + DAY_MS))
    elif number % 6 == 4:
        outages.append((until_ms - random.randint(8, 24) * DAY_MS, until_ms - 6 * HOUR_MS))
    return School(entry=entry, in_directory=number % 9 != 7, outages_ms=tuple(outages))


def _holidays(random: Random, number: int, first_ms: int, days: int) -> list[str]:
    """Some weeks each term, now for every fourth school; and single days."""
    first = (EPOCH + timedelta(milliseconds=first_ms)).date()
    found = []
    begins = random.randrange(_TERM_WEEKS * 7)
    while begins < days - 30:
        lasts = random.randint(5, 24)
        found.append(_holiday(first, begins, lasts))
        begins += lasts + _TERM_WEEKS * 7 - random.randrange(14)
    if number % 4 == 2:
        found.append(_holiday(first, days - random.randint(5, 20), 25))
    else:
        found.append(_holiday(first, days - 25 + random.randrange(20), 1))
    return found


def _holiday(first: date, begins: int, lasts: int) -> str:
    one, other = first + timedelta(days=begins), first + timedelta(days=begins + lasts - 1)
    return str(one) if one == other else f"{one}/{other}"


def profile(seed: int, place: int, school: School, *, first_ms: int, until_ms: int) -> DeviceProfile:
    """The device at this place of the fleet."""
    random = Random(f"{seed}/device/{place}")
    length_ms = until_ms - first_ms
    device_type: Literal["PiBook", "PiBox"] = random.choice(("PiBook", "PiBook", "PiBox"))
    rhythm = random.choices(list(_RHYTHMS), list(_RHYTHMS.values()))[0]
    is_new, falls_silent = random.random() < 0.1, random.random() < 0.08
    is_flaky, is_bad = random.random() < 0.15, random.random() < 0.07
    clock_ms, clock_wrong_ms = _clock(random, first_ms, until_ms)
    if place % 1000 == 3:  # one that fails all year, more often than lists count
        rhythm, is_bad, falls_silent = Rhythm.ALWAYS, True, False
    in_directory = rhythm is Rhythm.NEVER or place % 23 != 5
    has_site = school.in_directory and place % 31 != 7
    entry = DirectoryDevice(
        device_id=f"{'PB' if device_type == 'PiBook' else 'PX'}-{place:06d}",
        name="" if random.random() < 0.2 else f"{random.choice(_NAMES)}, room {random.randrange(30)}",
        site=school.entry.site_id if has_site else None,
        labels=tuple(sorted(random.sample(_LABELS, random.randrange(3)))),
        habit_days=random.choice((1, 3, 10, 45)) if random.random() < 0.05 else None,
        muted_until=from_ms(until_ms + random.randint(-9, 30) * DAY_MS) if random.random() < 0.05 else None,
        retired=random.random() < 0.03,
    )
    return DeviceProfile(
        entry=entry,
        in_directory=in_directory,
        school=school,
        device_type=device_type,
        tells_type=random.random() < 0.9,
        rhythm=rhythm,
        syncs_a_day=4 if place % 1000 == 3 else random.randint(1, 3),
        first_ms=first_ms + random.randrange(length_ms) if is_new else first_ms,
        last_ms=until_ms - random.randrange(length_ms // 2) if falls_silent else until_ms,
        failing=random.uniform(0.1, 0.5) if is_flaky else 0.02,
        bad_ms=first_ms if place % 1000 == 3 else until_ms - random.randrange(length_ms) * is_bad,
        code=random.choices(CODES, CODE_WEIGHTS)[0],
        backlog_days=random.choice((1, 2, 4, 9)) if random.random() < 0.12 else 0,
        clock_ms=clock_ms,
        clock_wrong_ms=clock_wrong_ms,
    )


def _clock(random: Random, first_ms: int, until_ms: int) -> tuple[int, tuple[int, int]]:
    """By how much a device's clock is wrong, and when: behind for some weeks, or always a little ahead."""
    match random.randrange(20):
        case 0:  # a Pi that does not reach a time server after a cut of its power
            begins = random.randrange(first_ms, until_ms)
            return -random.randint(DAY_MS, 300 * DAY_MS), (begins, begins + random.randrange(60 * DAY_MS))
        case 1:  # less than what is taken for a clock that was never set
            return random.randint(30_000, 9 * 60_000), (first_ms, until_ms)
    return 0, (first_ms, first_ms)
