"""Alerts: written to MongoDB, told to operators, and only then confirmed in the projection.

A crash in between repeats what was not confirmed: MongoDB allows one open alert for a device, and what was
published once may be published again.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import msgspec

from bridge.retry import until_available
from pisync import clock, limits, logs, topics
from pisync.stores.interfaces import Alert, AlertChange, AlertQuery, AlertStore, Projection

log = logs.get(__name__)


class Publisher(Protocol):
    """What alerts ask of the MQTT session."""

    @property
    def is_ready(self) -> bool:
        """Whether we are connected and subscribed."""

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        correlation_data: bytes | None = None,
        expiry_s: int | None = None,
        retain: bool = False,
    ) -> None:
        """Send a message if there is a connection."""


class Alerts:
    """Opens and closes alerts, and publishes each device's present one as a retained message."""

    def __init__(self, *, store: AlertStore, projection: Projection) -> None:
        self._store = store
        self._projection = projection
        self._changed = asyncio.Event()
        self._changed.set()

    async def open_devices(self) -> list[str]:
        """The devices with an open alert."""
        return await self._store.open_devices()

    async def handle(self, changes: Sequence[AlertChange]) -> None:
        """Bring the alerts of these devices in step with their streaks.

        Raises:
            StreakStoreUnavailable: Redis is away; what is not confirmed will be reported again.
        """
        while changes:
            for change in changes:
                await self._record(change)
            changes = await self._projection.confirm(changes)

    async def _record(self, change: AlertChange) -> None:
        now = clock.now()
        if change.opens:
            opened = await until_available(
                "MongoDB", lambda: self._store.open(change.device_id, change.streak, now)
            )
            if opened:
                log.warning(
                    "device keeps failing",
                    device_id=change.device_id,
                    failures_in_a_row=change.streak,
                    threshold=limits.STREAK_ALERT,
                )
        elif await until_available("MongoDB", lambda: self._store.resolve(change.device_id, now)):
            log.info("device recovered", device_id=change.device_id)
        self._changed.set()

    async def announce(self, publisher: Publisher) -> None:
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
            while batch := await until_available(
                "MongoDB", lambda: self._store.unannounced(limits.ANNOUNCE_BATCH)
            ):
                for alert in batch:
                    await self._announce(alert, publisher)

    async def _announce(self, alert: Alert, publisher: Publisher) -> None:
        query = AlertQuery(limit=1, is_open=True, device_id=alert.device_id)
        present = await until_available("MongoDB", lambda: self._store.find(query))
        payload = _payload(present[0]) if present else b""
        publisher.publish(topics.alerts(alert.device_id), payload, retain=True)
        await until_available("MongoDB", lambda: self._store.announced(alert))


def _payload(alert: Alert) -> bytes:
    return msgspec.json.encode(
        {
            "device_id": alert.device_id,
            "failures_in_a_row": alert.streak,
            "opened_at": clock.rfc3339(alert.opened_at),
        }
    )
