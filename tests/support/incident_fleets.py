"""Fleets made up for the figures of incidents: devices that fail and are silent by chance, and true outages.

Run it to have the false and the missed counted: `python -m tests.support.incident_fleets`.
"""

import sys
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fleet import incidents
from fleet.index import Fleet
from pisync.domain.calendars import EVERY_DAY, silence_limit_ms
from pisync.domain.days import DAY_MS, Days
from pisync.domain.habits import HABIT_DAYS, habit_days
from pisync.domain.incidents import IncidentKey, is_spreading

# A Wednesday, 11:00 UTC.
NOW_MS: Final = 20_600 * DAY_MS + 11 * 3_600_000
SIZES: Final = (3, 5, 8, 13, 20, 40, 60)
_DAYS: Final = 64
_HOUR_MS: Final = 3_600_000
Longs = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class MadeFleet:
    """Sites of each size, with as many devices; what happens to the devices is said afterwards."""

    def __init__(self, seed: int, sites_of_size: int, now_ms: int = NOW_MS) -> None:
        self.rng = np.random.default_rng(seed)
        self.now_ms = now_ms
        self.sizes = np.repeat(np.array(SIZES), sites_of_size)
        self.site = np.repeat(np.arange(1, len(self.sizes) + 1), self.sizes)
        self.size = len(self.site)
        self.fleet = fleet = Fleet()
        fleet.ids.add(
            np.arange(self.size, dtype=np.int32), np.array([f"PB-{n:07}" for n in range(self.size)], "S")
        )
        fleet.columns.make_room(self.size)
        for number in range(1, len(self.sizes) + 1):
            fleet.sites.number(f"S-{number}")
        self.set("site", self.site)
        self.set("in_directory", np.ones(self.size, np.bool_))
        found = {(EVERY_DAY, days): silence_limit_ms(EVERY_DAY, days, now_ms, ()) for days in HABIT_DAYS}
        fleet.set_limits(found)

    def set(self, column: str, values: npt.NDArray[Any], rows: Any = slice(None)) -> None:
        """Have these values in a column."""
        getattr(self.fleet.columns, column)[: self.size][rows] = values

    def fails_by_chance(
        self, rate: float, *, same_code: float, broken: float = 0.02, active: float = 0.7
    ) -> None:
        """Each try fails by itself with such a rate, some days have several; a few devices are broken.

        `rate` is the mean of what devices have each for itself. So many failures have the same code.
        """
        rng, size = self.rng, self.size
        rates = np.clip(rng.gamma(2.0, rate / 2, size), 0, 0.95)
        is_active = rng.random((size, _DAYS)) < active
        tries = 1 + rng.poisson(0.5, (size, _DAYS))
        failed = rng.binomial(tries, rates[:, None]) * is_active
        good = (tries - failed) * is_active
        broken_for = np.where(rng.random(size) < broken, rng.integers(1, 60, size), 0)
        is_broken = np.arange(_DAYS)[None, :] < broken_for[:, None]
        failed = np.where(is_broken, tries * is_active, failed)
        good = np.where(is_broken, 0, good)
        newest = np.argmax(is_active, axis=1)
        at = np.arange(size), newest
        last_fails = (good[at] == 0) | (rng.random(size) < failed[at] / np.maximum(1, failed[at] + good[at]))
        last_fails &= failed[at] > 0
        success = np.argmax(good > 0, axis=1)
        age_ms = newest * DAY_MS + rng.integers(0, 5 * _HOUR_MS, size)
        seen_ms = self.now_ms - age_ms
        # Of a day with both, a failure that is the newest comes after the success.
        success_ms = np.where(
            success == newest, seen_ms - np.where(last_fails, 1000, 0), self.now_ms - success * DAY_MS
        )
        success_ms[~(good > 0).any(axis=1)] = 0
        days = failed > 0
        self.set("seen_ms", seen_ms)
        self.set("success_ms", np.minimum(success_ms, seen_ms))
        self.set("failure_ms", np.where(last_fails, seen_ms, 0))
        self.set("streak", np.where(last_fails, np.maximum(failed[at], 1), 0))
        self.set("failures", days.sum(axis=1))
        codes = np.where(rng.random(size) < same_code, 0, rng.integers(1, 6, size))
        numbers = np.array([self.fleet.codes.of(f"E_{number}") for number in range(6)])
        self.set("code", numbers[codes])
        for name, mask in (("ok", good > 0), ("bad", days)):
            self.set(f"{name}_day", np.full(size, self.now_ms // DAY_MS))
            self.set(f"{name}_bits", _bits(mask))

    def has_outage(self, hours: float, *, tries: float = 0.8, fails: float = 0.97) -> Bools:
        """Every second site of each size has its line down; which devices tried since."""
        rng = self.rng
        hit = self.site % 2 == 0
        tried = hit & (rng.random(self.size) < tries)
        fails_now = tried & (rng.random(self.size) < fails)
        since_ms = self.now_ms - round(hours * _HOUR_MS)
        moment = rng.integers(since_ms, self.now_ms, self.size)
        columns = self.fleet.columns
        self.set("seen_ms", moment[tried], tried)
        self.set("success_ms", moment[tried & ~fails_now], tried & ~fails_now)
        good_before = np.minimum(columns.success_ms[: self.size], since_ms - 1)
        self.set("success_ms", good_before[fails_now], fails_now)
        self.set("failure_ms", moment[fails_now], fails_now)
        self.set("streak", np.where(fails_now, rng.integers(1, 4, self.size), 0)[tried], tried)
        self.set("code", np.full(int(fails_now.sum()), self.fleet.codes.of("E_LINE")), fails_now)
        return np.asarray(tried, np.bool_)

    def is_heard(
        self, habits: Mapping[str, float], silent_days: float | None = None, apart: float = 0.0
    ) -> None:
        """Devices with these habits, each so often; every second site is silent for so long.

        `apart`: so many of the silent ones are heard all the same.
        """
        rng, size = self.rng, self.size
        kinds = rng.choice(len(habits), size, p=list(habits.values()))
        weekday = (self.now_ms // DAY_MS - np.arange(_DAYS) + 3) % 7  # 1970-01-01 was a Thursday
        is_school_day = weekday < 5
        heard = np.zeros((size, _DAYS), np.bool_)
        for number, name in enumerate(habits):
            some = kinds == number
            count = int(some.sum())
            chance = {
                "daily": np.full(_DAYS, 0.9),
                "school days": np.where(is_school_day, 0.9, 0.0),
                "twice a week": np.where(is_school_day, 0.4, 0.0),
                "weekly": np.zeros(_DAYS),
            }[name]
            heard[some] = rng.random((count, _DAYS)) < chance
            if name == "weekly":
                day = rng.integers(0, 7, count)
                heard[some] = weekday[None, :] == day[:, None]
        at_hour = rng.integers(0, 10 * _HOUR_MS, size)
        receipt_ms = (
            (self.now_ms // DAY_MS - np.arange(_DAYS))[None, :] * DAY_MS + 7 * _HOUR_MS + at_hour[:, None]
        )
        heard &= receipt_ms <= self.now_ms
        if silent_days is not None:
            cut_ms = self.now_ms - round(silent_days * DAY_MS)
            hit = (self.site % 2 == 0) & (rng.random(size) >= apart)
            heard &= ~(hit[:, None] & (receipt_ms > cut_ms))
        newest = np.argmax(heard, axis=1)
        received_ms = np.where(heard.any(axis=1), receipt_ms[np.arange(size), newest], 0)
        bits = _bits(heard) >> newest.astype(np.uint64)
        days = self.now_ms // DAY_MS - newest
        self.set("received_ms", received_ms)
        self.set("seen_ms", received_ms)
        self.set("heard_day", days)
        self.set("heard_bits", bits)
        self.set("learned_habit", np.array([habit_days(Days(1, each)) or 0 for each in bits.tolist()]))

    def failing(self) -> Longs:
        """The numbers of the sites that are found failing."""
        return _numbers(incidents.failing_sites(self.fleet, self.now_ms))

    def silent(self) -> Longs:
        """The numbers of the sites that are found silent."""
        return _numbers(incidents.silent_sites(self.fleet, self.now_ms))


def _numbers(found: Mapping[IncidentKey, object]) -> Longs:
    return np.array(sorted(int((key.site or "S-0")[2:]) for key in found), np.int64)


def _bits(mask: Bools) -> npt.NDArray[np.uint64]:
    weights = np.uint64(1) << np.arange(_DAYS, dtype=np.uint64)
    return np.asarray((mask * weights).sum(axis=1), np.uint64)


def by_size(made: MadeFleet, sites: Longs) -> dict[int, int]:
    """How many of these sites have each size."""
    return {size: int(np.count_nonzero(made.sizes[sites - 1] == size)) for size in SIZES}


def spread_by_chance(mean: float, spread: float, days: int = 1_000_000) -> float:
    """How often a code seems to spread on a weekday, of which so many devices have a failure on each.

    Weekends have none. Beside chance, each day's mean differs by so much.
    """
    rng = np.random.default_rng(5)
    means = mean * (rng.gamma(1 / spread**2, spread**2, (days, 6)) if spread else np.ones((days, 6)))
    counts = rng.poisson(means)
    usual, now = counts[:, :5].max(axis=1), counts[:, 5]
    found = [
        is_spreading(devices=int(one), sites=int(one), at_one_site=1, usual=float(before))
        for one, before in zip(now[now >= 2 * usual], usual[now >= 2 * usual], strict=True)
    ]
    return sum(found) / days


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")


def main() -> None:
    """Print what is found by chance, and of what is true."""
    say("failing: false, of 2,800 sites at one moment; all failures have one code")
    for rate in (0.01, 0.03, 0.1, 0.2, 0.4):
        made = MadeFleet(1, 400)
        made.fails_by_chance(rate, same_code=1.0)
        say(f"  rate {rate:4}: {by_size(made, made.failing())}")
    for hours in (0.5, 2.0, 8.0):
        for rate in (0.01, 0.1, 0.2):
            made = MadeFleet(2, 400)
            made.fails_by_chance(rate, same_code=0.7)
            made.has_outage(hours)
            found = made.failing()
            say(
                f"failing: found of 200 outages of {hours} h, rate {rate}, 80 % tried:"
                f" {by_size(made, found[found % 2 == 0])}; false {len(found[found % 2 == 1])}"
            )
    for mean in (2, 5, 10, 30, 100, 1000):
        for spread in (0.0, 0.3):
            say(
                f"spreading: false a year and code that {mean} devices have a weekday, ± {spread:.0%}:"
                f" {spread_by_chance(mean, spread) * 261:.4f}"
            )
    habits = {
        "daily": {"daily": 1.0},
        "school days": {"school days": 1.0},
        "weekly": {"weekly": 1.0},
        "mixed": {"school days": 0.5, "twice a week": 0.3, "weekly": 0.2},
    }
    for name, each in habits.items():
        false = [0] * 7
        for back in range(7):
            made = MadeFleet(3 + back, 200, NOW_MS - back * DAY_MS)
            made.is_heard(each)
            false[back] = len(made.silent())
        say(f"silent: false at seven days of 1,400 sites, {name}: {false}")
        for days in (1.5, 3.0, 5.0, 9.0):
            made = MadeFleet(20, 200)
            made.is_heard(each, days)
            found = made.silent()
            say(
                f"silent: found of 100 for {days} days, {name}: {by_size(made, found[found % 2 == 0])};"
                f" false {len(found[found % 2 == 1])}"
            )


if __name__ == "__main__":
    main()
