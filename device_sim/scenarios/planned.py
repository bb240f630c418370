"""The fleet of a scenario's file: how many devices of each kind there are, where, and what each of them did.

Pure: the same plan, seed, size and `now` give the same events, byte for byte, on any machine: choices are
drawn by whole numbers from `Random`s that texts seed, speeds are hundredths, and no set is iterated over. A
device's story is made when it is asked for.
"""

from collections.abc import Iterator
from functools import cached_property
from random import Random
from typing import Final

from device_sim.scenario import DEVICES_MAX, Story
from device_sim.scenarios.places import Place
from device_sim.scenarios.plan import Line, Plan, SiteGroup
from device_sim.scenarios.reading import DAY_MS
from device_sim.scenarios.telling import Frame, PlannedDevice, tell
from pisync.domain.directory import WEEKDAYS, DirectoryDevice
from pisync.errors import ConfigurationError

COUNTED_MAX: Final = 500
"""Devices whose events are counted; of a larger fleet it is known about how many there are."""
_TAG_CHARS: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_TAG_LENGTH: Final = 5


class PlannedScenario:
    """The devices of a plan, as of `now`. Without `devices` there are as many as the plan says."""

    def __init__(self, plan: Plan, *, seed: int, now_ms: int, devices: int | None = None) -> None:
        self.plan = plan
        self.seed = seed
        self.devices = plan.devices if devices is None else devices
        if not max(1, len(plan.groups)) <= self.devices <= DEVICES_MAX:
            raise ConfigurationError(
                f"the scenario {plan.name} has {len(plan.groups)} kinds of devices:"
                f" it takes {len(plan.groups)} devices at least, and {DEVICES_MAX} at most"
            )
        self.end_ms = _end_ms(plan, now_ms)
        random = Random(f"{plan.name}/{seed}/tag")
        self._tag = "".join(random.choice(_TAG_CHARS) for _ in range(_TAG_LENGTH))
        self._sizes = _sizes(plan, self.devices)
        self._frame = Frame(
            drawn_from=f"{plan.name}/{seed}",
            first_ms=self.end_ms - plan.span_ms,
            end_ms=self.end_ms,
            now_ms=now_ms,
            causes=plan.causes,
        )
        self._places = {
            group.id: [self._place(group, number) for number in range(1, group.count + 1)]
            for group in plan.sites
        }
        self._nowhere = [self._place(_nowhere(plan.time_zone), 1)]

    @property
    def sites(self) -> list[Place]:
        """All sites."""
        return [place for places in self._places.values() for place in places]

    def story(self, place: int) -> Story:
        """The story of the device at this place, from 0 to `devices` - 1."""
        return tell(self._frame, self.device(place))

    @cached_property
    def events_total(self) -> int:
        """How many distinct events all devices record; about as many, where there are many devices."""
        step = -(-self.devices // COUNTED_MAX)
        counted = range(0, self.devices, step)
        events = sum(
            len(period.backlog) - period.replayed + len(period.live)
            for place in counted
            for period in self.story(place).periods
        )
        return events * self.devices // len(counted)

    def device(self, place: int) -> PlannedDevice:
        """The device at this place."""
        number = place
        kind = 0
        while number >= self._sizes[kind]:
            number -= self._sizes[kind]
            kind += 1
        group = self.plan.groups[kind]
        places = [each for site in group.sites for each in self._places[site]] or self._nowhere
        prefix = "PB" if group.device_type == "PiBook" else "PX"
        return PlannedDevice(
            device_id=f"{prefix}-{self._tag}-{place:05d}",
            group=group,
            place=places[number % len(places)],
            desk=number // len(places) + 1,
        )

    def _place(self, group: SiteGroup, number: int) -> Place:
        frame = self._frame
        return Place(
            seed=frame.drawn_from, group=group, number=number, first_ms=frame.first_ms, end_ms=frame.end_ms
        )

    def entries(self) -> Iterator[DirectoryDevice]:
        """What the directory is told of each device that is listed in it."""
        for place in range(self.devices):
            device = self.device(place)
            if device.group.listed:
                yield device.entry


def _end_ms(plan: Plan, now_ms: int) -> int:
    """When the story ends, by the plan."""
    end_ms = now_ms if plan.end_ms is None else plan.end_ms
    if end_ms > now_ms:
        raise ConfigurationError(f"the scenario {plan.name} ends in the future: it cannot be told yet")
    if plan.ends_at_ms is None:
        return end_ms
    zone = Place(
        seed="", group=_nowhere(plan.time_zone), number=1, first_ms=end_ms - 8 * DAY_MS, end_ms=end_ms
    )
    return max(
        at_ms
        for day in zone.dates(end_ms - 8 * DAY_MS, end_ms)
        if WEEKDAYS[day.weekday()] in plan.ends_on
        and (at_ms := zone.midnight_ms(day) + plan.ends_at_ms) <= end_ms
    )


def _nowhere(time_zone: str) -> SiteGroup:
    """Where devices are that are at no site."""
    return SiteGroup(
        id="",
        name="",
        count=1,
        time_zone=time_zone,
        days_off=(),
        holidays=(),
        line=Line(),
        power_cuts=(),
        labels=(),
    )


def _sizes(plan: Plan, devices: int) -> list[int]:
    """How many devices each group has: those with a count so many, where there is room; each at least one.

    What the shares leave goes to those that lost most by rounding.
    """
    sizes = [group.count or 1 for group in plan.groups]
    if plan.counted and sum(sizes) > devices:
        sizes = [1] * len(sizes)
    if not any(group.share for group in plan.groups):
        sizes[-1] += devices - sum(sizes)
        return sizes
    left = devices - sum(sizes)
    weights = [group.share for group in plan.groups]
    total = sum(weights)
    wanted = [weight * left / total for weight in weights]
    for place, each in enumerate(wanted):
        sizes[place] += int(each)
    behind = sorted(range(len(sizes)), key=lambda place: (int(wanted[place]) - wanted[place], place))
    for place in behind[: devices - sum(sizes)]:
        sizes[place] += 1
    return sizes
