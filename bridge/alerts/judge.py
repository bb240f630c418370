"""Alerts: written to MongoDB, told to operators, and only then confirmed in the projection.

A crash in between repeats what was not confirmed: MongoDB allows one open alert for a device, and what was
published once may be published again.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Protocol

import msgspec

from bridge.metrics import Metrics
from bridge.retry import until_available
from pisync import backoff, clock, limits, logs
from pisync.domain import topics
from pisync.domain.alerts import Alert, AlertChange
from pisync.errors import RedisUnavailable
from pisync.mqtt.client import Publisher
from pisync.stores.interfaces.alerts import AlertStore
from pisync.stores.interfaces.events import EventStore
from pisync.stores.interfaces.projection import Projection

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
        self._waiting: dict[str, AlertChange] = {}
        self._reported = asyncio.Event()
        self._handling = False
        self._changed = asyncio.Event()
        self._changed.set()
        self._reconnected = False

    async def open_devices(self) -> list[str]:
        """The devices with an open alert."""
        return await self._store.open_devices()

    def report(self, changes: Iterable[AlertChange]) -> None:
        """Have these handled by `run`, soon; whoever stored the events need not wait for it.

        Beyond the limit they are dropped, as they are in a crash: all alerts are compared now and then.
        """
        for change in changes:
            if len(self._waiting) < limits.ALERTS_WAITING_MAX or change.device_id in self._waiting:
                self._waiting[change.device_id] = change
                self._reported.set()

    @property
    def is_idle(self) -> bool:
        """Whether everything reported is handled."""
        return not self._waiting and not self._handling

    async def run(self) -> None:
        """Handle what is reported, until cancelled."""
        delays = backoff.delays()
        while True:
            await self._reported.wait()
            self._reported.clear()
            taken, self._waiting = self._waiting, {}
            self._handling = True
            try:
                await self.handle(taken.values())
                delays = backoff.delays()
            except RedisUnavailable as error:
                log.debug("alerts not confirmed", why=str(error))
                self._waiting = taken | self._waiting  # what was reported since is newer
                self._reported.set()
                await asyncio.sleep(next(delays))
            finally:
                self._handling = False

    async def handle(self, changes: Collection[AlertChange]) -> None:
        """Bring the alerts of these devices in step with their streaks.

        Raises:
            RedisUnavailable: Redis is unavailable; what is not confirmed will be reported again.
        """
        waiting = list(changes)
        while waiting:
            batch, waiting = waiting[: limits.ALERTS_BATCH], waiting[limits.ALERTS_BATCH :]
            agreed = await self._true(batch)
            await self._open({change.device_id: change.streak for change in agreed if change.opens})
            await self._resolve([change.device_id for change in agreed if not change.opens])
            waiting += await self._projection.confirm(agreed)

    async def _true(self, changes: Collection[AlertChange]) -> list[AlertChange]:
        """Those that MongoDB confirms: the projection may be behind another bridge, and come to it later."""
        device_ids = [change.device_id for change in changes]
        failing = await until_available(
            lambda: self._events.failing(device_ids, limits.STREAK_ALERT), self._metrics
        )
        return [change for change in changes if change.opens == (change.device_id in failing)]

    async def _open(self, streaks: Mapping[str, int]) -> None:
        now = clock.now()
        opened = await until_available(lambda: self._store.open(streaks, now), self._metrics)
        for device_id in opened:
            log.warning(
                "device keeps failing",
                device_id=device_id,
                streak=streaks[device_id],
                threshold=limits.STREAK_ALERT,
            )
        self._metrics.alerts_opened.inc(len(opened))
        if opened:
            self._changed.set()

    async def _resolve(self, device_ids: Collection[str]) -> None:
        now = clock.now()
        resolved = await until_available(lambda: self._store.resolve(device_ids, now), self._metrics)
        for device_id in resolved:
            log.info("device recovered", device_id=device_id)
        self._metrics.alerts_closed.inc(len(resolved))
        if resolved:
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
                await until_available(self._announce_again, self._metrics)
            while batch := await until_available(
                lambda: self._store.unannounced(limits.ANNOUNCE_BATCH), self._metrics
            ):
                await self._announce(batch, publisher)

    async def _announce_again(self) -> None:
        await self._store.announce_again(clock.now() - timedelta(hours=limits.ANNOUNCE_AGAIN_H))

    async def _announce(self, batch: Sequence[Alert], publisher: Announcer) -> None:
        device_ids = {alert.device_id for alert in batch}
        present = await until_available(lambda: self._store.open_alerts(device_ids), self._metrics)
        for device_id in device_ids:
            payload = _payload(present[device_id]) if device_id in present else b""
            publisher.publish(topics.alerts(device_id), payload, retain=True)
        await until_available(lambda: self._store.announced(batch), self._metrics)


def _payload(alert: Alert) -> bytes:
    return msgspec.json.encode(
        {
            "device_id": alert.device_id,
            "streak": alert.streak,
            "opened_at": clock.rfc3339(alert.opened_at),
        }
    )
