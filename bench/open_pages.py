"""Open pages as a browser keeps them: a stream of ticks each, and what changed asked for again.

It follows `api/pages/static/live.js`: at most every five seconds, with the tag of what is shown. It is a
process of its own, so that it can be told how much of the machine it takes:
`python -m bench.open_pages PORT COUNT PATH...`.
"""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final, Self

import msgspec
import uvloop

from local_stack import ports

_AGAIN_S: Final = 5.0
_LOOK_INTERVAL_S: Final = 0.5
_END_OF_HEAD: Final = b"\r\n\r\n"
_STOP_TIMEOUT_S: Final = 30


class Followed(msgspec.Struct, frozen=True, kw_only=True):
    """What all pages saw: when each had its ticks; the fragments' milliseconds, and answers by status."""

    ticked_at_s: list[list[float]]
    seconds: float
    fragments_ms: list[float]
    statuses: dict[int, int]
    cpu_s: float

    @property
    def ticks_per_second(self) -> list[float]:
        """Of each page, from its first tick to its last."""
        return [(len(at) - 1) / (at[-1] - at[0]) if len(at) > 1 else 0.0 for at in self.ticked_at_s]


class OpenPages:
    """So many pages, from `async with` on."""

    def __init__(self, port: int, count: int, paths: Sequence[str]) -> None:
        """Describe them: the paths in turn."""
        self._arguments = [sys.executable, "-m", __name__, str(port), str(count), *paths]

    async def __aenter__(self) -> Self:
        """Open them all; returns once each has heard its first tick."""
        self._process = await asyncio.create_subprocess_exec(
            *self._arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        await self._process.stdout.readline()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close them."""
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def close(self) -> Followed:
        """Close them; returns what they saw."""
        async with asyncio.timeout(_STOP_TIMEOUT_S):
            output, _ = await self._process.communicate(b"\n")
        return msgspec.json.decode(output, type=Followed)


class _Page:
    """One page, with two connections."""

    def __init__(self, port: int, path: str, pages: "_Pages") -> None:
        self._port = port
        self._path = path
        self._pages = pages
        self._version: str | None = None
        self._wanted = False
        self._tag = ""
        self.opened = asyncio.Event()
        self.ticked_at_s: list[float] = []

    async def stream(self) -> None:
        reader, writer = await asyncio.open_connection(ports.HOST, self._port)
        writer.write(_request("/live", {"accept": "text/event-stream"}))
        await reader.readuntil(_END_OF_HEAD)
        while True:
            line = await reader.readline()
            if not line:
                raise ConnectionError("the server ended a stream")
            if not line.startswith(b"data: "):
                continue
            version = msgspec.json.decode(line[6:])["version"]
            self.ticked_at_s.append(time.perf_counter())
            self._wanted |= version != self._version
            self._version = version
            self.opened.set()

    async def fetch(self) -> None:
        while True:
            if self._wanted:
                self._wanted = False
                tag = {"if-none-match": self._tag} if self._tag else {}
                began_s = time.perf_counter()
                # The server has ended the connection of the one before, which was idle for as long.
                reader, writer = await asyncio.open_connection(ports.HOST, self._port)
                writer.write(_request(self._path, {"hx-request": "true", "accept-encoding": "gzip", **tag}))
                head = (await reader.readuntil(_END_OF_HEAD)).decode("latin-1").lower().split("\r\n")
                fields = dict(line.split(": ", 1) for line in head[1:] if line)
                await reader.readexactly(int(fields.get("content-length", 0)))
                self._pages.fragments_ms.append((time.perf_counter() - began_s) * 1e3)
                self._pages.statuses[int(head[0][9:12])] += 1
                writer.close()
                self._tag = fields.get("etag", "")
                await asyncio.sleep(_AGAIN_S - (time.perf_counter() - began_s))
            await asyncio.sleep(_LOOK_INTERVAL_S)


class _Pages:
    """All pages, until the standard input says something."""

    def __init__(self, port: int, count: int, paths: Sequence[str]) -> None:
        self.fragments_ms: list[float] = []
        self.statuses: Counter[int] = Counter()
        self._pages = [_Page(port, paths[number % len(paths)], self) for number in range(count)]

    async def follow(self) -> Followed:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(work) for page in self._pages for work in (page.stream(), page.fetch())
            ]
            await asyncio.gather(*(page.opened.wait() for page in self._pages))
            sys.stdout.write("open\n")
            sys.stdout.flush()
            for page in self._pages:
                page.ticked_at_s.clear()
            began_s, cpu_before_s = time.perf_counter(), time.process_time()
            await loop.run_in_executor(None, sys.stdin.readline)
            seconds, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_before_s
            for task in tasks:
                task.cancel()
        return Followed(
            ticked_at_s=[page.ticked_at_s for page in self._pages],
            seconds=seconds,
            fragments_ms=self.fragments_ms,
            statuses=dict(self.statuses),
            cpu_s=cpu_s,
        )


def _request(path: str, headers: dict[str, str]) -> bytes:
    lines = {"host": ports.HOST, **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"GET {path} HTTP/1.1\r\n{head}\r\n".encode()


async def _main() -> None:
    port, count, *paths = sys.argv[1:]
    followed = await _Pages(int(port), int(count), paths).follow()
    sys.stdout.buffer.write(msgspec.json.encode(followed))


if __name__ == "__main__":
    uvloop.run(_main())
