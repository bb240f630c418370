"""The api as a process: the real parts, the HTTP server, and their end."""

import asyncio
import contextlib
import math
import signal
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn
import uvloop
from starlette.types import ASGIApp

from api import enrolment
from api.app import create_app
from api.auth.addresses import is_within
from api.auth.signing_in import signing_in_with
from api.connections import Connections
from api.denying import tell_of
from api.enrolment import Enrolment
from api.metrics import Metrics
from api.pages.live import look_at
from api.protocol import protocol_of
from api.publisher import MqttSyncPublisher
from api.state import State
from api.watching import Watch
from fleet.failing import FailingDevices
from fleet.feeding import Feeding
from pisync import backoff, collector, logs
from pisync.errors import MongodbUnavailable
from pisync.limits import API_GC_THRESHOLDS, STOP_MARGIN_S
from pisync.pki import Authority
from pisync.settings import ApiSettings
from pisync.stores.open_incidents import OpenIncidents
from pisync.stores.opening import Stores, open_stale_reads, open_stores
from pisync.tasks import supervise

log = logs.get("api.service")

_SERVER: Final = "http server"


def serve(settings: ApiSettings, listener: socket.socket, parent: int | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way.

    Args:
        settings: of this process.
        listener: takes the connections, which it may share with other processes.
        parent: a pipe whose end is that of the process that watches this one, and so this one's as well.

    Raises:
        ConfigurationError: the broker refuses us for good, or what is stored is of another version.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, listener, parent))


class _Server(uvicorn.Server):
    """Uvicorn, without its own way with signals: it raises them again, so that it never exits 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(settings: ApiSettings, listener: socket.socket, parent: int | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if parent is not None:
        loop.add_reader(parent, _parent_ended, loop, parent, stop)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # what came since the fork is told now
    publisher = MqttSyncPublisher(settings)
    metrics = Metrics()
    async with (
        open_stores(settings) as stores,
        open_stale_reads(settings) as stale_reads,
        metrics.serving(settings),
    ):
        fleet = Feeding(projection=stores.projection, directory=stores.directory, listening=stores.listening)
        open_incidents = OpenIncidents(stores.incidents)
        signing_in = signing_in_with(settings, stores.keys, stores.users, stores.sessions)
        signing_in.access.tell = tell_of(stores.actions)
        state = State(
            events=stores.events,
            projection=stores.projection,
            dead_letters=stores.dead_letters,
            alerts=stores.alerts,
            bridges=stores.bridges,
            directory=stores.directory,
            device_notes=stores.device_notes,
            actions=stores.actions,
            acknowledgements=stores.acknowledgements,
            incidents=stores.incidents,
            open_incidents=open_incidents,
            recipients=stores.recipients,
            notifications=stores.notifications,
            listening=stores.listening,
            rollups=stores.rollups,
            retention=stores.retention,
            leases=stores.leases,
            broker=stores.broker,
            known_bridges=stores.known_bridges,
            fleet=fleet,
            failing=FailingDevices(fleet),
            commands=stores.commands,
            credentials=stores.credentials,
            enrolment=_enrolment(settings, stores),
            publisher=publisher,
            keys=stores.keys,
            access=signing_in.access,
            users=stores.users,
            sessions=stores.sessions,
            signing_in=signing_in,
            stale_reads=stale_reads,
        )
        is_measured = settings.metrics_port is not None
        app = create_app(settings, state, metrics.requests if is_measured else None)
        collector.spare(API_GC_THRESHOLDS)
        stop_s = math.ceil(settings.receipt_timeout_s) + STOP_MARGIN_S
        connections = Connections(is_proxy=lambda address: is_within(address, settings.trusted_proxies))
        server = _Server(server_config(app, connections, stop_s=stop_s))
        works = {
            "mqtt connection": publisher.run(),
            "known bridges": stores.known_bridges.run(),
            "open incidents": open_incidents.run(),
            "access": signing_in.access.run(),
            "sessions": signing_in.sessions.run(),
            "version": _check_version(stores),
            "fleet": fleet.run(),
            "live pages": state.pages.streams.run(look_at(state)),
            _SERVER: server.serve(sockets=[listener]),
        }
        if is_measured:
            watch = Watch(projection=stores.projection, alerts=stores.alerts, credentials=stores.credentials)
            metrics.tell_of_credentials(watch, settings, state.enrolment)
            metrics.tell_of(fleet, watch, signing_in.access)
            works["metrics"] = watch.run()
        async with supervise(works) as running:
            host, port = listener.getsockname()[:2]
            log.info("api listening", url=f"http://{f'[{host}]' if ':' in host else host}:{port}")
            try:
                # Neither ends by itself but with an error.
                await running.until(stop)
            finally:
                # A stream of ticks never ends by itself.
                state.pages.streams.end()
                # What is under way is answered while the connection is still there.
                server.should_exit = True
                await running.ended(_SERVER)
    log.info("api stopped")


def _parent_ended(loop: asyncio.AbstractEventLoop, parent: int, stop: asyncio.Event) -> None:
    """Stop; and look no more, because the end of a pipe stays readable, and the loop would turn on it."""
    loop.remove_reader(parent)
    stop.set()


def _enrolment(settings: ApiSettings, stores: Stores) -> Enrolment | None:
    directory = settings.enrolment_ca_directory
    if directory is None:
        return None
    found = enrolment.Stores(
        tokens=stores.enrolment_tokens, credentials=stores.credentials, actions=stores.actions
    )
    return Enrolment(Authority.open(directory), found)


async def _check_version(stores: Stores) -> None:
    """Fail where what is stored is of another version, as soon as MongoDB says so; else wait to be cancelled.

    Until then the api is up: what needs MongoDB is answered 503. The indexes of what the api writes itself
    are created here, too.
    """
    for delay_s in backoff.delays():
        try:
            await stores.events.check_version()
            await stores.directory.prepare()
            await stores.actions.prepare()
            await stores.acknowledgements.prepare()
            await stores.commands.prepare()
            await stores.credentials.prepare()
            await stores.enrolment_tokens.prepare()
            await stores.incidents.prepare()
            await stores.notifications.prepare()
            await stores.sessions.prepare()
            await stores.keys.prepare()
            break
        except MongodbUnavailable as error:
            log.debug("the version of what is stored is not known yet", why=str(error))
            await asyncio.sleep(delay_s)
    await asyncio.Event().wait()


def server_config(app: ASGIApp, connections: Connections, *, stop_s: int) -> uvicorn.Config:
    """How uvicorn serves an app of ours; a stop gives requests that are under way so many seconds."""
    return uvicorn.Config(
        app,
        http=protocol_of(connections),  # type: ignore[arg-type] # uvicorn only calls it
        interface="asgi3",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=stop_s,
    )
