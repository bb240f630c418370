"""The HAProxy of the tests: what a reload and a kill do to connections."""

import asyncio
from pathlib import Path

import pytest

from local_stack import ports
from local_stack.process import ChildFailed, running
from tests.support.haproxy import HaproxyServer


def configuration(listens_on: int, server_port: int) -> str:
    return f"""
defaults
    mode tcp
    timeout connect 2s
    timeout client 1h
    timeout server 1h
listen echo
    bind {ports.HOST}:{listens_on}
    server only {ports.HOST}:{server_port}
"""


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
    writer.close()


async def test_a_reload_keeps_connections_and_a_kill_ends_them(tmp_path: Path) -> None:
    haproxy = HaproxyServer(tmp_path)
    async with await asyncio.start_server(echo, ports.HOST) as server:
        haproxy.configure(configuration(haproxy.port, server.sockets[0].getsockname()[1]))
        async with running(haproxy):
            reader, writer = await asyncio.open_connection(ports.HOST, haproxy.port)

            async def echoed(text: bytes) -> bool:
                writer.write(text + b"\n")
                return await reader.readline() == text + b"\n"

            assert await echoed(b"before")
            [first] = await haproxy.workers()
            await haproxy.reload()
            assert await echoed(b"after a reload")
            [second] = await haproxy.workers(newest=True)
            assert first != second
            assert first in await haproxy.workers()
            assert "echo" in await haproxy.ask("show servers state")
            with pytest.raises(ChildFailed, match="unknown keyword"):
                haproxy.configure("defaults\n    no such keyword\n")
            await haproxy.kill()
            assert await reader.read() == b""
            await haproxy.start()
            writer.close()
        assert not haproxy.running
