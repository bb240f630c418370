"""A relay between a bridge and its broker that lets so many bytes a second through to the bridge."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from local_stack import ports

_BURST_S: Final = 0.25
_CHUNK: Final = 64 * 1024


@asynccontextmanager
async def throttled(port: int, bytes_per_s: float) -> AsyncIterator[int]:
    """Relay connections to this port of this machine; gives the port of the relay.

    What comes from the broker is let through in bursts, four a second, so that a bridge's batches hold
    several messages; what goes to it passes untouched.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            from_broker, to_broker = await asyncio.open_connection(ports.HOST, port, limit=_CHUNK)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_pass(reader, to_broker))
                    group.create_task(_pass_slowly(from_broker, writer, bytes_per_s))
            finally:
                to_broker.close()
        except* OSError:
            pass  # one of the two went away
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(relay, ports.HOST, 0, limit=_CHUNK)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()


async def _pass_slowly(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bytes_per_s: float
) -> None:
    """Let a burst through four times a second; late ones, too, while there is something to let through."""
    loop = asyncio.get_running_loop()
    burst = bytes_per_s * _BURST_S
    due_s, credit = loop.time(), burst
    while True:
        asked_s = loop.time()
        data = await reader.read(min(_CHUNK, max(1, int(credit))))
        if not data:
            return
        if loop.time() - asked_s > _BURST_S:  # there was nothing to let through: that time is gone
            due_s, credit = loop.time(), burst
        writer.write(data)
        await writer.drain()
        credit -= len(data)
        while credit < 1:
            due_s += _BURST_S
            await asyncio.sleep(due_s - loop.time())
            credit += burst
