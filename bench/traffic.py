"""The traffic that is measured: made up from numbers, so that every run and every rival gets the same.

A tenth of the devices keeps failing and the others fail now and then. Event `i` of a fleet of `devices`
belongs to device `i % devices`: neighbours in a backlog are of different devices, which spares nobody work.
Only the date is that of the run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Final, Self

import msgspec

from bench.scale import Scale
from pisync import clock
from pisync.domain import topics
from pisync.domain.events import ErrorDetail, SyncEvent

FAILING_ONE_IN: Final = 10
DEVICES: Final = 10_000
# How many devices take turns, as many as the simulated fleet connects at once: each sends its whole backlog.
TOGETHER: Final = 200
BEGIN_MS: Final = clock.to_ms(datetime(2026, 1, 1, tzinfo=clock.EPOCH.tzinfo))
HOUR_MS: Final = 3_600_000
_INTERVAL_MS: Final = 600_000
# Coprime to the sizes of the fleets: devices come in an order that is not that of their ids.
_STRIDE: Final = 7919
_DAY_MS: Final = 86_400_000
_SPARE_NUMBERS: Final = 500
_ERRORS: Final = [ErrorDetail(code="UPLOAD_TIMEOUT", message="The server did not answer within 30 s")]
_encode: Final = msgspec.json.Encoder().encode


def windows(total: int, size: int) -> Iterator[range]:
    """The numbers from 0 to `total`, so many at a time."""
    for first in range(0, total, size):
        yield range(first, min(first + size, total))


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """`events` events over `devices` devices, as many of one as of another.

    They end so long before today that every device may go on with `spare_numbers` further events.
    """

    devices: int
    events: int
    interval_ms: int = _INTERVAL_MS
    spare_numbers: int = _SPARE_NUMBERS
    prefix: str = "PB"

    @classmethod
    def of_fleet(cls, scale: Scale, events: int) -> Self:
        """The traffic of the fleet that most rows measure with, so many events in the full run."""
        devices = scale.of(DEVICES, at_least=TOGETHER)
        return cls(devices=devices, events=devices * (events // DEVICES))

    @property
    def events_per_device(self) -> int:
        """Events of every device."""
        return self.events // self.devices

    def device_id(self, device: int) -> str:
        """The id of the device with this number."""
        return f"{self.prefix}-{device:06d}"

    @cached_property
    def _begin_ms(self) -> int:
        """Such that the newest events are of these days: those of a device are looked for from today on."""
        today_ms = clock.to_ms(clock.now()) // _DAY_MS * _DAY_MS
        return today_ms - (self.events_per_device + self.spare_numbers) * self.interval_ms

    def event(self, device: int, number: int) -> SyncEvent:
        """The event of this number, from 0, of a device."""
        fails = self.fails(device, number)
        mixed = device * 31 + number * 17
        return SyncEvent(
            device_id=self.device_id(device),
            timestamp=clock.from_ms(self._begin_ms + number * self.interval_ms + device % 1000),
            total_files_synced=0 if fails else 1 + mixed % 200,
            total_errors=int(fails),
            internet_speed=(mixed % 4000) / 100,
            device_type="PiBook" if device % 2 else "PiBox",
            sync_duration_ms=800 + mixed % 60_000,
            errors=_ERRORS if fails else None,
        )

    def shuffled(self, visit: int) -> int:
        """The device whose turn it is, in an order that is not that of the ids."""
        return visit * _STRIDE % self.devices

    def fails(self, device: int, number: int) -> bool:
        """Whether that sync failed."""
        return device % FAILING_ONE_IN == 0 or (device * 7 + number * 13) % 29 == 0

    def single_messages(self, *, together: int | None = None) -> Iterator[tuple[str, bytes]]:
        """A topic and a payload for each event.

        Args:
            together: how many devices come back at the same time and take turns until each has sent all its
                events; None: all of them, so that neighbours are always of different devices.
        """
        together = together or self.devices
        topic_of = [topics.sync(self.device_id(device)) for device in range(self.devices)]
        for wave in windows(self.devices, together):
            for number in range(self.events_per_device):
                for device in wave:
                    yield topic_of[device], _encode(self.event(device, number))

    def backlogs(self, array_events: int) -> Iterator[tuple[str, bytes]]:
        """A topic and a payload for each array of so many events."""
        for numbers in windows(self.events_per_device, array_events):
            for device in range(self.devices):
                yield (
                    topics.sync(self.device_id(device)),
                    _encode([self.event(device, number) for number in numbers]),
                )

    @property
    def failures(self) -> int:
        """How many of the events are failures."""
        return sum(
            self.fails(device, number)
            for device in range(self.devices)
            for number in range(self.events_per_device)
        )
