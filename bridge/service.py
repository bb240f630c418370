"""The bridge as a process: wires the parts, watches them, and stops them in order."""

import asyncio
import gc
import secrets
import signal
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext, suppress

import uvloop

from bridge.alerts.judge import Alerts
from bridge.broker_watch import STATUS_FILTER, BrokerWatch
from bridge.intake import Intake
from bridge.metrics import Metrics
from bridge.projection.projector import Projector
from bridge.retry import until_available
from bridge.session import Session
from pisync import clock, limits, logs
from pisync.domain import topics
from pisync.errors import MongodbUnavailable, PiSyncError, RedisUnavailable
from pisync.metrics import serving
from pisync.mqtt.messages import Subscription
from pisync.settings import Settings
from pisync.stores.interfaces.bridges import BridgeRegistry, Claim
from pisync.stores.mongodb.alerts import MongoAlertStore
from pisync.stores.mongodb.bridges import MongoBridgeRegistry
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.dead_letters import MongoDeadLetterStore
from pisync.stores.mongodb.events import MongoEventStore
from pisync.stores.redis.projection import RedisProjection
from pisync.tasks import cancel

log = logs.get(__name__)


def run(settings: Settings, *, leave: bool = False) -> None:
    """Run a bridge until SIGTERM or SIGINT, or retire it.

    Raises:
        PiSyncError: something that trying again cannot mend; its `exit_code` is the process's.
    """
    uvloop.run(_main(settings, leave=leave))


async def _main(settings: Settings, *, leave: bool) -> None:
    _spare_the_collector()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        connection = MongoConnection(settings.mongodb_url)
        stack.push_async_callback(connection.close)
        projection = RedisProjection.connect(settings.redis_url)
        stack.push_async_callback(projection.close)
        bridge = _Bridge(settings, connection, projection, leaving=leave)
        await stack.enter_async_context(bridge.serving_metrics())
        preparing = asyncio.create_task(bridge.prepare(), name="prepare")
        await _until(stop, [preparing])
        if preparing.done():
            await bridge.serve(stop)
            if bridge.has_left:
                await bridge.forget()
        else:
            await cancel([preparing])


class _Bridge:
    """One bridge's parts and their life together."""

    def __init__(
        self,
        settings: Settings,
        connection: MongoConnection,
        projection: RedisProjection,
        *,
        leaving: bool,
    ) -> None:
        self._settings = settings
        self._leaving = leaving
        self._metrics = Metrics(settings)
        self._session: Session | None = None
        self.has_left = False
        self._instance = secrets.token_hex(8)
        self._projection = projection
        self._events = MongoEventStore(connection)
        self._alert_store = MongoAlertStore(connection)
        self._letters = MongoDeadLetterStore(connection)
        self._registry: BridgeRegistry = MongoBridgeRegistry(connection)
        self._claim = Claim(known_before=False, replay_from=clock.now())

    def serving_metrics(self) -> AbstractAsyncContextManager[None]:
        """Serve the metrics, where a port for them is set, while the context lasts."""
        if self._settings.metrics_port is None:
            return nullcontext()
        return serving(
            host=self._settings.metrics_host,
            port=self._settings.metrics_port,
            exposition=self._metrics.exposition,
            is_healthy=lambda: self._session is not None and self._session.is_ready,
        )

    async def prepare(self) -> None:
        """Make sure of MongoDB, and claim the bridge's id there."""
        log.info("starting", bridge_id=self._settings.bridge_id, broker=str(self._settings.mqtt))
        await until_available(self._events.prepare, self._metrics)
        await until_available(self._alert_store.prepare, self._metrics)
        await until_available(self._letters.prepare, self._metrics)
        days = self._settings.dead_letter_days
        await until_available(lambda: self._letters.apply_retention(days), self._metrics)
        self._claim = await until_available(
            lambda: self._registry.claim(self._settings.bridge_id, self._instance, clock.now()),
            self._metrics,
        )

    async def serve(self, stop: asyncio.Event) -> None:
        """Work until told to stop, then drain what is in flight."""
        metrics = self._metrics
        alerts = Alerts(
            store=self._alert_store, events=self._events, projection=self._projection, metrics=metrics
        )
        projector = Projector(
            bridge_id=self._settings.bridge_id,
            events=self._events,
            projection=self._projection,
            alerts=alerts,
            registry=self._registry,
            claim=self._claim,
            metrics=metrics,
        )
        pipeline = Intake(store=self._events, projector=projector, settings=self._settings, metrics=metrics)
        session = self._session = Session(
            address=self._settings.mqtt,
            ca_file=self._settings.mqtt_ca_file,
            bridge_id=self._settings.bridge_id,
            subscriptions=[
                Subscription(topics.SHARED_SYNC_FILTER, 1, pipeline.offer),
                # What the broker drops will not be seen where it refuses this one.
                Subscription(STATUS_FILTER, 0, BrokerWatch(metrics).on_message, required=False),
            ],
            on_connected=alerts.publish_again,
            is_ours=self._is_ours,
            known_before=self._claim.known_before,
            metrics=metrics,
            leaving=self._leaving,
        )
        pipeline.attach(session)
        tasks = [
            asyncio.create_task(projector.run(), name="projector"),
            asyncio.create_task(pipeline.run(), name="pipeline"),
            asyncio.create_task(alerts.run(), name="alerts"),
            asyncio.create_task(alerts.announce(session), name="announcements"),
            asyncio.create_task(session.run(), name="session"),
        ]
        if self._leaving:
            tasks = [
                *tasks,
                asyncio.create_task(self._quiet(session, pipeline, projector, alerts), name="leave"),
            ]
        try:
            await _until(stop, tasks)
            await _drain(pipeline, self._settings.drain_timeout_s)
            with suppress(RedisUnavailable):
                await projector.finish()
        finally:
            await cancel([*tasks, *pipeline.batches])
        log.info("stopped", bridge_id=self._settings.bridge_id)

    async def _is_ours(self) -> bool:
        try:
            return await self._registry.holder(self._settings.bridge_id) in {self._instance, None}
        except MongodbUnavailable:
            return True  # we cannot know; the next time will tell

    async def _quiet(self, session: Session, pipeline: Intake, projector: Projector, alerts: Alerts) -> None:
        """Wait until the broker holds nothing more for us, then end the session, and so the bridge."""
        seen = -1
        while not (
            session.is_ready
            and pipeline.is_idle
            and projector.is_current
            and alerts.is_idle
            and pipeline.offered == seen
        ):
            seen = pipeline.offered
            await asyncio.sleep(limits.LEAVE_QUIET_S)
        self.has_left = True
        session.end_session()
        log.info("left", bridge_id=self._settings.bridge_id, messages=pipeline.offered)

    async def forget(self) -> None:
        """Retire the bridge's watermark and name, after its last life."""
        bridge_id = self._settings.bridge_id
        await until_available(lambda: self._projection.leave(bridge_id), self._metrics)
        await until_available(lambda: self._registry.forget(bridge_id), self._metrics)


def _spare_the_collector() -> None:
    """Look for reference cycles seldom, and not among what was there at the start.

    A batch is thousands of objects without a cycle among them; with Python's own thresholds, looking through
    them took a third of the bridge's time.
    """
    gc.freeze()
    gc.set_threshold(*limits.GC_THRESHOLDS)


async def _until(stop: asyncio.Event, tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait for `stop` or the end of any task; a task that failed brings us down with its reason."""
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
    for task in tasks:
        if task.done():
            task.result()


async def _drain(pipeline: Intake, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await pipeline.drain()
    except TimeoutError:
        raise PiSyncError(
            f"could not finish what was in flight within {timeout_s:g} s;"
            " it is not acknowledged, and the broker will deliver it again"
        ) from None
