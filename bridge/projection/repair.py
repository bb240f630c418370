"""Compares everything in the projection with MongoDB, slowly and again and again, and merges what is missing.

A single key of Redis that is deleted or evicted changes no epoch and no watermark: nothing else would notice.
Merging cannot remove what should not be there; `pisync rebuild` does.
"""

import asyncio
from collections.abc import AsyncIterator

from bridge.projection.check import states_by_device
from bridge.projection.projector import AlertReports
from pisync import limits, logs
from pisync.domain.accumulator import StoredEvents
from pisync.domain.device_state import DeviceState
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.events import EventStore
from pisync.stores.interfaces.projection import DeviceRecord, Projection

log = logs.get(__name__)


class Repair:
    """The comparison of one bridge; at any time one bridge of all compares."""

    def __init__(
        self, *, bridge_id: str, events: EventStore, projection: Projection, alerts: AlertReports
    ) -> None:
        """Prepare; nothing is asked of any store yet.

        Args:
            bridge_id: who compares.
            events: the truth.
            projection: what is compared with it, and mended.
            alerts: who hears of those that may have to change with what is mended.
        """
        self._bridge_id = bridge_id
        self._alerts = alerts
        self._events = events
        self._projection = projection
        self.repaired = 0

    async def run(self) -> None:
        """Compare again and again, until cancelled, a small part of the time.

        Raises:
            RedisUnavailable: Redis is unavailable.
        """
        loop = asyncio.get_running_loop()
        pause_s = limits.COMPARE_INTERVAL_S
        while True:
            await asyncio.sleep(pause_s)
            began_at = loop.time()
            try:
                await self.compare()
            except MongodbUnavailable as error:
                log.debug("comparison of the projection interrupted", why=str(error))
            pause_s = max(limits.COMPARE_INTERVAL_S, limits.COMPARE_PAUSES * (loop.time() - began_at))

    async def compare(self) -> None:
        """Compare every device once, unless another bridge does, and merge what is missing of it.

        Raises:
            Unavailable: a store is unavailable.
        """
        if not await self._projection.claim_comparison(self._bridge_id):
            return
        async for states in self._states():
            records = await self._projection.records(list(states))
            missing = {
                device_id: state
                for (device_id, state), record in zip(states.items(), records, strict=True)
                if is_missing_from(record, state)
            }
            if missing:
                self._alerts.report(await self._projection.apply(missing, anew=True))
                self.repaired += len(missing)
                some = sorted(missing)[: limits.COMPARE_NAMED_MAX]
                log.warning("the projection had lost facts; merged again", devices=len(missing), some=some)

    async def _states(self) -> AsyncIterator[dict[str, DeviceState]]:
        """What all events come to, and then what deleted ones came to, so slowly that nobody notices."""
        async for states in states_by_device(self._batches()):
            yield states
        async for states in self._events.bases():
            if not await self._is_ours_after(len(states)):
                return
            yield states

    async def _batches(self) -> AsyncIterator[StoredEvents]:
        slowly = self._events.replay(None, held_bytes_max=limits.COMPARE_GROUPED_BYTES_MAX)
        async for batch in slowly:
            yield batch
            if not await self._is_ours_after(len(batch)):
                return

    async def _is_ours_after(self, read: int) -> bool:
        """Rest for what was read, where it is still this bridge that compares."""
        if not await self._projection.claim_comparison(self._bridge_id):
            return False
        await asyncio.sleep(read / limits.COMPARE_EVENTS_PER_S)
        return True


def is_missing_from(record: DeviceRecord, state: DeviceState) -> bool:
    """Whether the record lacks something of the state; it may well have more, for events go on coming in."""
    kept = record.state
    if kept is None or kept.merge(state) != kept:
        return True
    expected = DeviceRecord.of(kept)
    return not record.numbered or record.told != expected.told or dict(record.ranks) != dict(expected.ranks)
