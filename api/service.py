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

from api.app import create_app
from api.connections import Connections
from api.metrics import Metrics
from api.middleware import is_within
from api.pages.live import look_at
from api.protocol import protocol_of
from api.publisher import MqttSyncPublisher
from api.state import State
from api.watching import Watch
from fleet.failing import FailingDevices
from fleet.feeding import Feeding
from pisync import backoff, collector, logs
from pisync.errors import ConfigurationError, MongodbUnavailable
from pisync.limits import API_GC_THRESHOLDS, STOP_MARGIN_S
from pisync.settings import ApiSettings
from pisync.stores.open_incidents import OpenIncidents
from pisync.stores.opening import Stores, open_stores
from pisync.tasks import supervise

log = logs.get("api.service")

_SERVER: Final = "http server"


def run(settings: ApiSettings) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way.

    Raises:
        ConfigurationError: the address cannot be listened on, the broker refuses us for good, or what is
            stored is of another version.
    """
    with (
        _listen(settings.http_host, settings.http_port) as listener,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_serve(settings, listener))


class _Server(uvicorn.Server):
    """Uvicorn, without its own way with signals: it raises them again, so that it never exits 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(settings: ApiSettings, listener: socket.socket) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    publisher = MqttSyncPublisher(settings)
    metrics = Metrics()
    async with open_stores(settings) as stores, metrics.serving(settings):
        fleet = Feeding(projection=stores.projection, directory=stores.directory, listening=stores.listening)
        open_incidents = OpenIncidents(stores.incidents)
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
            publisher=publisher,
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
            "version": _check_version(stores),
            "fleet": fleet.run(),
            "live pages": state.pages.streams.run(look_at(state)),
            _SERVER: server.serve(sockets=[listener]),
        }
        if is_measured:
            watch = Watch(projection=stores.projection, alerts=stores.alerts)
            metrics.tell_of(fleet, watch)
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
            await stores.incidents.prepare()
            await stores.notifications.prepare()
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


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigurationError(
            f"PISYNC_HTTP_HOST={host}, PISYNC_HTTP_PORT={port}: {error.strerror or error}"
        ) from None
