"""A link does to the bytes what it is told to, and loses or reorders none of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.chaos.links import Change, Order, obey
from tests.support.link import Link, link_to
from tests.support.waiting import until

DELAY_S = 0.2


class Server:
    """Keeps what comes, and sends it back in capitals."""

    def __init__(self) -> None:
        self.received = b""
        self.port = 0
        self.ended = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while part := await reader.read(1000):
            self.received += part
            writer.write(part.upper())
        self.ended += 1
        writer.close()


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Server, Link]]:
    server = Server()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        async with link_to(server.port) as link:
            yield server, link
    finally:
        listening.close()


@asynccontextmanager
async def connected(link: Link) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_bytes_are_delayed_and_stay_in_order() -> None:
    async with serving() as (_, link), connected(link) as (reader, writer):
        await obey(link, Order(link="", change=Change.DELAY, delay_s=DELAY_S))
        now_s = asyncio.get_running_loop().time
        began_s = now_s()
        for number in range(10):
            writer.write(b"a%d" % number)
            await asyncio.sleep(0)
        assert await reader.readexactly(20) == b"A0A1A2A3A4A5A6A7A8A9"
        assert now_s() - began_s >= 2 * DELAY_S
        await obey(link, Order(link="", change=Change.MEND))
        writer.write(b"b")
        assert await reader.readexactly(1) == b"B"


async def test_one_direction_stops() -> None:
    async with serving() as (server, link), connected(link) as (reader, writer):
        await obey(link, Order(link="", change=Change.HOLD_BACK))
        writer.write(b"a")
        await until(lambda: server.received == b"a")
        answer = asyncio.create_task(reader.readexactly(2))
        await obey(link, Order(link="", change=Change.HOLD))
        writer.write(b"b")
        await until(lambda: link.there.waiting == 1 and link.back.waiting == 1)
        assert server.received == b"a"
        assert not answer.done()
        await obey(link, Order(link="", change=Change.MEND))
        assert await answer == b"AB"


async def test_what_was_sent_arrives_also_when_its_sender_is_gone() -> None:
    async with serving() as (server, link):
        async with connected(link) as (_, writer):
            await obey(link, Order(link="", change=Change.HOLD))
            writer.write(b"late")
        await until(lambda: link.there.waiting == 1)
        assert server.received == b""
        link.mend()
        await until(lambda: (server.received, server.ended) == (b"late", 1))


async def test_a_cut_resets_connections_and_refuses_new_ones() -> None:
    async with serving() as (_, link):
        async with connected(link) as (reader, writer):
            writer.write(b"a")
            assert await reader.readexactly(1) == b"A"
            await obey(link, Order(link="", change=Change.CUT))
            assert await ended(reader)
        async with connected(link) as (reader, _):
            assert await ended(reader)
        link.mend()
        async with connected(link) as (reader, writer):
            writer.write(b"b")
            assert await reader.readexactly(1) == b"B"


async def ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("change", list(Change))
async def test_every_change_is_obeyed(change: Change) -> None:
    link = Link(1)
    await obey(link, Order(link="", change=change, delay_s=DELAY_S))
    assert link.is_impaired == (change is not Change.MEND)
    await obey(link, Order(link="", change=Change.MEND))
    assert not link.is_impaired
