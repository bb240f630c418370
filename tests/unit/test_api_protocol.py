"""Hostile clients over real sockets: heads, deadlines, pipelines, unread answers and too many connections.

The limits are made small; counted are connections, bytes and requests.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import pytest_asyncio
import uvicorn

from api import protocol
from api.connections import Connections
from api.service import server_config
from pisync import limits
from tests.support.waiting import until

HEAD = b"GET /ok HTTP/1.1\r\nHost: 127.0.0.1\r\n"
GET = HEAD + b"\r\n"


@dataclass
class Served:
    """A server of one small app; `gate` holds its answers back while it is not set."""

    connections: Connections
    port: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    large: int = 0
    server: Any = None

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(scope["path"])
        if scope["method"] == "POST":
            body = b""
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body += message["body"]
                if not message["more_body"]:
                    break
            self.bodies.append(body)
        if not scope["path"].endswith("/healthz"):
            await self.gate.wait()
        answer = b"x" * self.large if scope["path"] == "/large" else b"fine"
        headers = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    @property
    def protocols(self) -> list[protocol.Protocol]:
        return list(self.server.server_state.connections)

    @asynccontextmanager
    async def client(self) -> AsyncIterator["Client"]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Client(reader, writer)
        finally:
            writer.transport.abort()


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def status(self) -> int:
        """The status of the next answer, 0 where there is none."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return 0
        lines = head.decode().lower().split("\r\n")
        [length] = [int(line.partition(":")[2]) for line in lines if line.startswith("content-length:")]
        body = await self.reader.readexactly(length)
        status = int(lines[0].split()[1])
        if status >= 400:
            assert json.loads(body)["status"] == status
            assert "content-type: application/problem+json" in lines
            assert "x-content-type-options: nosniff" in lines
            assert "connection: close" in lines
        return status

    async def is_closed(self) -> bool:
        try:
            return await self.reader.read() is not None
        except ConnectionError:
            return True


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Served]:
    state = Served(Connections())
    state.gate.set()
    config = server_config(state.app, state.connections, stop_s=1)
    config.port = 0
    state.server = server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    state.port = server.servers[0].sockets[0].getsockname()[1]
    yield state
    state.gate.set()
    server.should_exit = True
    await serving
    await until(lambda: len(state.connections) == 0)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HTTP_DEADLINE_S", 0.2)


async def test_a_head_has_64_kib_and_no_more(served: Served) -> None:
    room = limits.HTTP_HEAD_BYTES_MAX - len("/ok") - len("host") - len("127.0.0.1") - 4
    for excess, status in ((0, 200), (1, 431)):
        async with served.client() as client:
            value = b"v" * (room - len("x") - 4 + excess)
            await client.send(HEAD + b"X: " + value + b"\r\n\r\n")
            assert await client.status() == status
    assert served.asked == ["/ok"]


ENDLESS = {
    "a header": (HEAD + b"X: ", b"v" * 4096),
    "a header's name": (HEAD, b"n" * 4096),
    "headers": (HEAD, b"X: v\r\n" * 700),
    "a path": (b"GET /", b"p" * 4096),
    "trailers": (
        b"POST /ok HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nb\r\n0\r\n",
        b"X: v\r\n" * 700,
    ),
    "a chunk's extension": (
        b"POST /ok HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;",
        b"e" * 4096,
    ),
}


@pytest.mark.parametrize("what", ENDLESS)
async def test_what_never_ends_is_refused_and_not_kept(served: Served, what: str) -> None:
    begin, more = ENDLESS[what]
    taken = 0
    async with served.client() as client:
        await client.send(begin)
        answer = asyncio.create_task(client.status())
        with suppress(ConnectionError):
            while not answer.done() and taken < 100 * limits.HTTP_HEAD_BYTES_MAX:
                await client.send(more)
                taken += len(more)
                await asyncio.sleep(0)
        assert await answer in {400, 431}
    assert taken < 100 * limits.HTTP_HEAD_BYTES_MAX
    assert served.bodies == []


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", 0),
        (b"G", 408),
        (HEAD, 408),
        (GET + HEAD, 200),
        (b"POST /ok HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345", 408),
        (b"POST /ok HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n", 408),
    ],
)
async def test_a_request_that_is_not_sent_in_time_is_ended(served: Served, sent: bytes, status: int) -> None:
    async with served.client() as client:
        await client.send(sent)
        assert await client.status() == status
        if status == 200:
            assert await client.status() == 408
        assert await client.is_closed()


@pytest.mark.usefixtures("short")
async def test_a_byte_now_and_then_does_not_help(served: Served) -> None:
    async with served.client() as client:
        await client.send(HEAD + b"X: ")
        answer = asyncio.create_task(client.status())
        while not answer.done():
            await client.send(b"v")
            await asyncio.sleep(0.02)
        assert await answer == 408
    assert served.asked == []


async def test_a_file_may_come_in_for_longer_while_it_brings_more_than_another_body_may_have(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HTTP_DEADLINE_S", 0.5)
    monkeypatch.setattr(limits, "HTTP_BODY_BYTES_MAX", 1000)
    async with served.client() as client:
        await client.send(b"POST /ok HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        answer = asyncio.create_task(client.status())
        await until(lambda: served.asked)
        [connection] = served.protocols
        for piece in (1001, 1001, 1001, 1000):
            deadline = connection._deadline
            await client.send(b"x" * piece)
            await until(lambda before=deadline: connection._deadline is not before)  # type: ignore[misc]
        assert await answer == 408
        assert connection._body_bytes == 4003
    assert served.bodies == []


@pytest.mark.usefixtures("short")
async def test_time_that_the_app_takes_is_not_the_clients(served: Served) -> None:
    served.gate.clear()
    async with served.client() as client:
        await client.send(
            GET + HEAD
        )  # the second is not complete, and not read on while the first is answered
        await until(lambda: served.asked)
        await asyncio.sleep(3 * limits.HTTP_DEADLINE_S)
        await client.send(b"\r\n")
        served.gate.set()
        assert [await client.status(), await client.status()] == [200, 200]


async def test_pipelined_requests_wait_in_a_bounded_number_and_are_all_answered(served: Served) -> None:
    served.gate.clear()
    count = 3000
    async with served.client() as client:
        sending = asyncio.create_task(client.send(GET * count))
        await until(lambda: served.asked)
        [connection] = served.protocols
        await until(lambda: connection._held)
        per_piece = protocol._PIECE_BYTES // len(GET) + 1
        assert len(connection.pipeline) <= limits.HTTP_PIPELINED_MAX + per_piece
        assert len(served.asked) == 1
        served.gate.set()
        for _ in range(count):
            assert await client.status() == 200
            assert len(connection.pipeline) <= limits.HTTP_PIPELINED_MAX + per_piece
        await sending
    assert len(served.asked) == count


@pytest.mark.parametrize("pipelined", [0, 1, 5])
@pytest.mark.parametrize("path", [b"/ok", b"/large"])
async def test_a_connection_that_ends_while_it_is_answered_is_no_error(
    served: Served,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    path: bytes,
    pipelined: int,
) -> None:
    """Also where requests wait behind the one that is answered."""

    def closed(_: bytes) -> None:
        raise RuntimeError("the handler is closed")  # as uvloop does, and asyncio does not

    served.gate.clear()
    served.large = 16 * 1024 * 1024
    request = b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    async with served.client() as client:
        await client.send(request * (1 + pipelined))
        await until(lambda: served.asked)
        [connection] = served.protocols
        await until(lambda: len(connection.pipeline) == pipelined)
        connection.transport.abort()  # nothing is read while requests wait, so that a reset is not seen
        await until(lambda: not served.protocols)
    monkeypatch.setattr(connection.transport, "write", closed)
    tasks = list(served.server.server_state.tasks)
    served.gate.set()
    await asyncio.gather(*tasks)
    assert len(tasks) == len(served.asked) == 1
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def test_what_waits_for_the_rest_of_a_body_is_told_that_its_client_went(served: Served) -> None:
    async with served.client() as client:
        await client.send(b"POST /ok HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nx")
        await until(lambda: served.asked)
    await until(lambda: not served.server.server_state.tasks)
    assert served.bodies == []


async def test_what_is_not_looked_at_yet_is_not_read_either(served: Served) -> None:
    async with served.client() as client:
        sending = asyncio.create_task(client.send(GET * 100_000))
        for _ in range(1000):
            assert await client.status() == 200
            [connection] = served.protocols
            assert len(connection._held) <= 256 * 1024  # what an event loop reads at once
        sending.cancel()


async def test_pipelined_bodies_come_in_order_and_whole(served: Served) -> None:
    bodies = [bytes([65 + number % 26]) * (number * 997 % 20_000) for number in range(60)]
    async with served.client() as client:
        requests = b"".join(
            b"POST /ok HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            for body in bodies
        )
        sending = asyncio.create_task(client.send(requests))
        for _ in bodies:
            assert await client.status() == 200
        await sending
    assert served.bodies == bodies


@pytest.mark.usefixtures("short")
async def test_an_answer_that_is_not_read_is_given_up(served: Served) -> None:
    served.large = 16 * 1024 * 1024
    served.server.config.timeout_keep_alive = 0.05
    for connection_header in (b"", b"Connection: close\r\n"):
        async with served.client() as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await client.send(b"GET /large HTTP/1.1\r\nHost: a\r\n" + connection_header + b"\r\n")
            await until(lambda: served.asked and not served.protocols)
            served.asked.clear()


@pytest.mark.usefixtures("short")
async def test_an_answer_that_is_read_slowly_is_read_to_its_end(served: Served) -> None:
    served.large = 8 * 1024 * 1024
    served.server.config.timeout_keep_alive = 0.05  # its connection counts as idle long before the end
    async with served.client() as client:
        await client.send(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        left = served.large
        while left:
            left -= len(await client.reader.readexactly(min(left, 1024 * 1024)))
            await asyncio.sleep(limits.HTTP_DEADLINE_S / 4)


async def test_what_all_clients_leave_unread_is_bounded(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HTTP_UNREAD_BYTES_MAX", 100 * 1024 * 1024)
    served.large = 32 * 1024 * 1024
    async with AsyncExitStack() as stack:
        for count in range(1, 7):
            client = await stack.enter_async_context(served.client())
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await client.send(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
            await until(partial(lambda wanted: len(served.asked) == wanted, count))
            unread = sum(each.transport.get_write_buffer_size() for each in served.protocols)
            assert unread <= limits.HTTP_UNREAD_BYTES_MAX
        assert len(served.connections) == 3


async def test_idle_connections_of_one_address_give_way_and_everybody_is_answered(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HTTP_CONNECTIONS_OF_ADDRESS_MAX", 5)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(served.client()) for _ in range(20)]
        await until(lambda: len(served.connections) == 5)
        assert await clients[0].is_closed()
        for path in (b"/healthz", b"/ok"):
            client = await stack.enter_async_context(served.client())
            await client.send(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
            assert await client.status() == 200
        assert len(served.connections) == 5


@pytest.mark.parametrize("limit", ["HTTP_CONNECTIONS_OF_ADDRESS_MAX", "HTTP_CONNECTIONS_MAX"])
async def test_bodies_that_never_end_give_way_and_everybody_is_answered(
    served: Served, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(limits, limit, 5)
    body = b"POST /ok HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345"
    async with AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(served.client()) for _ in range(5)]
        for number, client in enumerate(slow, start=1):
            await client.send(body)
            await until(partial(lambda wanted: len(served.asked) == wanted, number))
        async with served.client() as client:
            await client.send(GET)
            assert await client.status() == 200
        assert await slow[0].is_closed()
        # The others are taken to their end: the one that brought the longest went.
        for client in slow[1:]:
            await client.send(b"67890")
            assert await client.status() == 200
        assert served.bodies == [b"1234567890"] * 4


async def test_one_that_is_answered_does_not_give_way_for_the_body_behind_it(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HTTP_CONNECTIONS_MAX", 1)
    served.gate.clear()
    async with served.client() as first:
        await first.send(GET + b"POST /ok HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
        await until(lambda: served.asked)
        async with served.client() as second:
            await second.send(GET)
            assert await second.status() == 503
        served.gate.set()
        assert await first.status() == 200


@pytest.mark.parametrize("limit", ["HTTP_CONNECTIONS_OF_ADDRESS_MAX", "HTTP_CONNECTIONS_MAX"])
async def test_at_the_limit_probes_are_answered_and_others_are_503(
    served: Served, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(limits, limit, 5)
    served.gate.clear()
    async with AsyncExitStack() as stack:
        busy = [await stack.enter_async_context(served.client()) for _ in range(5)]
        for client in busy:
            await client.send(GET)
        await until(lambda: len(served.asked) == 5)
        for path, status in (
            (b"/ok", 503),
            (b"/ok?/healthz", 503),
            (b"/healthz", 200),
            (b"/pisync/healthz?x=1", 200),
            (b"/healthz", 200),
        ):
            async with served.client() as client:
                await client.send(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
                assert await client.status() == status
        served.gate.set()
        for client in busy:
            assert await client.status() == 200


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        (b"http://a/ok", b"a", 200),
        (b"HTTP://A/ok", b"a", 200),
        (b"http://a:80/ok?x=http://b", b"a:80", 200),
        (b"http://evil.example/ok", b"a", 400),
        (b"http://a.evil.example/ok", b"a", 400),
        (b"http://a@evil.example/ok", b"a", 400),
        (b"http://evil.example?x=http://a/ok", b"a", 400),
        (b"/ok?x=http://evil.example/", b"a", 200),
    ],
)
async def test_a_target_that_is_a_whole_address_is_of_the_host_that_is_looked_at(
    served: Served, target: bytes, host: bytes, status: int
) -> None:
    async with served.client() as client:
        await client.send(b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
        assert await client.status() == status
    assert len(served.asked) == (status == 200)


REFUSED = {
    "two framings": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
    "a length with a sign": b"Content-Length: +5\r\n\r\n12345",
    "a coding that is none": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked not last": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "two codings": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "a space before the colon": b"Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "a folded line": b"X: a\r\n b\r\n\r\n",
    "a bare carriage return": b"X: a\rContent-Length: 44\r\n\r\n",
    "a NUL": b"X: a\0b\r\n\r\n",
    "a chunk too large to be": b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\nabc",
    "a chunk below nothing": b"Transfer-Encoding: chunked\r\n\r\n-1\r\nabc",
    "a chunk without its end": b"Transfer-Encoding: chunked\r\n\r\n1\na\n0\n\n",
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_a_proxy_could_read_otherwise_is_refused(served: Served, what: str) -> None:
    """Request smuggling: what follows is never answered as a request of its own."""
    async with served.client() as client:
        await client.send(b"POST /ok HTTP/1.1\r\nHost: a\r\n" + REFUSED[what] + GET)
        assert await client.status() == 400
        assert await client.is_closed()
    assert served.bodies == []


async def test_what_follows_a_good_request_and_is_bad_does_not_take_its_answer(served: Served) -> None:
    for bad in (b"\0\0\r\n\r\n", b"GET /" + b"p" * 100_000, HEAD + b"X: " + b"v" * 100_000):
        served.gate.clear()
        async with served.client() as client:
            await client.send(GET + bad)
            await until(lambda: served.asked)
            served.gate.set()
            assert await client.status() == 200
            assert await client.is_closed()
        served.asked.clear()


class Idle:
    def __init__(self, address: str | None) -> None:
        self.address = address
        self.transport: Any = None
        self.is_closed = False

    def give_way(self) -> None:
        self.is_closed = True


def test_a_proxy_has_no_limit_of_its_own_and_one_address_takes_nothing_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "HTTP_CONNECTIONS_OF_ADDRESS_MAX", 3)
    monkeypatch.setattr(limits, "HTTP_CONNECTIONS_MAX", 20)
    connections = Connections(is_proxy=lambda address: address == "proxy")
    many = [Idle(address) for _ in range(8) for address in ("flood", "proxy")]
    one = Idle("other")
    for each in [one, *many]:
        connections.add(each)
    assert [each.address for each in many if each.is_closed] == ["flood"] * 5
    assert not one.is_closed
    assert len(connections) == 12
    for each in [one, *many, one]:
        connections.remove(each)
    assert len(connections) == 0
    assert not connections._of_address
