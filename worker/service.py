"""The worker as a process: its duties, side by side, and their end."""

import asyncio
import secrets
import signal
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from functools import partial
from typing import Final

import uvloop

from fleet.failing import FailingDevices
from pisync import backoff, limits, logs
from pisync.domain.incidents import IncidentKind
from pisync.domain.recipients import Channel
from pisync.domain.rollups import NO_EVENTS
from pisync.errors import MongodbUnavailable
from pisync.metrics import Health, serving
from pisync.settings import WorkerSettings
from pisync.stores.opening import Stores, open_stores
from pisync.tasks import supervise
from worker.acknowledgements import Closing
from worker.broker_access import AccessDuty
from worker.command_link import MqttCommandLink
from worker.commands import Commanding
from worker.incidents import Inferring
from worker.leased import Leased
from worker.listened import Listened
from worker.messages import Sending
from worker.metrics import Metrics
from worker.notifications import Notifying
from worker.overdue import OverdueAlerts
from worker.presence import PresenceWatch
from worker.retention import Retaining
from worker.rollups import DUTY as ROLLUPS
from worker.rollups import Rolling
from worker.senders.apprise import AppriseSender
from worker.senders.mail import MailSender
from worker.senders.webhook import WebhookSender
from worker.shared_fleet import SharedFleet
from worker.subjects import Subjects

log = logs.get(__name__)

ACKNOWLEDGEMENTS: Final = "acknowledgements"
COMMANDS: Final = "commands"
PRESENCE: Final = "presence"
INCIDENTS: Final = "incidents"
OVERDUE: Final = "overdue"
NOTIFICATIONS: Final = "notifications"
RETENTION: Final = "retention"
BROKER_ACCESS: Final = "broker-access"


def run(settings: WorkerSettings) -> None:
    """Run a worker until SIGTERM or SIGINT.

    Raises:
        PiSyncError: something that trying again cannot mend; its `exit_code` is the process's.
    """
    uvloop.run(_main(settings))


async def _main(settings: WorkerSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with open_stores(settings) as stores:
        worker = _Worker(settings, stores)
        async with worker.serving_metrics():
            async with supervise({"prepare": worker.prepare()}) as preparing:
                await preparing.until(stop)
            if not stop.is_set():
                await worker.serve(stop)


class _Worker:
    """One worker's duties."""

    def __init__(self, settings: WorkerSettings, stores: Stores) -> None:
        self._settings = settings
        self._stores = stores
        self._metrics = Metrics()
        self._fleet = SharedFleet(
            projection=stores.projection,
            directory=stores.directory,
            listening=stores.listening,
            known_bridges=stores.known_bridges,
        )
        self._rolling: Rolling | None = None
        self._ended_events = self._ended_minutes = 0
        self._ended_lateness = NO_EVENTS.lateness
        self._commanding: Commanding | None = None
        self._watch: PresenceWatch | None = None
        self._inferring: Inferring | None = None
        self._ended_incidents = 0
        self._ended_published = self._ended_ignored = self._ended_statuses_ignored = 0
        self._overdue: OverdueAlerts | None = None
        self._ended_opened = self._ended_closed = self._ended_looks_skipped = 0
        self._sending: Sending | None = None
        self._retaining: Retaining | None = None
        self._ended_deleted = 0
        self._holder = secrets.token_hex(8)
        self._access = AccessDuty(settings, stores.credentials, holder=self._holder, metrics=self._metrics)
        self._duties = [
            Leased(duty, work, leases=stores.leases, holder=self._holder, metrics=self._metrics)
            for duty, work in (
                (ROLLUPS, self._roll),
                (ACKNOWLEDGEMENTS, self._close_acknowledgements),
                (COMMANDS, self._command),
                (PRESENCE, self._watch_presence),
                (INCIDENTS, self._infer_incidents),
                (OVERDUE, self._alert_overdue),
                (NOTIFICATIONS, self._notify),
                (RETENTION, self._retain),
                *([(BROKER_ACCESS, self._access.work)] if settings.broker_admin_url else []),
            )
        ]
        self._tell_rollups()
        self._tell_devices()
        self._tell_incidents()
        self._tell_overdue()
        self._tell_notifications()
        self._tell_retention()

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
        now = asyncio.get_running_loop().time()
        for duty in self._duties:
            if duty.answered_at is None or now - duty.answered_at > limits.LEASE_S:
                return Health(ok=False, text="MongoDB does not say who has which duty")
        refusal = self._access.refusal
        return Health(ok=True, text="at work" if refusal is None else f"at work; broker access: {refusal}")

    async def prepare(self) -> None:
        """Make sure of MongoDB: of its version, and of the indexes that are counted by."""
        for delay_s in backoff.delays():
            try:
                await self._stores.events.prepare()
                await self._stores.alerts.prepare()
                await self._stores.acknowledgements.prepare()
                await self._stores.commands.prepare()
                await self._stores.presence.prepare()
                await self._stores.incidents.prepare()
                await self._stores.notifications.prepare()
                await self._stores.credentials.prepare()
            except MongodbUnavailable as error:
                self._metrics.store_unavailable(error.part)
                log.warning("store unavailable", why=str(error), retry_in_s=round(delay_s, 2))
                await asyncio.sleep(delay_s)
            else:
                return

    async def serve(self, stop: asyncio.Event) -> None:
        """Do what duties nobody else has, until told to stop."""
        log.info("looking for duties", duties=[duty.duty for duty in self._duties])
        works = {"shared fleet": self._fleet.run(), **{duty.duty: duty.run() for duty in self._duties}}
        async with supervise(works) as running:
            await running.until(stop)
        for duty in self._duties:
            with suppress(MongodbUnavailable):
                await duty.release()
        log.info("stopped")

    async def _roll(self, term: int) -> None:
        stores = self._stores
        self._rolling = rolling = Rolling(
            received=stores.received, rollups=stores.rollups, registry=stores.bridges, term=term
        )
        try:
            await rolling.run()
        finally:
            self._rolling = None
            self._ended_events += rolling.events_counted
            self._ended_minutes += rolling.minutes_recounted
            self._ended_lateness = _sums(self._ended_lateness, rolling.lateness)

    async def _close_acknowledgements(self, _term: int) -> None:
        stores = self._stores
        with self._fleet.used() as fleet:
            closing = Closing(
                acknowledgements=stores.acknowledgements,
                alerts=stores.alerts,
                incidents=stores.incidents,
                failing=FailingDevices(fleet),
            )
            await closing.run()

    async def _command(self, _term: int) -> None:
        stores = self._stores
        link = MqttCommandLink(self._settings, self._holder)
        commanding = Commanding(
            store=stores.commands,
            received=stores.received,
            projection=stores.projection,
            known_bridges=stores.known_bridges,
            link=link,
        )
        await commanding.load()
        self._commanding = commanding
        try:
            async with supervise({"duty": commanding.run(), **link.works()}) as running:
                await running.until(asyncio.Event())
        finally:
            self._commanding = None
            self._ended_published += commanding.published
            self._ended_ignored += commanding.replies_ignored

    async def _watch_presence(self, _term: int) -> None:
        stores = self._stores
        self._watch = watch = PresenceWatch(self._settings, stores.presence, stores.broker, self._holder)
        try:
            await watch.run()
        finally:
            self._watch = None
            self._ended_statuses_ignored += watch.ignored

    async def _infer_incidents(self, _term: int) -> None:
        stores = self._stores
        with self._fleet.used() as fleet:
            self._inferring = inferring = Inferring(
                store=stores.incidents,
                events=stores.events,
                rollups=stores.rollups,
                served=fleet,
                listened=Listened(stores.known_bridges, stores.listening),
            )
            try:
                await inferring.run()
            finally:
                self._inferring = None
                self._ended_incidents += inferring.opened

    def _tell_incidents(self) -> None:
        def opened() -> int:
            return self._ended_incidents + (self._inferring.opened if self._inferring else 0)

        def count_of(kind: IncidentKind) -> int:
            return self._inferring.open_ones[kind] if self._inferring else 0

        self._metrics.incidents_opened.set_function(opened)
        for kind in IncidentKind:
            self._metrics.incidents_open(kind, partial(count_of, kind))

    async def _alert_overdue(self, _term: int) -> None:
        stores = self._stores
        with self._fleet.used() as fleet:
            self._overdue = overdue = OverdueAlerts(
                alerts=stores.alerts,
                fleet=fleet,
                known_bridges=stores.known_bridges,
                listening=stores.listening,
            )
            try:
                await overdue.run()
            finally:
                self._overdue = None
                self._ended_opened += overdue.opened
                self._ended_closed += overdue.closed
                self._ended_looks_skipped += overdue.looks_skipped

    def _tell_overdue(self) -> None:
        metrics = self._metrics

        def opened() -> int:
            return self._ended_opened + (self._overdue.opened if self._overdue else 0)

        def closed() -> int:
            return self._ended_closed + (self._overdue.closed if self._overdue else 0)

        def looks_skipped() -> int:
            return self._ended_looks_skipped + (self._overdue.looks_skipped if self._overdue else 0)

        metrics.overdue_alerts_opened.set_function(opened)
        metrics.overdue_alerts_closed.set_function(closed)
        metrics.overdue_looks_skipped.set_function(looks_skipped)

    async def _notify(self, _term: int) -> None:
        stores, public_url = self._stores, self._settings.public_url or None
        with self._fleet.used() as fleet:
            notifying = Notifying(
                store=stores.notifications,
                recipients=stores.recipients,
                incidents=stores.incidents,
                alerts=stores.alerts,
                subjects=Subjects(
                    directory=stores.directory,
                    acknowledgements=stores.acknowledgements,
                    failing=FailingDevices(fleet),
                    served=fleet,
                ),
                served=fleet,
                public_url=public_url,
            )
            self._sending = sending = Sending(
                store=stores.notifications,
                recipients=stores.recipients,
                senders={
                    Channel.WEBHOOK: WebhookSender(),
                    Channel.EMAIL: MailSender(self._settings),
                    Channel.APPRISE: AppriseSender(),
                },
                public_url=public_url,
                tried=self._metrics.message_tried,
            )
            try:
                async with supervise({"transitions": notifying.run(), "messages": sending.run()}) as running:
                    await running.until(asyncio.Event())
            finally:
                self._sending = None

    async def _retain(self, _term: int) -> None:
        stores = self._stores
        self._retaining = retaining = Retaining(
            store=stores.retention,
            rollups=stores.rollups,
            registry=stores.bridges,
            days=self._settings.retention_days,
        )
        try:
            await retaining.run()
        finally:
            self._retaining = None
            self._ended_deleted += retaining.deleted

    def _tell_retention(self) -> None:
        def deleted() -> int:
            return self._ended_deleted + (self._retaining.deleted if self._retaining else 0)

        def oldest_s() -> float | None:
            progress = self._retaining.progress if self._retaining else None
            return progress.oldest_ms / 1000 if progress and progress.oldest_ms is not None else None

        def is_waiting() -> bool | None:
            progress = self._retaining.progress if self._retaining else None
            return bool(progress.waits_for) if progress else None

        self._metrics.events_deleted.set_function(deleted)
        self._metrics.oldest_event.set_function(oldest_s)
        self._metrics.retention_waiting.set_function(is_waiting)

    def _tell_notifications(self) -> None:
        metrics = self._metrics
        metrics.notifications_lag.set_function(lambda: self._sending.lag_s if self._sending else None)
        metrics.recipients_failing.set_function(lambda: self._sending.failing if self._sending else None)

    def _tell_devices(self) -> None:
        metrics = self._metrics

        def published() -> int:
            return self._ended_published + (self._commanding.published if self._commanding else 0)

        def ignored() -> int:
            return self._ended_ignored + (self._commanding.replies_ignored if self._commanding else 0)

        def statuses_ignored() -> int:
            return self._ended_statuses_ignored + (self._watch.ignored if self._watch else 0)

        metrics.statuses_ignored.set_function(statuses_ignored)
        metrics.commands_published.set_function(published)
        metrics.command_replies_ignored.set_function(ignored)
        metrics.commands_inflight.set_function(
            lambda: self._commanding.inflight if self._commanding else None
        )

    def _tell_rollups(self) -> None:
        metrics = self._metrics

        def events() -> int:
            return self._ended_events + (self._rolling.events_counted if self._rolling else 0)

        def minutes() -> int:
            return self._ended_minutes + (self._rolling.minutes_recounted if self._rolling else 0)

        def lateness() -> tuple[int, ...]:
            now = self._rolling.lateness if self._rolling else NO_EVENTS.lateness
            return _sums(self._ended_lateness, now)

        def since_s() -> float | None:
            covered = self._rolling.progress.covered if self._rolling else ()
            return covered[-1].start_ms / 1000 if covered else None

        metrics.rollup_events.set_function(events)
        metrics.rollup_minutes_recounted.set_function(minutes)
        metrics.rollup_since.set_function(since_s)
        metrics.event_lateness.set_function(lateness)
        metrics.rollup_lag.set_function(lambda: self._rolling.lag_s() if self._rolling else None)
        metrics.rollup_minutes_open.set_function(
            lambda: self._rolling.minutes_open if self._rolling else None
        )


def _sums(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(sum, zip(first, second, strict=True)))
