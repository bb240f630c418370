"""HTTP/1.1 on one connection: uvicorn's protocol over httptools, with deadlines and bounds.

Uvicorn bounds neither the head of a request, nor how long it takes, nor how many requests of one connection
wait for their turn, nor for how long an answer stays unread. `api/connections.py` bounds the connections.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import httptools
from fastapi import Response
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api import problems
from api.connections import Connections
from pisync import limits, logs

log = logs.get("api.protocol")

_PROBES: Final = (b"/healthz", b"/readyz", b"/livez")
# What is fed to the parser at once. A count is taken after each, so that none is off by more than this.
_PIECE_BYTES: Final = 4096
# What a chunk of a body may cost beside its bytes: the smallest ones have six for one.
_OVERHEAD_OF_BYTE: Final = 8
_HEADERS: Final = {
    "Connection": "close",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def protocol_of(connections: Connections) -> Callable[..., "Protocol"]:
    """What makes the protocols of one server."""
    return partial(Protocol, connections)


class Protocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, connections: Connections, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.address: str | None = None
        self._connections = connections
        self._serving = self.app
        self._deadline: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None
        # Of the request that comes in: whether all of it is there, its bytes, and those that are body.
        self._is_whole = True
        self._has_head = False
        self._bytes = 0
        self._body_bytes = 0
        # Of the body, what was there when its deadline came last.
        self._body_seen = 0
        # What came and is not looked at yet, because too many requests wait for their turn.
        self._held = b""
        self._is_ended = False
        # `cycle` is that of the request that came last, which may wait for its turn behind this one.
        self._answered: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._flow = self.flow = _Flow(transport)
        self.address = self.client[0] if self.client else None
        self._connections.add(self)
        self._deadline = self.loop.call_later(limits.HTTP_DEADLINE_S, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._is_ended = True
        self._connections.remove(self)
        for timer in (self._deadline, self._reading):
            if timer is not None:
                timer.cancel()
        self.pipeline.clear()
        self._held = b""
        if self._answered is not None and not self._answered.response_complete:
            self._answered.disconnected = True
            self._answered.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in what came, as far as requests may wait."""
        self._unset_keepalive_if_required()
        self._held = self._held + data if self._held else data
        self._feed()

    def _feed(self) -> None:
        data, self._held = self._held, b""
        for start in range(0, len(data), _PIECE_BYTES):
            if self._is_ended:
                return
            if len(self.pipeline) >= limits.HTTP_PIPELINED_MAX:
                self._held = data[start:]
                self._flow.hold()
                return
            self._feed_piece(data[start : start + _PIECE_BYTES] if len(data) > _PIECE_BYTES else data)
        if self._is_ended:
            return
        if self._is_whole and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        elif not self._is_whole and self._deadline is None:
            self._deadline = self.loop.call_later(limits.HTTP_DEADLINE_S, self._late)
        if not self._is_whole and self._has_head and not self._answers_another():
            self._connections.brings(self)

    def _feed_piece(self, piece: bytes) -> None:
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:  # an offer, which a server may ignore (RFC 9110, 7.8)
            self._is_whole = True
            return
        except httptools.HttpParserError:
            self.send_400_response("The request is not HTTP/1.1.")
            return
        self._bytes += len(piece)
        overhead = self._bytes - self._body_bytes - _OVERHEAD_OF_BYTE * self._body_bytes
        if not self._is_whole and overhead > limits.HTTP_HEAD_BYTES_MAX + _PIECE_BYTES:
            self._refuse_head()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._is_whole = self._has_head = False
        self._bytes = self._body_bytes = self._body_seen = 0

    def on_headers_complete(self) -> None:
        """A head is complete: hand the request on, or refuse it."""
        if self._is_ended:
            return
        head = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if head > limits.HTTP_HEAD_BYTES_MAX:
            self._refuse_head()
            return
        if not self.url.startswith(b"/") and not self._is_for_host():
            self._refuse(HTTPStatus.BAD_REQUEST, "The request's target is of another host than `Host`.")
            return
        self._has_head = True
        if self._deadline is not None:  # the body has its own
            self._deadline.cancel()
            self._deadline = None
        self._connections.works(self)
        self.app = self._serving
        if self._connections.are_too_many(self) and not self.url.partition(b"?")[0].endswith(_PROBES):
            self.app = _too_many
        super().on_headers_complete()

    def _is_for_host(self) -> bool:
        """Whether a target that is a whole address, as proxies get it, names the host that `Host` does.

        The target's is the one that counts (RFC 9112, 3.2.2), and `Host` is what the app looks at.
        """
        _, is_absolute, rest = self.url.partition(b"://")
        authority = rest.partition(b"/")[0].partition(b"?")[0].lower()
        return not is_absolute or all(
            value.lower() == authority for name, value in self.headers if name == b"host"
        )

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        """Some of a body."""
        if not self._is_ended:
            self._body_bytes += len(body)
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is there, all of it."""
        self._is_whole = True
        if self._body_bytes:
            self._connections.works(self)
        if not self._is_ended:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is written: take the next request's turn, or wait for one."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_reader()
            return
        if self._is_ended:
            return
        if self._held and len(self.pipeline) < limits.HTTP_PIPELINED_MAX:
            self._flow.let_go()
            self._feed()
        if self.cycle.response_complete and not self.pipeline:
            self._connections.waits(self)

    def pause_writing(self) -> None:
        """The client does not take its answer as fast as it is written."""
        super().pause_writing()
        self._connections.is_not_read(self)
        self._watch_reader()

    def resume_writing(self) -> None:
        """The client took nearly all there was."""
        super().resume_writing()
        self._connections.is_read(self)
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _watch_reader(self) -> None:
        """See to it that the client goes on reading: what is closed ends when all is read, or never."""
        if self._reading is None and self.transport.get_write_buffer_size():
            self._look_at_reader(self.transport.get_write_buffer_size() + limits.HTTP_READ_BYTES_MIN)

    def _look_at_reader(self, before: int) -> None:
        """Close where too little was taken since the last look; look again later."""
        unread = self.transport.get_write_buffer_size()
        if unread > before - limits.HTTP_READ_BYTES_MIN:
            self.transport.abort()
            return
        self._reading = self.loop.call_later(limits.HTTP_DEADLINE_S, self._look_at_reader, unread)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection."""
        self.give_way()

    def give_way(self) -> None:
        """Close; an answer that is not read yet still is, while its client goes on reading."""
        self._is_ended = True
        self.transport.close()
        self._watch_reader()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def _refuse_head(self) -> None:
        self._refuse(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"The head of a request has at most {limits.HTTP_HEAD_BYTES_MAX} bytes.",
        )

    def _late(self) -> None:
        self._deadline = None
        # It is the client who waits; or a body comes in that is larger than any but a file's may be.
        if self.flow.read_paused or self._answers_another() or self._brings_much():
            self._deadline = self.loop.call_later(limits.HTTP_DEADLINE_S, self._late)
        elif self._is_whole or (self._has_head and self.cycle.response_complete):
            self.give_way()  # nothing was ever sent, or the answer was not waited for
        else:
            self._refuse(
                HTTPStatus.REQUEST_TIMEOUT, f"A request is sent within {limits.HTTP_DEADLINE_S:g} seconds."
            )

    def _brings_much(self) -> bool:
        """Whether the body that comes in grew enough since its deadline came last, and somebody takes it."""
        if not self._has_head or self._is_whole or self.cycle.response_complete:
            return False
        grew = self._body_bytes - self._body_seen > limits.HTTP_BODY_BYTES_MAX
        self._body_seen = self._body_bytes
        return grew

    def _answers_another(self) -> bool:
        """Whether a request before the one that comes in is not answered yet."""
        is_next = self._is_whole or not self._has_head
        return bool(self.pipeline) or (
            is_next and self.cycle is not None and not self.cycle.response_complete
        )

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Answer with a problem and end the connection; only end it where an answer is under way."""
        if self._is_ended:
            return
        self._is_ended = True
        log.debug("refused", status=int(status), client=self.address)
        if self._answers_another():
            if self.pipeline:
                self.transport.abort()
            self.cycle.keep_alive = False  # the connection ends with the answer that is under way
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.transport.abort()
        if self.transport.is_closing():
            return
        self.transport.write(_as_bytes(problems.problem(status, detail, headers=_HEADERS)))
        # Closing at once, with bytes unread, would be a reset, which may overtake the answer.
        self.transport.write_eof()
        self.loop.call_later(limits.HTTP_LINGER_S, self.transport.abort)


class _Flow(FlowControl):
    """Uvicorn's, which begins to read again after each answer; held, it does not."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._is_held = False

    def hold(self) -> None:
        self._is_held = True
        self.pause_reading()

    def let_go(self) -> None:
        self._is_held = False
        self.resume_reading()

    def resume_reading(self) -> None:
        if not self._is_held:
            super().resume_reading()


async def _too_many(scope: Any, receive: Any, send: Any) -> None:
    answer = problems.problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "There are too many connections, in all or from this address.",
        headers=_HEADERS | {"Retry-After": str(limits.RETRY_AFTER_S)},
    )
    await answer(scope, receive, send)


def _as_bytes(response: Response) -> bytes:
    """A response as it goes over the connection."""
    status = HTTPStatus(response.status_code)
    lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode()]
    lines += [name + b": " + value for name, value in response.raw_headers]
    return b"\r\n".join([*lines, b"", bytes(response.body)])
