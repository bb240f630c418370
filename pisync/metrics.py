"""`GET /metrics`, `GET /healthz` and `GET /livez` in the own event loop of a program, at a port of their own.

A few lines of HTTP/1.1, because a web server beside the hot path would be more to hold than all it serves:
one request a connection, of bounded size and within a bounded time, and a bounded number of them at once.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from pisync import limits, logs
from pisync.errors import ConfigurationError

log = logs.get(__name__)

_TEXT: Final = "text/plain; charset=utf-8"


class Reading(Collector):
    """A counter or gauge that some part keeps; while it is None, the metric has no sample."""

    def __init__(
        self,
        kind: type[CounterMetricFamily | GaugeMetricFamily],
        name: str,
        documentation: str,
        registry: CollectorRegistry,
    ) -> None:
        self._kind = kind
        self._name = name
        self._documentation = documentation
        self._read: Callable[[], float | None] = lambda: None
        registry.register(self)

    def set_function(self, read: Callable[[], float | None]) -> None:
        """Say where the number is."""
        self._read = read

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """The metric, as the registry asks for it."""
        yield self._kind(self._name, self._documentation, value=self._read())


class Health(NamedTuple):
    """Whether a program does its work now, 200 or 503, and what it says about that."""

    ok: bool
    text: str


@asynccontextmanager
async def serving(
    *, host: str, port: int, exposition: Callable[[], bytes], health: Callable[[], Health]
) -> AsyncIterator[None]:
    """Serve while the context lasts.

    Args:
        host: the address to listen on.
        port: the port to listen on.
        exposition: what /metrics answers.
        health: what /healthz answers.

    Raises:
        ConfigurationError: it cannot listen there.
    """
    endpoint = _Endpoint(exposition, health)
    try:
        server = await asyncio.start_server(
            endpoint.handle, host, port, limit=limits.METRICS_REQUEST_BYTES_MAX
        )
    except OSError as error:
        raise ConfigurationError(
            f"PISYNC_METRICS_PORT: cannot listen on {host} port {port}: {error.strerror or error}"
        ) from None
    log.info("metrics", host=host, port=port)
    try:
        yield
    finally:
        server.close()
        endpoint.abort()


class _Endpoint:
    def __init__(self, exposition: Callable[[], bytes], health: Callable[[], Health]) -> None:
        self._exposition = exposition
        self._health = health
        self._open: set[asyncio.StreamWriter] = set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's only request; a client that breaks a bound is hung up on."""
        if len(self._open) >= limits.METRICS_CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            async with asyncio.timeout(limits.METRICS_REQUEST_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            log.debug("metrics request given up", why=repr(error))
        finally:
            writer.transport.abort()
            self._open.discard(writer)

    def abort(self) -> None:
        """Close the connections that are still open."""
        for writer in self._open:
            writer.transport.abort()

    def _answer(self, head: bytes) -> bytes:
        request = head.split(b"\r\n", 1)[0].split(b" ")
        target = request[1].split(b"?")[0] if len(request) == 3 and request[0] == b"GET" else b""
        if target == b"/metrics":
            return _response(HTTPStatus.OK, CONTENT_TYPE_PLAIN_0_0_4, self._exposition())
        if target == b"/healthz":
            health = self._health()
            status = HTTPStatus.OK if health.ok else HTTPStatus.SERVICE_UNAVAILABLE
            return _response(status, _TEXT, f"{health.text}\n".encode())
        if target == b"/livez":  # whoever reads this answer knows that the event loop turns
            return _response(HTTPStatus.OK, _TEXT, b"alive\n")
        return _response(HTTPStatus.NOT_FOUND, _TEXT, b"only GET /metrics, /healthz and /livez\n")


def _response(status: HTTPStatus, content_type: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Content-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body
