"""deploy/haproxy/ and deploy/proxy/ agree with themselves and with limits, and HAProxy does what they say."""

import asyncio
import re
import subprocess
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest

from cli.api_client import IMPORT_TIMEOUT_S
from local_stack import ports
from local_stack.process import running
from tests.support.brokers import DEPLOYED, broker_of, configuration
from tests.support.certificates import made
from tests.support.haproxy import HAPROXY, HaproxyServer

TEXT = DEPLOYED.read_text()
LIMITS = (DEPLOYED.parents[2] / "mosquitto/limits.conf").read_text()


def test_there_are_as_many_brokers_as_the_hash_has_values() -> None:
    [count] = re.findall(r"\bmod\((\d+)\)", TEXT)
    assert re.findall(r"^backend broker-(\d+) ", TEXT, re.MULTILINE) == [str(n) for n in range(int(count))]
    assert re.findall(r"^    server broker-(\d+) ", TEXT, re.MULTILINE) == [str(n) for n in range(int(count))]


def test_a_silent_device_is_ended_by_the_broker_and_not_by_haproxy() -> None:
    [hours] = re.findall(r"^    timeout tunnel (\d+)h$", TEXT, re.MULTILINE)
    [keepalive_s] = re.findall(r"^max_keepalive (\d+)$", LIMITS, re.MULTILINE)
    assert int(hours) * 3600 > 1.5 * int(keepalive_s)


def test_haproxy_takes_it(tmp_path: Path) -> None:
    certificate = made(tmp_path)
    text = re.sub(r"/etc/haproxy/[\w-]+\.pem", str(certificate), TEXT)
    path = tmp_path / "haproxy.cfg"
    path.write_text(text)
    ended = subprocess.run([HAPROXY.require(), "-c", "-f", path], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "WARNING" not in ended.stderr


DEVICE: Final = "PB-000001"


def connect(client_id: str, version: int = 4) -> bytes:
    """A CONNECT of MQTT 3.1.1 (4) or 5 with a last will, user name and password."""

    def text(value: str) -> bytes:
        return len(value.encode()).to_bytes(2) + value.encode()

    properties = b"\x05\x11\0\0\x0e\x10" if version == 5 else b""
    will = b"\0" if version == 5 else b""
    body = text("MQTT") + bytes([version, 0b1100_0110]) + b"\0\x3c" + properties
    body += text(client_id) + will + text("status") + text("offline") + text("user") + text("password")
    return bytes([0x10, len(body)]) + body


async def test_a_device_comes_to_its_broker_however_its_connect_arrives(tmp_path: Path) -> None:
    haproxy = HaproxyServer(tmp_path)
    brokers = []

    async def comes_to(parts: Iterable[bytes]) -> str:
        """The number of the broker, nothing where HAProxy ends the connection."""
        reader, writer = await asyncio.open_connection(ports.HOST, haproxy.port)
        try:
            for part in parts:
                writer.write(part)
                await asyncio.sleep(0.01)  # a packet of its own
            return (await reader.read()).decode()
        except ConnectionError:
            return ""
        finally:
            writer.close()

    async with AsyncExitStack() as stack:
        for number in range(2):

            async def serve(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int = number
            ) -> None:
                await reader.read(1)
                writer.write(str(number).encode())
                writer.close()

            brokers.append(await stack.enter_async_context(await asyncio.start_server(serve, ports.HOST)))
        at = [server.sockets[0].getsockname()[1] for server in brokers]
        haproxy.configure(configuration(f"{ports.HOST}:{haproxy.port}", at, options=""))
        await stack.enter_async_context(running(haproxy))
        for device_id in (DEVICE, "PX-7", "é"):
            wanted = str(broker_of(device_id, 2))
            for version in (4, 5):
                packet = connect(device_id, version)
                cuts = (1, 2, 9, 12, 13, 14, len(packet) - 1)
                whole = [[packet], [packet[i : i + 1] for i in range(len(packet))]]
                came = await asyncio.gather(
                    *(comes_to(parts) for parts in whole),
                    *(comes_to([packet[:cut], packet[cut:]]) for cut in cuts),
                )
                assert set(came) == {wanted}
        # Without an id; a Mosquitto that says by MQTT 3.1.1 that it is a bridge; no MQTT; no CONNECT.
        for refused in (connect(""), connect(DEVICE, 0x84), b"GET / HTTP/1.1\r\n\r\n", b"\xc0\0"):
            assert await comes_to([refused]) == ""


PROXIES: Final = DEPLOYED.parents[1] / "proxy"


@pytest.mark.parametrize("name", ["haproxy.cfg", "replicas.cfg"])
async def test_an_import_is_waited_for_and_another_answer_is_not(tmp_path: Path, name: str) -> None:
    haproxy = HaproxyServer(tmp_path)
    given_up = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]
        if not target.endswith((b"/readyz", b"/livez")):
            await given_up.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async def status(path: str) -> int:
        line = await ports.first_line(
            haproxy.port, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), timeout_s=30
        )
        return int(line.split()[1]) if line else 0

    async with await asyncio.start_server(answer, ports.HOST) as server:
        port = server.sockets[0].getsockname()[1]
        text = (PROXIES / name).read_text()
        assert f" server {IMPORT_TIMEOUT_S / 3600:.0f}h if" in text
        changed: list[tuple[str, str]] = [
            (r"bind :8443 .*", f"bind {ports.HOST}:{haproxy.port}"),
            (r"timeout (server|client) +75s", r"timeout \1 200ms"),
            (r"(server api\S*) \S+:8080.*", rf"\1 {ports.HOST}:{port}"),
            (r" retries 2", " retries 0"),
            (r"daemon|log stdout .*", ""),
        ]
        for pattern, by in changed:
            text = re.sub(pattern, by, text)
        haproxy.configure(text)
        async with running(haproxy):
            importing = asyncio.create_task(status("/pisync/api/directory/import"))
            assert await status("/api/devices") == 504
            assert not importing.done()
            given_up.set()
            assert await importing == 200
