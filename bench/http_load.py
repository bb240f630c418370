"""HTTP load over keep-alive connections, from a process of its own: it shares no event loop with anything.

`send` starts that process (`python -m bench.http_load`), hands it the requests and gives back what it saw.
Plain sockets and no HTTP library: what the client costs is time that the servers of a small machine lack.
"""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final, cast

import msgspec
import uvloop

from bench.results import percentile
from local_stack import ports

_END_OF_HEAD: Final = b"\r\n\r\n"
_LENGTH: Final = b"\r\ncontent-length: "
_STATUS: Final = slice(9, 12)
_TIMEOUT_S: Final = 120.0


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to send: `total` requests, the given ones in turn, each connection one at a time."""

    port: int
    connections: int
    requests: list[bytes]
    total: int


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it: the seconds it took, milliseconds of each request, answers by status, the last one."""

    seconds: float
    latencies_ms: list[float]
    statuses: dict[int, int]
    last_body: bytes
    cpu_s: float

    @property
    def per_second(self) -> float:
        """Requests a second."""
        return len(self.latencies_ms) / self.seconds

    def percentile_ms(self, percent: int) -> float:
        """The latency that so many percent of the requests did not exceed."""
        return percentile(self.latencies_ms, percent)


class Failed(RuntimeError):  # noqa: N818 - what happened
    """The load could not be sent, or was not answered as it should be."""


def get(path: str, **headers: str) -> bytes:
    """A GET request; a header's name has `_` for `-`."""
    lines = {"host": ports.HOST, **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"GET {path} HTTP/1.1\r\n{head}\r\n".encode()


def post(path: str, body: bytes) -> bytes:
    """A POST request with a JSON body."""
    head = f"POST {path} HTTP/1.1\r\nHost: {ports.HOST}\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def send(
    port: int, requests: Sequence[bytes], *, connections: int, total: int | None = None, expect: int = 200
) -> Sent:
    """Send `total` requests (default: each once), the given ones in turn.

    Raises:
        Failed: an answer had another status than expected, or the client could not do its work.
    """
    load = Load(
        port=port,
        connections=connections,
        requests=list(requests),
        total=len(requests) if total is None else total,
    )
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            output, _ = await client.communicate(msgspec.msgpack.encode(load))
    finally:
        if client.returncode is None:
            client.kill()
            await client.wait()
    if client.returncode != 0:
        raise Failed(f"the client ended with exit code {client.returncode}")
    sent = msgspec.msgpack.decode(output, type=Sent)
    if set(sent.statuses) != {expect}:
        raise Failed(f"answers by status: {sent.statuses}; the last one: {sent.last_body[:300]!r}")
    return sent


class _Connection(asyncio.Protocol):
    """One keep-alive connection: sends the next request when the answer to the last one is there."""

    def __init__(self, run: "_Run") -> None:
        self._run = run
        self._received = b""
        self._sent_at_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._next()

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(_END_OF_HEAD)
        if end < 0:
            return
        at = self._received.lower().find(_LENGTH, 0, end) + len(_LENGTH)
        length = int(self._received[at : self._received.index(b"\r\n", at)])
        body_at = end + len(_END_OF_HEAD)
        if len(self._received) < body_at + length:
            return
        run = self._run
        run.latencies_ms.append((time.perf_counter() - self._sent_at_s) * 1e3)
        run.statuses[int(self._received[_STATUS])] += 1
        run.last_body = self._received[body_at:]
        self._received = b""
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._run.done.done():
            self._run.done.set_exception(exc or ConnectionError("the server closed a connection"))

    def _next(self) -> None:
        run = self._run
        if run.begun == run.load.total:
            if len(run.latencies_ms) == run.load.total and not run.done.done():
                run.done.set_result(None)
            return
        request = run.load.requests[run.begun % len(run.load.requests)]
        run.begun += 1
        self._sent_at_s = time.perf_counter()
        self._transport.write(request)


class _Run:
    """One run of a load."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.begun = 0
        self.latencies_ms: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.last_body = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def sent(self) -> Sent:
        loop = asyncio.get_running_loop()
        began_s, cpu_before_s = time.perf_counter(), time.process_time()
        for _ in range(self.load.connections):
            await loop.create_connection(lambda: _Connection(self), ports.HOST, self.load.port)
        await self.done
        return Sent(
            seconds=time.perf_counter() - began_s,
            latencies_ms=self.latencies_ms,
            statuses=dict(self.statuses),
            last_body=self.last_body,
            cpu_s=time.process_time() - cpu_before_s,
        )


async def _main() -> None:
    load = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Load)
    sys.stdout.buffer.write(msgspec.msgpack.encode(await _Run(load).sent()))


if __name__ == "__main__":
    uvloop.run(_main())
