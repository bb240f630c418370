"""The duty of retention: deletes events that are old, some at a time, after what they come to is kept.

An event is counted (rollups) and merged into its device's base before it goes, so that nothing that is told
of a device, of a time or of a code changes by that. Each step may be repeated, by whoever and as often as one
likes: what was merged already changes nothing, and what was deleted is not there.
"""

import asyncio

from pisync import limits, logs
from pisync.clock import from_ms, rfc3339, to_ms
from pisync.domain.accumulator import Accumulator
from pisync.domain.retention import doubted_since_ms, kept_since_ms
from pisync.stores.interfaces.bridges import BridgeRegistry
from pisync.stores.interfaces.retention import RetentionProgress, RetentionStore
from pisync.stores.interfaces.rollups import RollupStore

log = logs.get(__name__)

WAITS_FOR_ROLLUPS = "what is old is not counted for good yet"
WAITS_FOR_THE_CLOCK = (
    f"the clock of MongoDB went on by more than {limits.RETENTION_JUMP_S / 86_400:g} days since a worker last"
    f" looked, at %s: if that is right, what is old is deleted from {limits.RETENTION_DOUBT_S / 3600:g} hours"
    " later on"
)


class Retaining:
    """One term of the duty, in one worker; `days` None: events are kept for ever."""

    def __init__(
        self, *, store: RetentionStore, rollups: RollupStore, registry: BridgeRegistry, days: int | None
    ) -> None:
        self._store = store
        self._rollups = rollups
        self._registry = registry
        self._days = days
        self.progress: RetentionProgress | None = None
        self.deleted = 0
        self._doubted_ms: int | None = None

    async def run(self) -> None:
        """Look for what is old, and delete it, until cancelled.

        Raises:
            MongodbUnavailable: whoever begins again goes on.
        """
        while True:
            before = self.deleted
            await self.look()
            if self.deleted > before and self.progress is not None:
                kept = rfc3339(from_ms(self.progress.before_ms))
                log.info("old events deleted", events=self.deleted - before, received_before=kept)
            is_waiting = self.progress is not None and self.progress.waits_for
            await asyncio.sleep(limits.RETENTION_WAIT_S if is_waiting else limits.RETENTION_INTERVAL_S)

    async def look(self) -> None:
        """Delete all that is old by now, and say how far that is."""
        now_ms = to_ms(await self._registry.server_time())
        known = await self._store.progress()
        if known is not None:
            self._doubted_ms = doubted_since_ms(now_ms, looked_ms=known.at_ms, doubted_ms=known.doubted_ms)
        before_ms = 0 if self._days is None else kept_since_ms(now_ms, self._days)
        oldest_ms = await self._store.oldest_ms()
        if oldest_ms is None or oldest_ms >= before_ms:
            await self._tell(before_ms=0, now_ms=now_ms)
        elif self._doubted_ms is not None:
            why = WAITS_FOR_THE_CLOCK % rfc3339(from_ms(self._doubted_ms))
            await self._tell(before_ms=0, now_ms=now_ms, waits_for=why)
        elif not await self._rollups.fix(before_ms):
            await self._tell(before_ms=0, now_ms=now_ms, waits_for=WAITS_FOR_ROLLUPS)
        else:
            # First of all: whoever finds an event gone is to find that it may be.
            await self._tell(before_ms=before_ms, now_ms=now_ms)
            while await self._rested_step(before_ms):
                await self._tell(before_ms=before_ms, now_ms=now_ms)

    async def step(self, before_ms: int) -> bool:
        """Keep what some old events come to, and delete them; False where there are none."""
        batch = await self._store.old(before_ms)
        accumulator = Accumulator()
        accumulator.add(batch)
        for states in accumulator.take(limits.RETENTION_DEVICES_AT_ONCE):
            await self._store.keep(states, batch.enriched_at)
        deleted = await self._store.delete(batch) if len(batch) else 0
        self.deleted += deleted
        return deleted > 0

    async def _rested_step(self, before_ms: int) -> bool:
        """A step, and then a rest: where MongoDB is busy a step takes longer, and so does the rest."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        has_more = await self.step(before_ms)
        await asyncio.sleep((loop.time() - began) * (1 / limits.RETENTION_SHARE - 1))
        return has_more

    async def _tell(self, *, before_ms: int, now_ms: int, waits_for: str = "") -> None:
        known = await self._store.progress()
        self.progress = RetentionProgress(
            days=self._days,
            before_ms=max(before_ms, known.before_ms if known else 0),
            oldest_ms=await self._store.oldest_ms(),
            waits_for=waits_for,
            at_ms=now_ms,
            doubted_ms=self._doubted_ms,
        )
        await self._store.save(self.progress)
