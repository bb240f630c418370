"""`pisync devices password`: a device without a certificate at a broker with access control."""

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiomqtt
import pytest
import pytest_asyncio

from cli import device_passwords
from cli.credentials import Asked
from local_stack import ports
from local_stack.process import running
from pisync.broker_access import Program
from pisync.clock import now
from pisync.domain import topics
from pisync.domain.credentials import Kind, Standing
from pisync.errors import ConfigurationError, PiSyncError
from pisync.mqtt.address import MqttAddress
from pisync.mqtt.tls import tls_context
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.credentials import MongoCredentialStore
from tests.support.access_broker import AccessBroker

DEVICE = "PB-1"


@dataclass(frozen=True, kw_only=True)
class Site:
    """A broker that knows no device, and MongoDB."""

    broker: AccessBroker
    store: MongoCredentialStore

    def device(self, password: str) -> aiomqtt.Client:
        """The device, as it connects with a password."""
        url = f"mqtts://{ports.HOST}:{self.broker.passwords_port}"
        return aiomqtt.Client(
            ports.HOST,
            self.broker.passwords_port,
            identifier=DEVICE,
            username=DEVICE,
            password=password,
            tls_context=tls_context(MqttAddress(url), self.broker.credentials.ca_file),
            protocol=aiomqtt.ProtocolVersion.V5,
        )


@pytest_asyncio.fixture
async def site(tmp_path: Path, mongodb_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    async with running(AccessBroker(tmp_path / "broker")) as broker:
        warden = broker.settings(Program.WARDEN)
        for name, value in {
            **warden,
            "broker_admin_url": warden["mqtt_url"],
            "mongodb_url": mongodb_url,
        }.items():
            monkeypatch.setenv(f"PISYNC_{name.upper()}", value)
        connection = MongoConnection(mongodb_url)
        yield Site(broker=broker, store=MongoCredentialStore(connection))
        await connection.close()


async def given() -> str:
    """The password that the command shows, and nothing else on its standard output."""
    command = [sys.executable, "-m", "cli", "devices", "password", DEVICE, "--days", "30"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    out, err = (each.decode() for each in await process.communicate())
    assert process.returncode == 0, err
    [password] = out.split()
    assert password not in err
    return password


async def test_it_lets_the_device_in_until_there_is_another(site: Site) -> None:
    first = await given()
    async with site.device(first) as device:
        await device.subscribe(topics.receipts(DEVICE), qos=1)
        await device.publish(topics.sync(DEVICE), b"{}", qos=1)
    second = await given()
    with pytest.raises(aiomqtt.MqttError):
        async with site.device(first):
            pass
    async with site.device(second):
        pass
    entry = (await site.store.get([DEVICE]))[DEVICE].entry
    assert [(each.kind, each.secret) for each in entry.credentials] == [(Kind.PASSWORD, None)] * 2
    assert [each.revoked_at is None for each in entry.credentials] == [False, True]


async def test_where_the_broker_is_away_the_device_is_not_known_by_one(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.broker.terminate()
    monkeypatch.setattr("pisync.limits.CONNECT_TIMEOUT_S", 0.2)
    with pytest.raises(PiSyncError):
        await device_passwords.give(Asked(ids=[DEVICE], by="ann"), 30)
    assert await site.store.get([DEVICE]) == {}


async def test_a_password_that_the_broker_did_not_take_is_revoked(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = await given()
    monkeypatch.setattr("cli.device_passwords.new_password", lambda: "")  # which no broker takes
    with pytest.raises(PiSyncError, match="did not take"):
        await device_passwords.give(Asked(ids=[DEVICE], by="ann"), 30)
    entry = (await site.store.get([DEVICE]))[DEVICE].entry
    assert entry.standing(now()) is Standing.ACTIVE
    assert [each.revoked_at is None for each in entry.credentials] == [True, False]
    async with site.device(former):
        pass


async def test_without_an_account_for_it_nothing_is_done(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PISYNC_BROKER_ADMIN_URL")
    with pytest.raises(ConfigurationError, match="PISYNC_BROKER_ADMIN_URL"):
        await device_passwords.give(Asked(ids=[DEVICE], by="ann"), 30)
