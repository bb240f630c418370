"""Attaches a bridge to the projection, replays what that may lack from MongoDB, and keeps the watermark.

Live traffic goes on meanwhile: merging an event twice is harmless. See docs/architecture.md, "Redis can
burn".
"""

import asyncio
from typing import Protocol

from bridge.metrics import Metrics
from bridge.projection.projector import AlertReports, Projector
from bridge.projection.repair import Repair
from bridge.projection.replay import Replay
from pisync import backoff, limits, logs
from pisync.domain.alerts import AlertChange, Rule
from pisync.errors import MongodbUnavailable, RebuildInProgress, RedisUnavailable, Unavailable
from pisync.stores.interfaces.bridges import BridgeRegistry, Claim
from pisync.stores.interfaces.events import EventStore
from pisync.stores.interfaces.projection import Projection
from pisync.tasks import supervise

log = logs.get(__name__)


class Alerts(AlertReports, Protocol):
    """What the catch-up asks of the alerts."""

    async def open_devices(self, rule: Rule) -> list[str]:
        """The devices with an open alert of the rule."""

    async def compare(self) -> list[AlertChange]:
        """Every alert that may have to change, found in a comparison of everything."""


class CatchUp:
    """Keeps one bridge attached to the projection, and the projection whole."""

    def __init__(
        self,
        *,
        bridge_id: str,
        events: EventStore,
        projection: Projection,
        projector: Projector,
        alerts: Alerts,
        registry: BridgeRegistry,
        claim: Claim,
        metrics: Metrics,
    ) -> None:
        """Prepare; nothing is asked of Redis yet.

        Args:
            bridge_id: whose watermark this is.
            events: where to replay from.
            projection: what to keep whole.
            projector: what merges the live events, and knows how far it is.
            alerts: which are open, and who hears of those that may have to change.
            registry: which bridges there are.
            claim: what this bridge's earlier lives left.
            metrics: where replayed events are counted.
        """
        self._bridge_id = bridge_id
        self._events = events
        self._projection = projection
        self._projector = projector
        self._alerts = alerts
        self._registry = registry
        # A bridge that never ran has stored nothing that a watermark could miss.
        self._is_known = claim.known_before
        self._instance = claim.instance
        self._repair = Repair(bridge_id=bridge_id, events=events, projection=projection, alerts=alerts)
        metrics.devices_repaired.set_function(lambda: self._repair.repaired)
        self._writing = asyncio.Lock()
        self._has_stopped = False
        self._metrics = metrics
        self._was_current = False

    async def run(self) -> None:
        """Attach, catch up and keep the watermark, until cancelled."""
        delays = backoff.delays(cap_s=limits.REATTACH_CAP_S)
        while True:
            try:
                await self._catch_up()
                delays = backoff.delays(cap_s=limits.REATTACH_CAP_S)
                await self._stay_attached()
            except RebuildInProgress as error:
                await self._wait(error, next(delays))
            except RedisUnavailable as error:
                self._projector.detach(error)
                self._metrics.store_unavailable(error.part)
                await self._wait(error, next(delays))
            except MongodbUnavailable as error:
                self._metrics.store_unavailable(error.part)
                await self._wait(error, next(delays))

    async def finish(self) -> None:
        """Write down that nothing is left to merge, at the end, so that the next life has little to replay.

        The projection stays complete without us, until a life begins whose events it does not have yet.

        Raises:
            RedisUnavailable: the next life replays from the last watermark.
        """
        async with self._writing:
            self._has_stopped = True
            if self._projector.is_current:
                await self._projection.set_watermark(
                    self._bridge_id,
                    self._projector.watermark_ms,
                    catching_up=False,
                    unmerged_ms=self._projector.unmerged_ms(),
                    stopped=self._instance if self._projector.is_settled else None,
                )

    async def _wait(self, error: RebuildInProgress | Unavailable, delay_s: float) -> None:
        log.warning("projection interrupted", why=str(error), retry_in_s=round(delay_s, 2))
        await asyncio.sleep(delay_s)

    async def _write_watermark(self, *, catching_up: bool) -> bool:
        """Write down how far we are; returns whether a rebuild is pending."""
        async with self._writing:
            if self._has_stopped:
                return False
            return await self._projection.set_watermark(
                self._bridge_id,
                self._projector.watermark_ms,
                catching_up=catching_up,
                unmerged_ms=self._projector.unmerged_ms(),
            )

    async def _catch_up(self) -> None:
        """Attach, and replay what may be missing while live traffic goes on.

        The lowest of all bridges' watermarks counts, not only our own: Redis may have gone back behind what
        another bridge merged, and that bridge need not be there. A missing watermark means: we cannot know.
        """
        # A primary that was replaced may lack a bridge, whose missing watermark nobody would notice then.
        await self._events.confirm_primary()
        known = set(await self._registry.bridges())
        if not self._is_known:
            known.discard(self._bridge_id)
        attachment = await self._projection.attach(known)
        if not attachment.built:
            await self._rebuild()
            return
        if attachment.pending and self._was_current:
            # Who rebuilds reads all that was stored before; what came since, we remember.
            start_ms = self._projector.watermark_ms
        else:
            ours_ms = self._projector.watermark_ms
            start_ms = min(ours_ms, attachment.watermark_ms) if known or attachment.watermark_ms else ours_ms
        self._attach(start_ms)
        await self._projection.set_watermark(self._bridge_id, start_ms, catching_up=True)
        await self._replay(start_ms)
        await self._finish_catch_up()
        for gone in attachment.watermarked - set(await self._registry.bridges()):
            # Redis went back to when a bridge was there that has left since; its events are merged now.
            await self._projection.leave(gone)

    async def _rebuild(self) -> None:
        alerting = await self._alerts.open_devices(Rule.STREAK)
        if not await self._projection.begin_rebuild(self._bridge_id, alerting):
            raise RebuildInProgress("another bridge rebuilds the projection")
        log.warning("rebuilding the projection from MongoDB")
        self._attach(0)
        await self._projection.set_watermark(self._bridge_id, 0, catching_up=True)
        await self._replay(0)
        await self._projection.finish_rebuild(self._bridge_id)
        await self._finish_catch_up()

    def _attach(self, start_ms: int) -> None:
        self._is_known = True
        self._projector.attach(start_ms)

    async def _replay(self, start_ms: int) -> None:
        replay = Replay(events=self._events, projection=self._projection, start_ms=start_ms)
        # Beside the replay, which MongoDB may hold up: others take it for dead where nobody says otherwise.
        works = {"events": self._merge_all(replay), "progress": self._tell(replay), "count": replay.count()}
        async with supervise(works) as running:
            await running.until(asyncio.Event())  # the events are the first to end
        self._projector.catch_up()
        log.info("caught up", replayed=replay.replayed)

    async def _merge_all(self, replay: Replay) -> None:
        """Replay to the end; where MongoDB interrupts it, it goes on from there."""
        delays = backoff.delays()
        while True:
            before = replay.replayed
            try:
                async for count in replay.run():
                    self._metrics.events_replayed.inc(count)
            except MongodbUnavailable as error:
                self._metrics.store_unavailable(error.part)
                delays = delays if replay.replayed == before else backoff.delays()
                await self._wait(error, next(delays))
            else:
                return
            if not self._projector.is_attached:
                raise RedisUnavailable("it became unavailable during the replay")

    async def _tell(self, replay: Replay) -> None:
        """Say every second that the replay goes on, and how far it is."""
        while True:
            await asyncio.sleep(limits.WATERMARK_INTERVAL_S)
            await self._write_watermark(catching_up=True)
            await self._projection.report_replay(self._bridge_id, replay.replayed, replay.to_replay)
            log.info("catching up", replayed=replay.replayed, of=replay.to_replay)

    async def _finish_catch_up(self) -> None:
        await self._write_watermark(catching_up=False)
        await self._projection.finish_catch_up(self._bridge_id)
        self._was_current = True

    async def _stay_attached(self) -> None:
        """Keep the watermark and the alerts until the projection is lost.

        Neither waits for the other: a comparison of everything takes longer than a watermark may be old.
        """
        works = {
            "watermark": self._keep_watermark(),
            "comparison of alerts": self._keep_comparing(),
            "comparison of devices": self._repair.run(),
        }
        async with supervise(works) as running:
            await running.until(self._projector.detached)
        raise RedisUnavailable("it became unavailable")

    async def _keep_comparing(self) -> None:
        """Bring every alert in step, now and every minute: one may have been missed in a crash."""
        delays = backoff.delays()
        while True:
            try:
                self._alerts.report(await self._alerts.compare())
            except MongodbUnavailable as error:
                self._metrics.store_unavailable(error.part)
                await self._wait(error, next(delays))
            else:
                delays = backoff.delays()
                await asyncio.sleep(limits.RECONCILE_INTERVAL_S)

    async def _keep_watermark(self) -> None:
        """Write down every second how far we are."""
        while True:
            if await self._write_watermark(catching_up=False):
                # The bridge that began the rebuild may be dead; while it lives, it has the lock.
                await self._take_over()
            await asyncio.sleep(limits.WATERMARK_INTERVAL_S)

    async def _take_over(self) -> None:
        try:
            await self._rebuild()
        except RebuildInProgress as error:
            log.debug("a rebuild is under way", why=str(error))
