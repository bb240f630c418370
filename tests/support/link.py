"""A link to a server that a test can cut, delay and hold up, for one program alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from pisync.tasks import cancel

PART_BYTES = 65_536
PARTS_MAX = 64


class Way:
    """One direction of a link. Bytes keep their order, and what is held up arrives in the end."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.waiting = 0  # connections whose bytes are held up
        self._passable = asyncio.Event()
        self._passable.set()

    @property
    def is_impaired(self) -> bool:
        """Whether bytes are held up or delayed."""
        return self.delay_s > 0 or not self._passable.is_set()

    def hold(self) -> None:
        """Let no bytes arrive any more."""
        self._passable.clear()

    def mend(self) -> None:
        """Let bytes arrive again, and without a delay."""
        self.delay_s = 0.0
        self._passable.set()

    async def copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what comes, and then that nothing more will come."""
        now_s = asyncio.get_running_loop().time
        parts: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(PARTS_MAX)

        async def take() -> None:
            part = b"-"
            while part:
                try:
                    part = await reader.read(PART_BYTES)
                except OSError:
                    part = b""
                await parts.put((now_s() + self.delay_s, part))

        taking = asyncio.create_task(take())
        try:
            with suppress(OSError, RuntimeError):  # the other end is gone, or its transport is closed already
                while True:
                    due_s, part = await parts.get()
                    if due_s > now_s():
                        await asyncio.sleep(due_s - now_s())
                    self.waiting += 1
                    try:
                        await self._passable.wait()
                    finally:
                        self.waiting -= 1
                    if not part:
                        writer.write_eof()
                        return
                    writer.write(part)
                    await writer.drain()
        finally:
            await cancel([taking])


class Link:
    """Passes bytes on between whoever connects to `port` and a server, while it is not cut.

    `there` is the way to the server, `back` the way from it. Where one end closes, the other hears of it
    behind the bytes that are still under way, as with TCP: a command may reach a server whose client gave it
    up.
    """

    def __init__(self, server_port: int) -> None:
        self.port = 0
        self.there, self.back = Way(), Way()
        self._server_port = server_port
        self._is_cut = False
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def is_impaired(self) -> bool:
        """Whether anything is done to connections or bytes."""
        return self._is_cut or self.there.is_impaired or self.back.is_impaired

    async def cut(self) -> None:
        """End every connection, and refuse new ones."""
        self._is_cut = True
        await cancel([*self._connections])

    def mend(self) -> None:
        """Let connections through again, both ways and without a delay."""
        self._is_cut = False
        self.there.mend()
        self.back.mend()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        if self._is_cut:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._pass_on(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        # One that is cut before it began runs no code of its own.
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.transport.abort()
            return
        except asyncio.CancelledError:  # cut in that moment
            writer.transport.abort()
            raise
        ways = [
            asyncio.create_task(self.there.copy(reader, server_writer)),
            asyncio.create_task(self.back.copy(server_reader, writer)),
        ]
        try:
            await asyncio.wait(ways)
        finally:
            await cancel(ways)
            for each in (writer, server_writer):
                each.transport.abort()


@asynccontextmanager
async def link_to(server_port: int, *, port: int = 0) -> AsyncIterator[Link]:
    """A link to a server on this machine, while the context lasts; `port` 0: any."""
    link = Link(server_port)
    server = await asyncio.start_server(link.connected, "127.0.0.1", port)
    link.port = server.sockets[0].getsockname()[1]
    try:
        yield link
    finally:
        server.close()
        await link.cut()
