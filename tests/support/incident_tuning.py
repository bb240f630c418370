"""Why the figures of incidents are what they are: what these and their neighbours find, miss and overdo.

Run it to have them counted, by seeded fleets and no clock: `python -m tests.support.incident_tuning`.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import numpy as np

from pisync import limits
from pisync.domain import incidents as domain
from pisync.domain.incidents import Held, is_site_failing
from tests.support.incident_fleets import MadeFleet

DEVICES_MIN: Final = (2, 3, 4, 5)
SHARES: Final = (0.4, 0.5, 0.6, 0.7, 0.8)
CHANCES: Final = (1e-2, 1e-3, 1e-4, 1e-5)
HOLDS_S: Final = (0, 30, 60, 120, 300, 600)
_RATES: Final = (0.01, 0.1, 0.3)
_LOOK_S: Final = 10


class Counts(NamedTuple):
    """Sites that are found by chance, true outages that are missed, sites found where a part of it fails."""

    false: int
    missed: int
    overdone: int


@contextmanager
def figures(
    *, devices_min: int | None = None, share: float | None = None, chance: float | None = None
) -> Iterator[None]:
    """Other figures than those of `limits`, while the context lasts."""
    kept = limits.INCIDENT_DEVICES_MIN, limits.INCIDENT_SHARE, domain._CHANCE_LOG
    module = vars(limits)
    try:
        module["INCIDENT_DEVICES_MIN"] = kept[0] if devices_min is None else devices_min
        module["INCIDENT_SHARE"] = kept[1] if share is None else share
        vars(domain)["_CHANCE_LOG"] = kept[2] if chance is None else math.log(chance)
        yield
    finally:
        module["INCIDENT_DEVICES_MIN"], module["INCIDENT_SHARE"], vars(domain)["_CHANCE_LOG"] = kept


class Fleets:
    """Fleets in which nothing is, half of the sites have an outage, or a third of their devices a fault."""

    def __init__(self, sites_of_size: int = 200) -> None:
        self._quiet, self._down, self._part = [], [], []
        for seed, rate in enumerate(_RATES):
            quiet = MadeFleet(31 + seed, sites_of_size)
            quiet.fails_by_chance(rate, same_code=1.0)
            self._quiet.append(quiet)
        for seed, rate in enumerate(_RATES[:2]):
            down = MadeFleet(41 + seed, sites_of_size)
            down.fails_by_chance(rate, same_code=0.7)
            down.has_outage(2, tries=0.8, fails=0.9)
            self._down.append(down)
            part = MadeFleet(51 + seed, sites_of_size)
            part.fails_by_chance(rate, same_code=0.7)
            part.has_outage(2, tries=1.0, fails=0.35)
            self._part.append(part)
        self.sites = len(self._quiet[0].sizes)

    def counts(self) -> Counts:
        """By the figures that hold now; outages and parts are at half of the sites of two fleets each."""
        false = sum(len(each.failing()) for each in self._quiet)
        found = [each.failing() for each in self._down]
        outages = self.sites // 2 * len(found)
        missed = outages - sum(int(np.count_nonzero(each % 2 == 0)) for each in found)
        overdone = sum(int(np.count_nonzero(each.failing() % 2 == 0)) for each in self._part)
        return Counts(false, missed, overdone)


def backlogs_that_seem_an_outage(hold_s: float, *, schools: int = 2000, seed: int = 61) -> int:
    """Of so many schools that come back after an outage, how many are an incident that is over already.

    Its devices failed while their line was down, and all that they kept comes in now, the oldest first, in
    messages that take their time; the last one has the success of today. Until that came, a device fails.
    """
    rng = np.random.default_rng(seed)
    found = 0
    for _ in range(schools):
        size = int(rng.integers(3, 61))
        begins_s = rng.uniform(0, rng.choice([10, 60, 300, 1200]), size)
        messages = rng.integers(1, 7, size)
        a_message_s = rng.choice([1, 5, 15, 40])
        takes_s = np.array([rng.exponential(a_message_s, count).sum() for count in messages])
        # The first message has the failures, and is there when its own time is over.
        first_s = begins_s + takes_s / messages
        last_s = begins_s + takes_s
        held: Held[int] = Held(hold_s)
        for now_s in range(0, int(last_s.max()) + _LOOK_S, _LOOK_S):
            tried = int(np.count_nonzero(now_s >= first_s))
            failing = int(np.count_nonzero((now_s >= first_s) & (now_s < last_s)))
            alike = is_site_failing(tried=tried, failing=failing, alike=failing, expected=0.03 * tried)
            if held.look([1] if alike else [], now_s):
                found += 1
                break
    return found


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def main() -> None:
    """Print the tables."""
    fleets = Fleets()
    _say(f"of {fleets.sites * len(_RATES):,} sites false by chance, of {fleets.sites:,} outages missed,")
    _say(f"of {fleets.sites:,} sites of which 35 % of the devices share a fault overdone:")
    for devices_min in DEVICES_MIN:
        with figures(devices_min=devices_min):
            _say(f"at least {devices_min} devices: {tuple(fleets.counts())}")
    for share in SHARES:
        with figures(share=share):
            _say(f"at least {share:.0%} of those that tried: {tuple(fleets.counts())}")
    for chance in CHANCES:
        with figures(chance=chance):
            _say(f"chance at most {chance:g}: {tuple(fleets.counts())}")
    for hold_s in HOLDS_S:
        _say(f"held for {hold_s} s: {backlogs_that_seem_an_outage(hold_s)} of 2,000 schools that come back")


if __name__ == "__main__":
    main()
