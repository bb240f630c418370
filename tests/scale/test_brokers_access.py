"""Access control at two brokers behind HAProxy: passwords through it, and the list at each broker."""

import asyncio
import shutil
import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import aiomqtt
import pytest
import pytest_asyncio

from local_stack import ports
from local_stack.broker_credentials import BrokerCredentials
from local_stack.process import running
from local_stack.secure_broker import STATE, SecureMosquittoServer
from local_stack.servers import MongodbServer
from pisync import limits, settings
from pisync.broker_access import Program
from pisync.domain import topics
from pisync.settings import WorkerSettings
from tests.support.brokers import broker_of, configuration
from tests.support.credentials import MemoryCredentials
from tests.support.haproxy import HaproxyServer
from tests.support.waiting import until
from worker.broker_access import AccessDuty
from worker.metrics import Metrics


class Secure:
    """Two brokers that know one authority and one set of programs' accounts."""

    def __init__(self, directory: Path) -> None:
        self.credentials = BrokerCredentials(directory / "credentials")
        self.brokers = [
            SecureMosquittoServer(directory / f"broker-{number}", self.credentials) for number in range(2)
        ]
        self.context = ssl.create_default_context(cafile=self.credentials.ca_file)

    def settings(self, program: Program) -> dict[str, str]:
        """A program's settings, at both brokers."""
        first, second = (broker.programs_port for broker in self.brokers)
        given = self.credentials.settings(program, first)
        admins = self.credentials.url(Program.WARDEN, first)
        also = f",{ports.HOST}:{second}"
        return {**given, "mqtt_url": f"{given['mqtt_url']}{also}", "broker_admin_url": f"{admins}{also}"}

    def client(self, port: int, device_id: str, password: str) -> aiomqtt.Client:
        """A device that has a password."""
        return aiomqtt.Client(
            ports.HOST,
            port,
            identifier=device_id,
            username=device_id,
            password=password,
            tls_context=self.context,
            protocol=aiomqtt.ProtocolVersion.V5,
        )

    async def lets_in(self, broker: SecureMosquittoServer, device_id: str) -> bool:
        """Whether a device with a certificate may subscribe to what is its own."""
        context = ssl.create_default_context(cafile=self.credentials.ca_file)
        context.load_cert_chain(*self.credentials.device(device_id))
        with suppress(aiomqtt.MqttError):
            async with aiomqtt.Client(
                ports.HOST, broker.port, protocol=aiomqtt.ProtocolVersion.V5, tls_context=context
            ) as client:
                [code, *_] = await client.subscribe(topics.receipts(device_id), qos=1)
                return not getattr(code, "is_failure", False)
        return False

    async def let_in(self, device_id: str, expected: Sequence[bool]) -> bool:
        """Whether the brokers let this device in as expected."""
        return [await self.lets_in(broker, device_id) for broker in self.brokers] == list(expected)


@pytest_asyncio.fixture
async def secure(tmp_path: Path) -> AsyncIterator[Secure]:
    one = Secure(tmp_path)
    async with running(one.brokers[0]), running(one.brokers[1]):
        yield one


async def test_a_password_lets_a_device_in_through_haproxy_at_whichever_broker(
    secure: Secure, tmp_path: Path
) -> None:
    haproxy = HaproxyServer(tmp_path / "haproxy")
    shown = tmp_path / "mqtt.pem"
    shown.write_text(secure.credentials.certificate.read_text() + secure.credentials.key.read_text())
    haproxy.configure(
        configuration(
            f"{ports.HOST}:{haproxy.port} ssl crt {shown}",
            [broker.passwords_port for broker in secure.brokers],
            options=f"check inter 1s ssl verify required ca-file {secure.credentials.ca_file}"
            " verifyhost localhost",
        )
    )
    devices = [next(f"PB-{n}" for n in range(99) if broker_of(f"PB-{n}", 2) == number) for number in range(2)]
    async with running(MongodbServer(tmp_path / "mongodb")) as mongodb, running(haproxy):
        given = settings.child_environment({**secure.settings(Program.WORKER), "mongodb_url": mongodb.url})
        for device_id in devices:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "cli", "devices", "password", device_id),
                env=given,
                stdout=asyncio.subprocess.PIPE,
            )
            out, _ = await process.communicate()
            password = out.decode().strip()
            async with secure.client(haproxy.port, device_id, password) as device:
                [code, *_] = await device.subscribe(topics.receipts(device_id), qos=1)
                assert not getattr(code, "is_failure", False)
            for broker in secure.brokers:  # it may be sent to the other one, once their number changes
                async with secure.client(broker.passwords_port, device_id, password):
                    pass
            with pytest.raises(aiomqtt.MqttError):
                async with secure.client(haproxy.port, device_id, "wrong"):
                    pass
    # A new broker has the passwords only with a copy of an old one's list.
    one, other = (
        SecureMosquittoServer(tmp_path / name, secure.credentials) for name in ("with-copy", "without")
    )
    one.directory.mkdir(exist_ok=True)
    shutil.copyfile(secure.brokers[0].directory / STATE, one.directory / STATE)
    async with running(one), running(other):
        async with secure.client(one.passwords_port, devices[-1], password):
            pass
        with pytest.raises(aiomqtt.MqttError):
            async with secure.client(other.passwords_port, devices[-1], password):
                pass


async def test_each_broker_has_the_list_whichever_is_away(
    secure: Secure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BROKER_ACCESS_INTERVAL_S", 0.05)
    monkeypatch.setattr(limits, "BACKOFF_CAP_S", 0.5)
    known = MemoryCredentials()
    known.issue("PB-1")
    loaded = WorkerSettings(**secure.settings(Program.WORKER))  # type: ignore[arg-type]
    duty = AccessDuty(loaded, known, holder="w", metrics=Metrics())
    working = asyncio.create_task(duty.work(1))
    try:
        await until(partial(secure.let_in, "PB-1", [True, True]))
        await secure.brokers[1].kill()
        known.issue("PB-2")
        await until(partial(secure.let_in, "PB-2", [True, False]))
        await secure.brokers[1].start()
        await until(partial(secure.let_in, "PB-2", [True, True]))
        known.revoke("PB-1")
        await until(partial(secure.let_in, "PB-1", [False, False]))
        assert await secure.let_in("PB-2", [True, True])
    finally:
        working.cancel()
        await asyncio.wait({working})
