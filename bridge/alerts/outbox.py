"""Publishes alerts: each waits in MongoDB until a sink has published its present state.

All bridges share this work, so what one leaves behind, in a crash or because it is not connected, another
does. The same state may be published more than once.
"""

import asyncio
from datetime import timedelta
from typing import Protocol

from bridge.retry import RetryCounter, until_available
from pisync import clock, limits
from pisync.domain.alerts import Alert, Rule
from pisync.stores.interfaces.alerts import AlertStore


class Sink(Protocol):
    """Where alerts are published."""

    @property
    def is_ready(self) -> bool:
        """Whether it can publish now."""

    async def publish(self, device_id: str, rule: Rule, alert: Alert | None) -> None:
        """Publish what is open for a device and a rule now; None: nothing is."""


class Outbox:
    """Hands to a sink what was not published yet."""

    def __init__(self, *, store: AlertStore, retries: RetryCounter | None = None) -> None:
        """Prepare; nothing is asked of the store yet.

        Args:
            store: where alerts are kept.
            retries: where it is counted that the store was unavailable.
        """
        self._store = store
        self._retries = retries
        self._changed = asyncio.Event()
        self._changed.set()
        self._publishes_again = False

    def wake(self) -> None:
        """Say that alerts were opened or closed."""
        self._changed.set()

    def publish_again(self) -> None:
        """Say that the sink is connected to a broker which may have lost what was published."""
        self._publishes_again = True
        self._changed.set()

    async def run(self, sink: Sink) -> None:
        """Publish what was not published yet, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(limits.ALERTS_PUBLISH_INTERVAL_S):
                    await self._changed.wait()
            except TimeoutError:
                pass  # another bridge may have left something
            self._changed.clear()
            if not sink.is_ready:
                continue
            if self._publishes_again:
                self._publishes_again = False
                await until_available(self._mark_unpublished, self._retries)
            while await self._publish_batch(sink):
                pass

    async def _mark_unpublished(self) -> None:
        await self._store.publish_again(clock.now() - timedelta(hours=limits.ALERTS_PUBLISH_AGAIN_H))

    async def _publish_batch(self, sink: Sink) -> bool:
        """Publish the oldest that wait; returns whether there were any."""
        batch = await until_available(
            lambda: self._store.unpublished(limits.ALERTS_PUBLISH_BATCH), self._retries
        )
        if not batch:
            return False
        concerned = {(alert.device_id, alert.rule) for alert in batch}
        device_ids = {device_id for device_id, _ in concerned}
        published: dict[tuple[str, Rule], Alert | None] = {}
        while True:
            # What is published is what is open now, which an alert that waits need not be. It is asked again
            # afterwards: another bridge may have published a newer state just before this one.
            present = await until_available(lambda: self._store.open_alerts(device_ids), self._retries)
            outdated = {
                key: present.get(key)
                for key in concerned
                if key not in published or published[key] != present.get(key)
            }
            if not outdated:
                break
            for (device_id, rule), alert in outdated.items():
                await sink.publish(device_id, rule, alert)
            published |= outdated
        await until_available(lambda: self._store.published(batch), self._retries)
        return True
