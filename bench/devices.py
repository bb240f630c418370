"""A fleet without a history: the directory's entry and the projection's state of each of its devices."""

import random
from typing import Final

from bench.traffic import HOUR_MS
from pisync.domain.days import DAY_MS, Days
from pisync.domain.device_state import DeviceState, LastEvent
from pisync.domain.directory import DirectoryDevice, Site

SITE_DEVICES: Final = 40
CODES: Final = ("E_NET", "E_TIMEOUT", "E_DISK", *(f"E_{number}" for number in range(50)))
_FAILING: Final = 0.05


def device_id(number: int) -> str:
    """The id of the device with this number."""
    return f"PB-{number:07d}"


def site(number: int) -> Site:
    """The site with this number."""
    return Site(site_id=f"site-{number}")


def entry(number: int) -> DirectoryDevice:
    """A device with a name and a site."""
    site_number = number // SITE_DEVICES
    return DirectoryDevice(
        device_id=device_id(number),
        name=f"School {site_number} device {number % SITE_DEVICES}",
        site=f"site-{site_number}",
        labels=("north",) if number % 3 else ("loan", "south"),
    )


def state(number: int, chance: random.Random, *, until_ms: int) -> DeviceState:
    """Heard on half of the days, last within the day before `until_ms`; one device in twenty fails."""
    newest_ms = until_ms - chance.randrange(DAY_MS)
    streak = chance.randint(1, 20) if chance.random() < _FAILING else 0
    failures_ms = tuple(newest_ms - HOUR_MS * back for back in reversed(range(streak)))
    heard = Days(newest_ms // DAY_MS, chance.getrandbits(64) | 1)
    return DeviceState(
        last_success_ms=None if streak else newest_ms,
        failures_ms=failures_ms,
        last_event=LastEvent(newest_ms, 20, int(streak > 0), 3.2, "PiBook" if number % 4 else "PiBox", 5_400),
        received_ms=newest_ms,
        code=chance.choice(CODES) if streak else "",
        ok=heard,
        bad=Days(newest_ms // DAY_MS, streak and 1),
        heard=heard,
    )
