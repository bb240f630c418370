"""Events of devices by day, counted in MongoDB, and kept for a while for who asks again.

The days are those that the projection knows; that costs nothing for days without an event. What was counted
of a device is taken again while nothing newer was received of it, and for a minute at most: an event that a
bridge stores whose clock is behind does not move that, nor does one that retention deletes.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fleet.query import FleetDevice
from pisync import limits
from pisync.stores.interfaces.events import DayFigures, EventStore


class _Kept(NamedTuple):
    """What was counted of a device: as of which receipt, until when it may be told, from which day on."""

    received_ms: int | None
    expires_at: float
    oldest: int
    days: Mapping[int, DayFigures]


class DailyCounts:
    """What was counted last, of the devices that were asked for last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        # One after the other: what many ask for at once is counted for the first of them.
        self._counting = asyncio.Lock()

    async def of(
        self, events: EventStore, devices: Sequence[FleetDevice], oldest: int
    ) -> list[Mapping[int, DayFigures]]:
        """What the events of each device come to, by day from the oldest on; counted from 1970-01-01.

        Raises:
            MongodbUnavailable: something has to be counted, and cannot be.
        """
        async with self._counting:
            return await self._of(events, devices, oldest)

    async def _of(
        self, events: EventStore, devices: Sequence[FleetDevice], oldest: int
    ) -> list[Mapping[int, DayFigures]]:
        now = asyncio.get_running_loop().time()
        found = {device.device_id: self._still(device, oldest, now) for device in devices}
        others = [device for device in devices if found[device.device_id] is None]
        counted = await events.daily({device.device_id: _days(device, oldest) for device in others})
        by_device: dict[str, dict[int, DayFigures]] = {device.device_id: {} for device in others}
        for (device_id, day), figures in counted.items():
            by_device[device_id][day] = figures
        for device in others:
            kept = _Kept(
                device.last_received_ms, now + limits.ACTIVITY_KEPT_S, oldest, by_device[device.device_id]
            )
            self._kept[device.device_id] = found[device.device_id] = kept
            self._kept.move_to_end(device.device_id)
        while len(self._kept) > limits.ACTIVITY_DEVICES_KEPT_MAX:
            self._kept.popitem(last=False)
        return [kept.days for kept in found.values() if kept is not None]

    def _still(self, device: FleetDevice, oldest: int, now: float) -> _Kept | None:
        """What was counted, where it is as good as counted anew."""
        kept = self._kept.get(device.device_id)
        if kept is None or kept.expires_at <= now or kept.oldest > oldest:
            return None
        return kept if kept.received_ms == device.last_received_ms else None


def _days(device: FleetDevice, oldest: int) -> Sequence[int]:
    """Days on which a sync of the device succeeded or failed."""
    return sorted({day for days in (device.ok, device.bad) for day in days if day >= oldest})
