"""The bridge as a process: wires the parts, watches them, and stops them in order."""

import asyncio
import secrets
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack

import uvloop

from bridge.alerts import Alerts
from bridge.pipeline import Pipeline
from bridge.projector import Projector
from bridge.retry import until_available
from bridge.session import Session
from pisync import clock, limits, logs, topics
from pisync.errors import EventStoreUnavailable, PiSyncError
from pisync.settings import Settings
from pisync.stores.interfaces import BridgeRegistry
from pisync.stores.mongodb import MongoConnection, MongoEventStore
from pisync.stores.mongodb_alerts import MongoAlertStore
from pisync.stores.mongodb_bridges import MongoBridgeRegistry
from pisync.stores.redis import RedisStreakStore
from pisync.tasks import cancel

log = logs.get(__name__)


def run(settings: Settings, *, leave: bool = False) -> None:
    """Run a bridge until SIGTERM or SIGINT, or retire it.

    Raises:
        PiSyncError: something that trying again cannot mend; its `exit_code` is the process's.
    """
    uvloop.run(_main(settings, leave=leave))


async def _main(settings: Settings, *, leave: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        connection = MongoConnection(settings.mongodb_url)
        stack.push_async_callback(connection.close)
        projection = RedisStreakStore.connect(settings.redis_url)
        stack.push_async_callback(projection.close)
        bridge = _Bridge(settings, connection, projection, leaving=leave)
        preparing = asyncio.create_task(bridge.prepare(), name="prepare")
        await _until(stop, [preparing])
        if preparing.done():
            await bridge.serve(stop)
        else:
            await cancel([preparing])


class _Bridge:
    """One bridge's parts and their life together."""

    def __init__(
        self,
        settings: Settings,
        connection: MongoConnection,
        projection: RedisStreakStore,
        *,
        leaving: bool,
    ) -> None:
        self._settings = settings
        self._leaving = leaving
        self._instance = secrets.token_hex(8)
        self._projection = projection
        self._events = MongoEventStore(connection)
        self._alert_store = MongoAlertStore(connection)
        self._registry: BridgeRegistry = MongoBridgeRegistry(connection)
        self._known_before = False

    async def prepare(self) -> None:
        """Make sure of MongoDB, and claim the bridge's id there."""
        log.info("starting", bridge_id=self._settings.bridge_id, broker=str(self._settings.mqtt))
        await until_available("MongoDB", self._events.prepare)
        await until_available("MongoDB", self._alert_store.prepare)
        self._known_before = await until_available(
            "MongoDB",
            lambda: self._registry.claim(self._settings.bridge_id, self._instance, clock.now()),
        )

    async def serve(self, stop: asyncio.Event) -> None:
        """Work until told to stop, then drain what is in flight."""
        alerts = Alerts(store=self._alert_store, projection=self._projection)
        projector = Projector(
            bridge_id=self._settings.bridge_id,
            events=self._events,
            projection=self._projection,
            alerts=alerts,
            known_before=self._known_before,
        )
        pipeline = Pipeline(store=self._events, projector=projector, settings=self._settings)
        session = Session(
            address=self._settings.mqtt,
            ca_file=self._settings.mqtt_ca_file,
            client_id=self._settings.bridge_id,
            topic_filter=topics.SHARED_SYNC_FILTER,
            on_message=pipeline.offer,
            is_ours=self._is_ours,
            leaving=self._leaving,
        )
        pipeline.attach(session)
        tasks = [
            asyncio.create_task(projector.run(), name="projector"),
            asyncio.create_task(pipeline.run(), name="pipeline"),
            asyncio.create_task(alerts.announce(session), name="alerts"),
            asyncio.create_task(session.run(), name="session"),
        ]
        if self._leaving:
            tasks = [*tasks, asyncio.create_task(self._leave(session, pipeline), name="leave")]
        try:
            await _until(stop, tasks)
            await _drain(pipeline, self._settings.drain_timeout_s)
        finally:
            await cancel(tasks)
        log.info("stopped", bridge_id=self._settings.bridge_id)

    async def _is_ours(self) -> bool:
        try:
            return await self._registry.holder(self._settings.bridge_id) in {self._instance, None}
        except EventStoreUnavailable:
            return True  # we cannot know; the next time will tell

    async def _leave(self, session: Session, pipeline: Pipeline) -> None:
        """Take what the broker still holds for this bridge, then end its session and forget it."""
        seen = -1
        while not session.is_ready or not pipeline.is_idle or pipeline.offered != seen:
            seen = pipeline.offered
            await asyncio.sleep(limits.LEAVE_QUIET_S)
        await until_available("Redis", lambda: self._projection.leave(self._settings.bridge_id))
        await until_available("MongoDB", lambda: self._registry.forget(self._settings.bridge_id))
        session.end()  # which ends the bridge
        log.info("left", bridge_id=self._settings.bridge_id, messages=pipeline.offered)


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


async def _drain(pipeline: Pipeline, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await pipeline.drain()
    except TimeoutError:
        raise PiSyncError(
            f"could not finish what was in flight within {timeout_s:g} s;"
            " it is not acknowledged, and the broker will deliver it again"
        ) from None
