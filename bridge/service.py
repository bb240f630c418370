"""The bridge as a process: wires the parts, watches them, and stops them in order."""

import asyncio
import secrets
import signal
from contextlib import AbstractAsyncContextManager, nullcontext, suppress

import uvloop

from bridge.alerts.judge import Judge
from bridge.alerts.outbox import Outbox
from bridge.alerts.rules import all_rules
from bridge.alerts.sinks.mqtt import MqttSink
from bridge.alerts.sinks.others import OtherBrokers
from bridge.alerts.sinks.retained import RetainedReader
from bridge.broker_watch import STATUS_FILTER, BrokerWatch
from bridge.clock_watch import ClockWatch
from bridge.floods.gate import Gate
from bridge.floods.known_devices import KnownDevices
from bridge.floods.left_out import LeftOut
from bridge.intake import Intake
from bridge.kinds import Kind, kinds_of_messages
from bridge.listening import Listening
from bridge.metrics import Metrics
from bridge.projection.catch_up import CatchUp
from bridge.projection.projector import Projector
from bridge.projection.reception_clock import ReceptionClock
from bridge.retry import until_available
from bridge.session import NOT_CONNECTED, Session
from bridge.stray_watch import StrayWatch
from pisync import clock, collector, limits, logs
from pisync.domain import topics
from pisync.errors import ConfigurationError, MongodbUnavailable, PiSyncError, RedisUnavailable
from pisync.metrics import Health, serving
from pisync.mqtt.messages import Subscription
from pisync.settings import BridgeSettings
from pisync.stores.interfaces.bridges import Claim
from pisync.stores.opening import Stores, open_stores
from pisync.tasks import supervise

log = logs.get(__name__)


def run(settings: BridgeSettings, *, leave: bool = False) -> None:
    """Run a bridge until SIGTERM or SIGINT, or retire it.

    Raises:
        PiSyncError: something that trying again cannot mend; its `exit_code` is the process's.
    """
    uvloop.run(_main(settings, leave=leave))


async def _main(settings: BridgeSettings, *, leave: bool) -> None:
    collector.spare(limits.GC_THRESHOLDS)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with open_stores(settings) as stores:
        bridge = _Bridge(settings, stores, leaving=leave)
        async with bridge.serving_metrics():
            async with supervise({"prepare": bridge.prepare()}) as preparing:
                await preparing.until(stop)
            if not stop.is_set():
                await bridge.serve(stop)
            if bridge.has_left:
                await bridge.forget()


def _subscription(shared: str, kind: Kind, intake: Intake) -> Subscription:
    """To a kind of message; what was published to be retained is seen, so that it is cleared."""
    topic_filter = f"{shared}/{kind.topic_filter}"
    return Subscription(topic_filter, 1, intake.offer, retained=False, as_published=True)


class _Bridge:
    """One bridge's parts and their life together."""

    def __init__(self, settings: BridgeSettings, stores: Stores, *, leaving: bool) -> None:
        self._settings = settings
        self._stores = stores
        self._leaving = leaving
        self._metrics = Metrics(settings)
        self._clock_watch = ClockWatch(registry=stores.bridges, metrics=self._metrics)
        self._session: Session | None = None
        self.has_left = False
        self._refusal: ConfigurationError | None = None
        self._instance = secrets.token_hex(8)
        self._claim = Claim(known_before=False, floor=clock.now())
        self._known = None if settings.unknown_devices == "taken" else KnownDevices(stores.directory)

    def serving_metrics(self) -> AbstractAsyncContextManager[None]:
        """Serve the metrics, where a port for them is set, while the context lasts."""
        if self._settings.metrics_port is None:
            return nullcontext()
        return serving(
            host=self._settings.metrics_host,
            port=self._settings.metrics_port,
            exposition=self._metrics.exposition,
            health=self._health,
        )

    def _health(self) -> Health:
        if not self._clock_watch.is_right:
            return Health(ok=False, text="the clock differs from MongoDB's")
        return Health(ok=False, text=NOT_CONNECTED) if self._session is None else self._session.health

    async def prepare(self) -> None:
        """Make sure of MongoDB and of the clock, and claim the bridge's id there."""
        log.info("starting", bridge_id=self._settings.bridge_id, broker=str(self._settings.mqtt))
        stores, days = self._stores, self._settings.dead_letter_days
        await until_available(stores.events.prepare, self._metrics)
        await until_available(stores.alerts.prepare, self._metrics)
        await until_available(stores.dead_letters.prepare, self._metrics)
        await until_available(lambda: stores.dead_letters.apply_retention(days), self._metrics)
        await until_available(stores.listening.prepare, self._metrics)
        self._claim = await until_available(self._claim_id, self._metrics)
        if self._known is not None:
            await self._learn_devices(self._known)

    async def _learn_devices(self, known: KnownDevices) -> None:
        await until_available(known.read, self._metrics)
        self._metrics.known_devices.set_function(lambda: len(known))
        self._metrics.known_devices_age.set_function(lambda: known.age_s)
        log.info(
            "devices of the directory are known", devices=len(known), others=self._settings.unknown_devices
        )

    async def _claim_id(self) -> Claim:
        """By a clock that is right: the floor is raised to it."""
        await self._clock_watch.agree()
        return await self._stores.bridges.claim(self._settings.bridge_id, self._instance, clock.now())

    async def serve(self, stop: asyncio.Event) -> None:
        """Work until told to stop, then drain what is in flight.

        Raises:
            ConfigurationError: it was to leave, and stays: it was at another broker.
        """
        stores, metrics = self._stores, self._metrics
        outbox = Outbox(store=stores.alerts, retries=metrics)
        judge = Judge(
            store=stores.alerts,
            rules=all_rules(events=stores.events, projection=stores.projection),
            on_change=outbox.wake,
            retries=metrics,
        )
        metrics.alerts_opened.set_function(lambda: judge.opened)
        metrics.alerts_closed.set_function(lambda: judge.closed)
        reception_clock = ReceptionClock(
            bridge_id=self._settings.bridge_id,
            registry=stores.bridges,
            claim=self._claim,
            is_right=lambda: self._clock_watch.is_right,
        )
        listening = Listening(
            bridge_id=self._settings.bridge_id,
            record=stores.listening,
            is_listening=lambda: self._takes_in and not stop.is_set(),
        )
        projector = Projector(
            projection=stores.projection, alerts=judge, metrics=metrics, reception_clock=reception_clock
        )
        catch_up = CatchUp(
            bridge_id=self._settings.bridge_id,
            events=stores.events,
            projection=stores.projection,
            projector=projector,
            alerts=judge,
            registry=stores.bridges,
            claim=self._claim,
            metrics=metrics,
        )
        left_out = LeftOut(dead_letters=stores.dead_letters, metrics=metrics)
        gate = Gate(settings=self._settings, known=self._known, left_out=left_out)
        metrics.devices_over.set_function(lambda: gate.devices_over)
        kinds = kinds_of_messages(
            events=stores.events,
            dead_letters=stores.dead_letters,
            projector=projector,
            gate=gate,
            metrics=metrics,
            now=self._clock_watch.right_now,
        )
        intake = Intake(
            kinds=kinds,
            settings=self._settings,
            metrics=metrics,
            is_clock_right=self._clock_watch.vouch,
        )
        strays = StrayWatch(
            address=self._settings.mqtt,
            ca_file=self._settings.mqtt_ca_file,
            bridge_id=self._settings.bridge_id,
            metrics=metrics,
        )

        retained = RetainedReader(
            address=self._settings.mqtt,
            ca_file=self._settings.mqtt_ca_file,
            bridge_id=self._settings.bridge_id,
        )
        others = OtherBrokers(
            addresses=self._settings.brokers[1:],
            ca_file=self._settings.mqtt_ca_file,
            bridge_id=self._settings.bridge_id,
        )

        def on_connected() -> None:
            outbox.publish_again()
            strays.begin()

        session = self._session = Session(
            address=self._settings.mqtt,
            ca_file=self._settings.mqtt_ca_file,
            bridge_id=self._settings.bridge_id,
            subscriptions=[
                *(_subscription(self._settings.shared_subscription, kind, intake) for kind in kinds),
                # What the broker drops will not be seen where it refuses this one.
                Subscription(STATUS_FILTER, 0, BrokerWatch(metrics).on_message, required=False),
            ],
            on_connected=on_connected,
            is_ours=self._is_ours,
            known_before=self._claim.known_before,
            metrics=metrics,
            leaving=self._leaving,
            former_filters=[topics.FORMER_SHARED_SYNC_FILTER],
        )
        intake.attach(session)
        works = {
            "catch-up": catch_up.run(),
            "clock": self._clock_watch.run(intake),
            "floor": reception_clock.run(metrics, projector.oldest_in_flight_ms, listening),
            "intake": intake.run(),
            "judge": judge.run(),
            "left out": left_out.run(),
            "outbox": outbox.run(MqttSink(session, retained.read, others.retain)),
            "other brokers": others.run(),
            "session": session.run(),
            "strays": strays.run(),
        }
        if self._known is not None:
            works["known devices"] = self._known.run()
        if self._leaving:
            works["leave"] = self._quiet(session, intake, projector, judge)
        async with supervise(works, children=intake.batches) as running:
            await running.until(stop)
            await _drain(intake, self._settings.drain_timeout_s)
            with suppress(RedisUnavailable):
                await catch_up.finish()
            with suppress(MongodbUnavailable):
                await left_out.write_down()
            if projector.oldest_in_flight_ms() is None:
                with suppress(MongodbUnavailable):
                    await stores.bridges.stop(self._settings.bridge_id, self._instance)
        log.info("stopped", bridge_id=self._settings.bridge_id)
        if self._refusal is not None:
            raise self._refusal

    @property
    def _takes_in(self) -> bool:
        """Whether what devices send now is taken in: one that leaves is no longer subscribed."""
        is_ready = self._session is not None and self._session.is_ready
        return is_ready and self._clock_watch.is_right and not self._leaving

    async def _is_ours(self) -> bool:
        try:
            return await self._stores.bridges.holder(self._settings.bridge_id) in {self._instance, None}
        except MongodbUnavailable:
            return True  # we cannot know; the next time will tell

    async def _quiet(self, session: Session, intake: Intake, projector: Projector, judge: Judge) -> None:
        """Wait until the broker holds nothing more for us, then end the session, and so the bridge.

        Where of several brokers this one had no session of ours, another one may: then the bridge stops only.
        """

        def is_idle() -> bool:
            return session.is_ready and intake.is_idle and projector.is_current and judge.is_idle

        while True:
            if is_idle() and await _holds_nothing(session, intake) and is_idle():
                break
            await asyncio.sleep(limits.LEAVE_LOOK_S)
        session.end_session()
        if session.lacked_session and len(self._settings.brokers) > 1:
            self._refusal = ConfigurationError(_at_another_broker(self._settings))
            return
        self.has_left = True
        log.info("left", bridge_id=self._settings.bridge_id, messages=intake.offered)

    async def forget(self) -> None:
        """Retire the bridge's watermark and name, after its last life."""
        bridge_id = self._settings.bridge_id
        await until_available(lambda: self._stores.projection.leave(bridge_id), self._metrics)
        await until_available(lambda: self._stores.bridges.forget(bridge_id), self._metrics)


def _at_another_broker(settings: BridgeSettings) -> str:
    return (
        f"{settings.mqtt} has no session of {settings.bridge_id}, which stays: a bridge leaves the broker"
        " that it was at, which is to stand first in PISYNC_MQTT_URL. Where that lost the session,"
        f" `pisync bridges forget {settings.bridge_id}` forgets the bridge"
    )


async def _holds_nothing(session: Session, intake: Intake) -> bool:
    """Whether the broker has no message left for us, when all that came is acknowledged.

    Silence would say nothing: a broker that writes its snapshot is silent, too. But a broker handles what we
    send in order, and sends what follows on a PUBACK before it answers the PINGREQ behind it.
    """
    seen = intake.offered
    try:
        for _ in range(limits.LEAVE_BARRIERS):
            await session.barrier()
    except PiSyncError:
        return False  # the connection is lost; what is held comes on the next one
    return intake.offered == seen


async def _drain(intake: Intake, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await intake.drain()
    except TimeoutError:
        raise PiSyncError(
            f"could not finish what was in flight within {timeout_s:g} s;"
            " it is not acknowledged, and the broker will deliver it again"
        ) from None
