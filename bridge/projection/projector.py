"""Keeps Redis in step with what this bridge stored in MongoDB, and makes it whole again when it is not.

Redis being unavailable never holds up an event: what could not be merged is in MongoDB, and the projector
remembers from which time of receipt on it has to replay. The same memory is in Redis, as the bridge's
watermark, where it is lost and rolled back together with the data. See docs/architecture.md, "Redis can
burn".
"""

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from bridge.alerts.judge import Judge
from bridge.metrics import Metrics
from pisync import backoff, clock, limits, logs
from pisync.domain.alerts import Rule
from pisync.domain.device_state import project
from pisync.domain.events import SyncEvent
from pisync.errors import MongodbUnavailable, RedisUnavailable, Unavailable
from pisync.stores.interfaces.bridges import BridgeRegistry, Claim
from pisync.stores.interfaces.events import EventStore
from pisync.stores.interfaces.projection import Projection

log = logs.get(__name__)


class Projector:
    """Merges events into the projection, and catches up after every time that it could not."""

    def __init__(
        self,
        *,
        bridge_id: str,
        events: EventStore,
        projection: Projection,
        alerts: Judge,
        registry: BridgeRegistry,
        claim: Claim,
        metrics: Metrics,
    ) -> None:
        """Prepare; nothing is asked of Redis yet.

        Args:
            bridge_id: whose watermark this is.
            events: where to replay from.
            projection: what to keep in step.
            alerts: who hears of streaks that reach or leave the alert.
            registry: which bridges there are.
            claim: what this bridge's earlier lives left.
            metrics: where it is counted, and what reads how far we are.
        """
        self._bridge_id = bridge_id
        self._events = events
        self._projection = projection
        self._alerts = alerts
        self._registry = registry
        # A bridge that never ran has stored nothing that a watermark could miss.
        self._is_known = claim.known_before
        self._replay_from_ms: int | None = clock.to_ms(claim.replay_from)
        self._metrics = metrics
        self._attached = False
        self._was_current = False
        self._detached = asyncio.Event()
        # Times of receipt of batches that are not merged yet, and the earliest of those given up on.
        self._in_flight: Counter[int] = Counter()
        self._behind_ms: int | None = None
        self._latest_ms = 0
        self._catching_up = False
        metrics.projection_attached.set_function(lambda: self._attached)
        metrics.projection_catching_up.set_function(lambda: self._catching_up)
        metrics.projection_lag.set_function(self._lag_s)

    def receive(self) -> datetime:
        """The time of receipt of a batch that begins now; `apply` must follow. It never goes backwards."""
        self._latest_ms = max(self._latest_ms, clock.to_ms(clock.now()))
        self._in_flight[self._latest_ms] += 1
        return clock.from_ms(self._latest_ms)

    async def apply(self, batch: Sequence[SyncEvent], received_at: datetime) -> None:
        """Merge the events of a batch that MongoDB has; without Redis, leave them to a replay."""
        try:
            if not self._attached:
                self._give_up(clock.to_ms(received_at))
            elif batch:
                self._alerts.report(await self._projection.apply(project(batch)))
        except RedisUnavailable as error:
            self._give_up(clock.to_ms(received_at))
            self._detach(error)
        finally:
            self._in_flight -= Counter([clock.to_ms(received_at)])

    @property
    def is_current(self) -> bool:
        """Whether all that this bridge stored is merged, or in hand."""
        return self._attached and not self._catching_up and self._behind_ms is None

    async def run(self) -> None:
        """Attach, catch up and keep the watermark, until cancelled."""
        delays = backoff.delays()
        while True:
            try:
                await self._catch_up()
                delays = backoff.delays()
                await self._keep_watermark()
            except RedisUnavailable as error:
                self._detach(error)
                await self._wait(error, next(delays))
            except MongodbUnavailable as error:
                await self._wait(error, next(delays))

    async def finish(self) -> None:
        """Write down how far we are, at the end, so that the next life has little to replay.

        Raises:
            RedisUnavailable: Redis is unavailable; the next life replays from the last watermark.
        """
        if self.is_current:
            await self._projection.set_watermark(self._bridge_id, self._watermark_ms(), catching_up=False)

    async def _wait(self, error: Unavailable, delay_s: float) -> None:
        self._metrics.store_unavailable(error.part)
        log.warning("projection interrupted", why=str(error), retry_in_s=round(delay_s, 2))
        await asyncio.sleep(delay_s)

    def _give_up(self, stamp_ms: int) -> None:
        self._behind_ms = stamp_ms if self._behind_ms is None else min(self._behind_ms, stamp_ms)

    def _detach(self, error: RedisUnavailable) -> None:
        if self._attached:
            log.warning("projection unavailable", why=str(error))
        self._attached = self._catching_up = False
        self._detached.set()

    def _watermark_ms(self) -> int:
        """All our events received before this are merged."""
        # Later batches must not be received before what is promised here, even if the clock steps back.
        self._latest_ms = max(self._latest_ms, clock.to_ms(clock.now()))
        open_ends = [*self._in_flight, *([] if self._behind_ms is None else [self._behind_ms])]
        return min(open_ends, default=self._latest_ms)

    def _lag_s(self) -> float:
        watermark_ms = self._watermark_ms()
        return max(0, clock.to_ms(clock.now()) - watermark_ms) / 1000 if watermark_ms else math.inf

    async def _catch_up(self) -> None:
        """Attach, and replay what may be missing while live traffic goes on.

        The lowest of all bridges' watermarks counts, not only our own: Redis may have gone back behind what
        another bridge merged, and that bridge need not be there. A missing watermark means: we cannot know.
        """
        known = set(await self._registry.bridges())
        if not self._is_known:
            known.discard(self._bridge_id)
        attachment = await self._projection.attach(known)
        if not attachment.built:
            await self._rebuild()
            return
        if attachment.pending and self._was_current:
            # Whoever rebuilds reads all that was stored before; what came since, we remember.
            start_ms = self._watermark_ms()
        else:
            lowest_ms = attachment.watermark_ms if known or attachment.watermark_ms else self._watermark_ms()
            start_ms = min(lowest_ms, self._watermark_ms())
            if self._replay_from_ms is not None:
                start_ms = min(start_ms, self._replay_from_ms)
        self._attach(start_ms)
        await self._projection.set_watermark(self._bridge_id, start_ms, catching_up=True)
        await self._replay(clock.from_ms(start_ms) if start_ms else None)
        await self._finish_catch_up()
        for gone in attachment.watermarked - set(await self._registry.bridges()):
            # Redis went back to when a bridge was there that has left since; its events are merged now.
            await self._projection.leave(gone)

    async def _rebuild(self) -> None:
        alerting = await self._alerts.open_devices(Rule.STREAK)
        if not await self._projection.begin_rebuild(self._bridge_id, alerting):
            raise RedisUnavailable("another bridge rebuilds the projection")
        log.warning("rebuilding the projection from MongoDB")
        self._attach(0)
        await self._projection.set_watermark(self._bridge_id, 0, catching_up=True)
        await self._replay(None)
        await self._projection.finish_rebuild(self._bridge_id)
        await self._finish_catch_up()

    def _attach(self, start_ms: int) -> None:
        self._attached = self._is_known = self._catching_up = True
        self._detached.clear()
        self._give_up(start_ms)

    async def _replay(self, since: datetime | None) -> None:
        loop = asyncio.get_running_loop()
        total = await self._events.count(since)
        replayed, told_at = 0, loop.time()
        async for batch in self._events.replay(since):
            await self._projection.apply(project(batch))
            replayed += len(batch)
            self._metrics.events_replayed.inc(len(batch))
            if loop.time() - told_at > limits.WATERMARK_INTERVAL_S:
                told_at = loop.time()
                await self._projection.set_watermark(self._bridge_id, self._watermark_ms(), catching_up=True)
                await self._projection.report_replay(self._bridge_id, replayed, total)
                log.info("catching up", replayed=replayed, of=total)
        if not self._attached:
            raise RedisUnavailable("it became unavailable during the replay")
        # What live batches gave up on since would have detached us.
        self._behind_ms = None
        self._catching_up = False
        log.info("caught up", replayed=replayed)

    async def _finish_catch_up(self) -> None:
        await self._projection.set_watermark(self._bridge_id, self._watermark_ms(), catching_up=False)
        await self._projection.finish_catch_up(self._bridge_id)
        await self._compare()
        await self._registry.caught_up(self._bridge_id)
        self._replay_from_ms = None
        self._was_current = True

    async def _compare(self) -> None:
        """Bring every alert in step: one may have been missed in a crash between MongoDB and Redis."""
        self._alerts.report(await self._alerts.compare())

    async def _keep_watermark(self) -> None:
        """Write down every second how far we are; compare all alerts now and then."""
        loop = asyncio.get_running_loop()
        compared_at = loop.time()
        while self._attached:
            pending = await self._projection.set_watermark(
                self._bridge_id, self._watermark_ms(), catching_up=False
            )
            if pending:
                # Whoever began the rebuild may be dead; while it lives, it has the lock.
                await self._take_over()
            if loop.time() - compared_at > limits.RECONCILE_INTERVAL_S:
                compared_at = loop.time()
                await self._compare()
            try:
                async with asyncio.timeout(limits.WATERMARK_INTERVAL_S):
                    await self._detached.wait()
            except TimeoutError:
                pass
        raise RedisUnavailable("it became unavailable")

    async def _take_over(self) -> None:
        try:
            await self._rebuild()
        except RedisUnavailable as error:
            if not self._attached:
                raise
            log.debug("a rebuild is under way", why=str(error))
