"""Alerts: written to MongoDB, told to operators, and only then confirmed in the projection.

A crash in between repeats what was not confirmed: MongoDB allows one open alert for a device, and what was
published once may be published again.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

import msgspec

from bridge.metrics import Metrics
from bridge.publisher import Publisher
from bridge.retry import until_available
from pisync import clock, limits, logs, topics
from pisync.stores.interfaces import (
    Alert,
    AlertChange,
    AlertQuery,
    AlertStore,
    EventStore,
    HistoryQuery,
    Projection,
)

log = logs.get(__name__)


class Announcer(Publisher, Protocol):
    """What alerts ask of the MQTT session."""

    @property
    def is_ready(self) -> bool:
        """Whether we are connected and subscribed."""


class Alerts:
    """Opens and closes alerts, and publishes each device's present one as a retained message."""

    def __init__(
        self, *, store: AlertStore, events: EventStore, projection: Projection, metrics: Metrics
    ) -> None:
        self._store = store
        self._events = events
        self._projection = projection
        self._metrics = metrics
        self._changed = asyncio.Event()
        self._changed.set()
        self._reconnected = False

    async def open_devices(self) -> list[str]:
        """The devices with an open alert."""
        return await self._store.open_devices()

    async def handle(self, changes: Sequence[AlertChange]) -> None:
        """Bring the alerts of these devices in step with their streaks.

        Raises:
            StreakStoreUnavailable: Redis is away; what is not confirmed will be reported again.
        """
        while changes:
            agreed = [change for change in changes if await self._is_true(change)]
            for change in agreed:
                await self._record(change)
            changes = await self._projection.confirm(agreed)

    async def _is_true(self, change: AlertChange) -> bool:
        """Whether MongoDB says so, too: the projection may be behind another bridge, and come to it later."""
        newest = HistoryQuery(device_id=change.device_id, limit=limits.STREAK_ALERT)
        page = await until_available("MongoDB", lambda: self._events.history(newest), self._metrics)
        failing = len(page) == limits.STREAK_ALERT and all(entry.event.total_errors for entry in page)
        return failing == change.opens

    async def _record(self, change: AlertChange) -> None:
        now = clock.now()
        if change.opens:
            opened = await until_available(
                "MongoDB", lambda: self._store.open(change.device_id, change.streak, now), self._metrics
            )
            if opened:
                self._metrics.alerts_opened.inc()
                log.warning(
                    "device keeps failing",
                    device_id=change.device_id,
                    failures_in_a_row=change.streak,
                    threshold=limits.STREAK_ALERT,
                )
        elif await until_available(
            "MongoDB", lambda: self._store.resolve(change.device_id, now), self._metrics
        ):
            self._metrics.alerts_closed.inc()
            log.info("device recovered", device_id=change.device_id)
        self._changed.set()

    def publish_again(self) -> None:
        """Say that we are connected to a broker which may have lost what was published."""
        self._reconnected = True
        self._changed.set()

    async def announce(self, publisher: Announcer) -> None:
        """Publish what was not published yet, until cancelled; all bridges share this work."""
        while True:
            try:
                async with asyncio.timeout(limits.ANNOUNCE_INTERVAL_S):
                    await self._changed.wait()
            except TimeoutError:
                pass  # another bridge may have left something
            self._changed.clear()
            if not publisher.is_ready:
                continue
            if self._reconnected:
                self._reconnected = False
                await until_available("MongoDB", self._announce_again, self._metrics)
            while batch := await until_available(
                "MongoDB", lambda: self._store.unannounced(limits.ANNOUNCE_BATCH), self._metrics
            ):
                for alert in batch:
                    await self._announce(alert, publisher)

    async def _announce_again(self) -> None:
        await self._store.announce_again(clock.now() - timedelta(hours=limits.ANNOUNCE_AGAIN_H))

    async def _announce(self, alert: Alert, publisher: Announcer) -> None:
        query = AlertQuery(limit=1, is_open=True, device_id=alert.device_id)
        present = await until_available("MongoDB", lambda: self._store.find(query), self._metrics)
        payload = _payload(present[0]) if present else b""
        publisher.publish(topics.alerts(alert.device_id), payload, retain=True)
        await until_available("MongoDB", lambda: self._store.announced(alert), self._metrics)


def _payload(alert: Alert) -> bytes:
    return msgspec.json.encode(
        {
            "device_id": alert.device_id,
            "failures_in_a_row": alert.streak,
            "opened_at": clock.rfc3339(alert.opened_at),
        }
    )
