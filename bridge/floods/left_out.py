"""Messages that were neither taken in nor kept: counted, logged, and written down beside the dead letters."""

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Final

from bridge.floods.buckets import Key
from bridge.metrics import Metrics
from pisync import clock, limits, logs
from pisync.domain.events import Reason
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.dead_letters import DeadLetterStore

log = logs.get(__name__)

_DEVICES_TOLD: Final = 5


class LeftOut:
    """Counts them with `add`; `run` writes down of which devices they were."""

    def __init__(self, *, dead_letters: DeadLetterStore, metrics: Metrics) -> None:
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._of_devices: Counter[Key] = Counter()
        self._of_others = 0

    def add(self, device_id: Key, reason: Reason) -> None:
        """Count a message of a device."""
        self._metrics.left_out(reason)
        if device_id in self._of_devices or len(self._of_devices) < limits.LEFT_OUT_DEVICES_MAX:
            self._of_devices[device_id] += 1
        else:
            self._of_others += 1

    async def run(self) -> None:
        """Write down and log now and then, until cancelled; what cannot be written now is written later."""
        while True:
            await asyncio.sleep(limits.LEFT_OUT_INTERVAL_S)
            with suppress(MongodbUnavailable):
                await self.write_down()

    async def write_down(self) -> None:
        """Write down and log what was counted since.

        Raises:
            MongodbUnavailable: nothing was written; it is counted still.
        """
        counted, others = self._of_devices, self._of_others
        if not counted:
            return
        self._of_devices, self._of_others = Counter(), 0
        try:
            await self._dead_letters.record_dropped(counted, clock.now())
        except MongodbUnavailable:
            self._of_devices, self._of_others = counted + self._of_devices, others + self._of_others
            raise
        log.warning(
            "messages left out: neither stored nor kept as dead letters, and not answered",
            messages=counted.total() + others,
            devices=len(counted),
            most=dict(counted.most_common(_DEVICES_TOLD)),
            of_others=others,
        )
