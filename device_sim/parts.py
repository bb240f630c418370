"""A fleet in parts, a process each: they tell their tallies over pipes, and the first to fail ends them all.

The processes are forked, so that the scenario need not be told; the parent must not have an event loop yet.
"""

import asyncio
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import uvloop

from device_sim.fleet import Fleet
from device_sim.tally import Tally, total
from pisync.errors import ConfigurationError, PiSyncError

TELLING_INTERVAL_S: Final = 0.2
LINE_BYTES_MAX: Final = 1024 * 1024


class Told(msgspec.Struct):
    """What a part tells, a line each time. `error`: why it cannot go on."""

    tally: Tally
    is_done: bool = False
    error: str | None = None


@dataclass(kw_only=True)
class Part:
    """One process, and what it told last."""

    pid: int
    reader: int
    told: Told = field(default_factory=lambda: Told(Tally()))


class Parts:
    """The processes of a fleet."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts

    @property
    def tally(self) -> Tally:
        """What they come to together."""
        return total([part.told.tally for part in self._parts])

    async def run(self) -> None:
        """Return when all are done.

        Raises:
            ConfigurationError: one of them cannot go on.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for part in self._parts:
                    group.create_task(_listen(part), name=f"part-{part.pid}")
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    def end(self) -> None:
        """End those that still run, and wait for all."""
        for part in self._parts:
            os.kill(part.pid, signal.SIGTERM)
        for part in self._parts:
            os.waitpid(part.pid, 0)


def fork(fleets: Sequence[Callable[[], Fleet]]) -> Parts:
    """Begin a process for each of these fleets."""
    parts: list[Part] = []
    for make in fleets:
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(reader)
            _be_a_part(make, writer)
        os.close(writer)
        parts.append(Part(pid=pid, reader=reader))
    return Parts(parts)


def _be_a_part(make: Callable[[], Fleet], writer: int) -> None:
    """Run a part until it ends, and the process with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    status = 1
    try:
        uvloop.run(_run(make, writer))
        status = 0
    except BrokenPipeError:
        pass  # the parent listens no longer: another part told it why, and it ends all
    except BaseException:  # noqa: BLE001 - what `_exit` would keep to itself
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


async def _run(make: Callable[[], Fleet], writer: int) -> None:
    fleet = make()
    working = asyncio.create_task(fleet.run(), name="fleet")
    while not working.done():
        await asyncio.wait((working,), timeout=TELLING_INTERVAL_S)
        error = working.exception() if working.done() else None
        if error is not None and not isinstance(error, PiSyncError):
            raise error
        told = Told(fleet.tally, is_done=working.done(), error=None if error is None else str(error))
        _write(writer, msgspec.json.encode(told) + b"\n")


def _write(writer: int, line: bytes) -> None:
    while line:
        line = line[os.write(writer, line) :]


async def _listen(part: Part) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    pipe = os.fdopen(part.reader, "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        async for line in reader:
            part.told = msgspec.json.decode(line, type=Told)
    finally:
        transport.close()
    if part.told.error is not None:
        raise ConfigurationError(part.told.error)
    if not part.told.is_done:
        raise ConfigurationError(f"part {part.pid} of the fleet ended; its error is above")
