"""Where a replay reads from: files, and standard input, which a thread reads because that may wait."""

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Final

from device_sim.replay.items import Item
from device_sim.replay.lines import Source
from pisync import limits
from pisync.errors import ConfigurationError

_ITEMS_AT_ONCE: Final = 500
_CHUNKS_WAITING_MAX: Final = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """A file, or standard input where it has no path."""

    name: str
    path: Path | None

    @property
    def size_bytes(self) -> int | None:
        """Its size; None: not known."""
        if self.path is None or not self.path.is_file():
            return None
        return self.path.stat().st_size

    @property
    def may_wait(self) -> bool:
        """Whether a read may wait for somebody who writes."""
        return self.size_bytes is None

    def mark(self) -> str:
        """What tells the content from another one's: a digest of the first line; nothing of a pipe."""
        if self.path is None or self.may_wait:
            return ""
        with self.path.open("rb") as source:
            return sha256(source.readline(limits.REPLAY_TEXT_CHARS_MAX)).hexdigest()[:16]

    def open(self, position: int) -> AbstractContextManager[Source]:
        """Open it behind so many bytes; of a pipe they are read and passed over.

        Raises:
            ConfigurationError: it cannot be opened.
        """
        if self.path is None:
            source = _StandardInput()
            _pass_over(source, position)
            return nullcontext(source)
        try:
            opened = self.path.open("rb")
            if opened.seekable():
                opened.seek(position)
            else:
                _pass_over(opened, position)
        except OSError as error:
            raise ConfigurationError(f"{self.name}: {error.strerror}") from None
        return opened


class _StandardInput:
    """Standard input without a buffer, whose lock a thread that waits would hold at the program's end."""

    def read1(self, size: int, /) -> bytes:
        """Some bytes, none at the end."""
        return os.read(sys.stdin.fileno(), size)


def _pass_over(source: Source, size_bytes: int) -> None:
    while size_bytes > 0:
        piece = source.read1(min(size_bytes, limits.REPLAY_PIECE_BYTES))
        if not piece:
            return
        size_bytes -= len(piece)


async def chunks(
    items: Callable[[Callable[[], None]], Iterator[Item]], *, may_wait: bool
) -> AsyncIterator[list[Item]]:
    """The items, many at once; an empty list where a pipe has no more for now.

    Args:
        items: makes the iterator, from what is to be called before each read.
        may_wait: whether a read may wait.
    """
    if may_wait:
        pump = _Pump(asyncio.get_running_loop())
        # A daemon: nothing can end a read that waits.
        threading.Thread(target=pump.run, args=(items,), name="replay-input", daemon=True).start()
        async for chunk in pump.chunks():
            yield chunk
        return
    iterator = items(lambda: None)
    while chunk := list(islice(iterator, _ITEMS_AT_ONCE)):
        yield chunk
        await asyncio.sleep(0)


class _Pump:
    """Reads items in a thread, some chunks ahead of who awaits them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: asyncio.Queue[list[Item] | BaseException | None] = asyncio.Queue()
        self._room = threading.Semaphore(_CHUNKS_WAITING_MAX)
        self._chunk: list[Item] = []

    def run(self, items: Callable[[Callable[[], None]], Iterator[Item]]) -> None:
        """In the thread: read to the end."""
        end: BaseException | None = None
        try:
            for item in items(self._flush):
                self._chunk.append(item)
                if len(self._chunk) >= _ITEMS_AT_ONCE:
                    self._flush()
        except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
            end = error
        self._flush()
        self._put(end)

    async def chunks(self) -> AsyncIterator[list[Item]]:
        """In the loop: what was read; an empty list where there is no more for now."""
        while (found := await self._queue.get()) is not None:
            self._room.release()
            if isinstance(found, BaseException):
                raise found
            yield found
            if self._queue.empty():
                yield []

    def _flush(self) -> None:
        if self._chunk:
            self._put(self._chunk)
            self._chunk = []

    def _put(self, what: list[Item] | BaseException | None) -> None:
        self._room.acquire()
        with suppress(RuntimeError):  # the loop is gone
            self._loop.call_soon_threadsafe(self._queue.put_nowait, what)
