"""The vocabulary of scenarios: what a file may say of sites, lines, habits, causes, clocks and devices.

Every part can be combined with every other one; no scenario has code of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from device_sim.scenario import Faults
from device_sim.scenarios.reading import Relative, Window


@dataclass(frozen=True, kw_only=True, slots=True)
class Interruption:
    """When a line or the power is away: from one moment to another, at a time of day, or now and then.

    `share`: on so many of the days. `every_ms`: about so often for about `lasts_ms`, each drawn from half of
    it to one and a half times as much.
    """

    from_ms: Relative = 0
    until_ms: Relative = 0
    at: Window | None = None
    share: float = 1
    every_ms: int = 0
    lasts_ms: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A kind of line: its speed (hundredths of a Mbit/s), and when it is away.

    While it is away syncs fail by `cause` (None: they do not, they only wait), and once it is back devices
    connect within `back_within_ms`.
    """

    speed: tuple[int, int] = (100, 2000)
    outages: tuple[Interruption, ...] = ()
    cause: str | None = None
    back_within_ms: int = 60_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Habit:
    """When devices sync: on which days, in which parts of the day, and how often in each of these.

    `days` are names of weekdays; None: the days on which the site is open. `share`: on so many of them.
    """

    days: tuple[str, ...] | None
    every_days: int
    at: tuple[Window, ...]
    syncs: tuple[int, int]
    share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """Why a sync fails; an empty code: it does not say. Files get through all the same in a share `files`."""

    code: str
    message: str
    errors: tuple[int, int]
    files: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Clock:
    """How a clock is wrong between two moments: by an offset, by more each day, or set anew at each boot.

    `boots_at_ms`: at the first sync of a day it begins at this epoch time, as one without a battery does.
    """

    offset_ms: int = 0
    drift_ms: int = 0
    boots_at_ms: int | None = None
    from_ms: Relative | None = None
    until_ms: Relative = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteGroup:
    """Sites of a kind, `count` of them, as the directory is told of them."""

    id: str
    name: str
    count: int
    time_zone: str
    days_off: tuple[str, ...]
    holidays: tuple[tuple[Relative, Relative], ...]
    line: Line
    power_cuts: tuple[Interruption, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Failing:
    """A share of the syncs between two moments fails by a cause."""

    cause: str
    share: float
    from_ms: Relative | None
    until_ms: Relative


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceGroup:
    """Devices of a kind: a share of the fleet, or so many.

    They connect as soon as they can, every `connects_every_ms`, or at a time of day; with a share `resends`
    of their connections the backlog of the one before goes out once more. They are there from one moment to
    another, and in the directory where they are `listed`.
    """

    name: str
    share: float
    count: int
    device_type: Literal["PiBook", "PiBox"]
    sites: tuple[str, ...]
    habit: Habit
    fails: tuple[Failing, ...]
    connects_every_ms: int
    connects_at_ms: int | None
    resends: float
    array_events: int
    spool_events_max: int | None
    tokens: bool
    clock: Clock | None
    payloads: tuple[str, ...]
    faults: Faults
    firmware: str | None
    from_ms: Relative | None
    until_ms: Relative
    listed: bool
    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A whole file. `devices` is how many there are where nobody asks for another number.

    The story takes `span_ms` and ends at `end_ms`, or without it at the newest `ends_at_ms` (a time of day)
    of the days `ends_on`, or else now.
    """

    name: str
    about: str
    devices: int
    span_ms: int
    end_ms: int | None
    ends_at_ms: int | None
    ends_on: tuple[str, ...]
    time_zone: str
    sites: tuple[SiteGroup, ...]
    groups: tuple[DeviceGroup, ...]
    causes: Mapping[str, Cause] = field(repr=False)

    @property
    def counted(self) -> int:
        """Devices of the groups that have a number of their own."""
        return sum(group.count for group in self.groups)
