"""The real servers' handles: start, kill -9, restart, pause; data and port stay."""

import asyncio
import sys
from pathlib import Path

import aiomqtt
import psutil
import pytest

from local_stack import ports
from local_stack.process import ChildFailed, ChildProcess, running
from local_stack.servers import MongodbServer, MosquittoServer, RedisServer, Server
from tests.support.waiting import until

PARENT = """
import asyncio, sys
from pathlib import Path
from local_stack.servers import RedisServer

async def main():
    server = RedisServer(Path(sys.argv[1]))
    await server.start()
    print(server.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def redis_says(server: RedisServer, *lines: str) -> list[bytes]:
    """The first line of the answer to each inline command."""
    reader, writer = await asyncio.open_connection(ports.HOST, server.port)
    answers = []
    for line in lines:
        writer.write(f"{line}\r\n".encode())
        answers.append(await reader.readline())
    writer.close()
    await writer.wait_closed()
    return answers


@pytest.mark.parametrize("kind", [MosquittoServer, MongodbServer, RedisServer])
async def test_a_server_comes_back_on_its_port_after_kill_and_after_stop(
    kind: type[Server], tmp_path: Path
) -> None:
    async with running(kind(tmp_path / "data")) as server:
        first_pid, port = server.pid, server.port
        await server.kill()
        assert not server.running
        assert not await server.is_ready()
        await server.start()
        assert server.pid != first_pid
        await server.restart()
        assert (server.port, await server.is_ready()) == (port, True)
    assert not psutil.pid_exists(server.pid)
    assert ports.is_free(port)


async def test_redis_keeps_its_data(tmp_path: Path) -> None:
    async with running(RedisServer(tmp_path)) as server:
        assert await redis_says(server, "SET greeting hello") == [b"+OK\r\n"]
        await server.restart()
        assert await redis_says(server, "STRLEN greeting") == [b":5\r\n"]


async def test_the_broker_keeps_retained_messages_through_a_stop(tmp_path: Path) -> None:
    async with running(MosquittoServer(tmp_path)) as server:
        async with aiomqtt.Client(ports.HOST, server.port) as client:
            await client.publish("pisync/v1/alerts/PB-1/streak", b"open", qos=1, retain=True)
        await server.restart()
        async with aiomqtt.Client(ports.HOST, server.port) as client:
            await client.subscribe("pisync/v1/alerts/+/+", qos=1)
            message = await anext(aiter(client.messages))
            assert message.payload == b"open"


async def test_a_paused_server_answers_nothing_until_it_is_resumed(tmp_path: Path) -> None:
    async with running(RedisServer(tmp_path)) as server:
        server.pause()
        assert server.running
        assert not await server.is_ready()
        server.resume()
        assert await redis_says(server, "PING") == [b"+PONG\r\n"]


async def test_a_paused_server_can_be_stopped(tmp_path: Path) -> None:
    async with running(RedisServer(tmp_path)) as server:
        server.pause()
    assert server.how_it_ended() == "ended with exit code 0"


async def test_a_server_whose_port_is_taken_says_so(tmp_path: Path) -> None:
    async with running(RedisServer(tmp_path / "one")) as one:
        second = MosquittoServer(tmp_path / "two", port=one.port)
        with pytest.raises(ChildFailed, match=f"something else listens on port {one.port}"):
            await second.start()


async def test_a_server_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    server = MosquittoServer(tmp_path)
    with (tmp_path / "mosquitto.conf").open("a") as configuration:
        configuration.write("no_such_option 1\n")
    with pytest.raises(ChildFailed, match=r"(?s)ended with exit code 3.*no_such_option"):
        await server.start()


async def test_children_outlive_no_parent(tmp_path: Path) -> None:
    """A parent that is killed with SIGKILL takes its children along."""
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, str(tmp_path)), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    child = psutil.Process(int(await parent.stdout.readline()))
    parent.kill()
    await parent.wait()
    await asyncio.to_thread(child.wait, 10)
    assert not child.is_running()


async def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    child = ChildProcess(
        "stubborn",
        ["/bin/sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"],
        log=tmp_path / "stubborn.log",
        stop_timeout_s=0.2,
    )
    await child.start()
    await until(lambda: "deaf" in child.log_tail())
    await child.terminate()
    assert child.how_it_ended() == "was ended by SIGKILL"
