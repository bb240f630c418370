"""The api as a process: the real parts, the HTTP server, and their end."""

import asyncio
import contextlib
import math
import signal
import socket
from collections.abc import Iterator

import uvicorn
import uvloop
from fastapi import FastAPI

from api.app import create_app
from api.publisher import MqttSyncPublisher
from pisync import logs, tasks
from pisync.errors import ConfigurationError
from pisync.limits import CONNECTIONS_MAX, STOP_MARGIN_S
from pisync.settings import Settings
from pisync.stores.mongodb.alerts import MongoAlertStore
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.dead_letters import MongoDeadLetterStore
from pisync.stores.mongodb.events import MongoEventStore
from pisync.stores.redis.projection import RedisProjection

log = logs.get("api.service")


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way.

    Raises:
        ConfigurationError: the address cannot be listened on, or the broker refuses us for good.
    """
    with (
        _listen(settings.http_host, settings.http_port) as listener,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_serve(settings, listener))


class _Server(uvicorn.Server):
    """Uvicorn, stopped by signals in our way: its own raises the signal again, so that it never exits 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        def stop() -> None:
            self.should_exit = True

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        yield


async def _serve(settings: Settings, listener: socket.socket) -> None:
    publisher = MqttSyncPublisher(settings)
    async with contextlib.AsyncExitStack() as stack:
        mongodb = MongoConnection(settings.mongodb_url)
        stack.push_async_callback(mongodb.close)
        streaks = RedisProjection.connect(settings.redis_url)
        stack.push_async_callback(streaks.close)
        app = create_app(
            settings,
            events=MongoEventStore(mongodb),
            streaks=streaks,
            letters=MongoDeadLetterStore(mongodb),
            alerts=MongoAlertStore(mongodb),
            publisher=publisher,
        )
        stop_s = math.ceil(settings.receipt_timeout_s) + STOP_MARGIN_S
        server = _Server(server_config(app, stop_s=stop_s))
        connection = asyncio.create_task(publisher.run(), name="mqtt connection")
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="http server")
        host, port = listener.getsockname()[:2]
        log.info("api listening", url=f"http://{f'[{host}]' if ':' in host else host}:{port}")
        # The connection never ends by itself but with an error; the server ends by a signal.
        await asyncio.wait({connection, serving}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        try:
            await serving
        finally:
            await tasks.end(connection)
    log.info("api stopped")


def server_config(app: FastAPI, *, stop_s: int) -> uvicorn.Config:
    """How uvicorn serves an app of ours; a stop gives requests that are under way so many seconds."""
    return uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS_MAX,
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
