"""The streams of a replica's open pages: each gets the same small tick, and there are only so many."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pisync import limits


class Tick(msgspec.Struct, frozen=True):
    """What a page is told: another version where something that pages show is another; as of when it is."""

    version: str
    as_of: str


class Streams:
    """All streams, and the tick that each of them was told last."""

    def __init__(self) -> None:
        self._of_browser: Counter[str] = Counter()
        self._open = 0
        self._is_ended = False
        self._tick: Tick | None = None
        self._told_at = 0.0
        # Done where there is something new to tell, or something to do; another one then.
        self._news: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return self._open

    @contextmanager
    def place(self, browser: str) -> Iterator[bool]:
        """A place for a stream of this browser, while it lasts; False: there is none.

        A browser that says no name has no limit of its own.
        """
        is_full = self._open >= limits.LIVE_STREAMS_MAX or (
            bool(browser) and self._of_browser[browser] >= limits.LIVE_STREAMS_OF_BROWSER_MAX
        )
        if is_full or self._is_ended:
            yield False
            return
        self._open += 1
        self._of_browser[browser] += 1
        self._wake()
        try:
            yield True
        finally:
            self._open -= 1
            self._of_browser[browser] -= 1
            if not self._of_browser[browser]:
                del self._of_browser[browser]

    async def run(self, look: Callable[[], Awaitable[Tick]]) -> None:
        """Look once a second while there are streams, and tell all of them what is new, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            if not self._open:
                await self._next()
                continue
            tick = await look()
            is_new = self._tick is None or tick.version != self._tick.version
            if is_new or loop.time() - self._told_at >= limits.LIVE_SIGN_S:
                self._tick, self._told_at = tick, loop.time()
                self._wake()
            await asyncio.sleep(limits.LIVE_INTERVAL_S)

    def end(self) -> None:
        """End all streams, because the server stops."""
        self._is_ended = True
        self._wake()

    async def ticks(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Send each tick from the present one on, until the end."""
        told: Tick | None = None
        while not self._is_ended:
            if self._tick is not None and self._tick is not told:
                told = self._tick
                await send(event("tick", msgspec.json.encode(told)))
            else:
                await self._next()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
        self._news = None

    async def _next(self) -> None:
        if self._news is None:
            self._news = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._news)


class StreamResponse(Response):
    """The answer to who asks for a stream: it lasts until the client or the server ends it."""

    def __init__(self, streams: Streams, browser: str) -> None:
        super().__init__()
        self._streams = streams
        self._browser = browser

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send what there is to be told; where there is no place, that, and nothing more."""
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
        with self._streams.place(self._browser) as has_place:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            if has_place:
                await self._tell(receive, send)
            else:
                await send(_body(event("full", b"{}"), more=True))
        await send(_body(b"", more=False))

    async def _tell(self, receive: Receive, send: Send) -> None:
        async def sent(content: bytes) -> None:
            await send(_body(content, more=True))

        # At once, so that the client knows that it is connected.
        await sent(b": pisync\n\n")
        telling = asyncio.create_task(self._streams.ticks(sent), name="live stream")
        leaving = asyncio.create_task(_left(receive), name="live stream: client")
        try:
            await asyncio.wait({telling, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (telling, leaving):
                task.cancel()
            await asyncio.wait({telling, leaving})


def event(name: str, data: bytes) -> bytes:
    """A message of a stream (HTML, server-sent events)."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


async def _left(receive: Receive) -> None:
    """Return once the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _body(content: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}
