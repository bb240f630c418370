"""The duty of access against a real Mosquitto, whose devices connect with certificates."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import aiomqtt
import httpx
import pytest
import pytest_asyncio

from local_stack import ports
from local_stack.process import running
from pisync import clock, limits
from pisync.broker_access import Program
from pisync.domain import topics
from pisync.domain.credentials import Credential, Source
from pisync.mqtt.dynamic_security import DynamicSecurity
from pisync.settings import WorkerSettings
from pisync.stores.credential_changes import give, revoke
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.credentials import MongoCredentialStore
from pisync.tasks import supervise
from tests.support.access_broker import AccessBroker
from tests.support.credentials import MemoryCredentials
from tests.support.programs import program
from tests.support.waiting import ANSWER_S, until
from worker.broker_access import BrokerAccess


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BROKER_ACCESS_INTERVAL_S", 0.05)
    monkeypatch.setattr(limits, "BACKOFF_CAP_S", 0.5)


@pytest_asyncio.fixture
async def broker(tmp_path: Path) -> AsyncIterator[AccessBroker]:
    async with running(AccessBroker(tmp_path / "mosquitto")) as one:
        yield one


@asynccontextmanager
async def at_work(
    broker: AccessBroker, credentials: MemoryCredentials, account: Program = Program.WARDEN, name: str = "@w"
) -> AsyncIterator[BrokerAccess]:
    settings = WorkerSettings(**broker.settings(account))  # type: ignore[arg-type]
    listed = DynamicSecurity(address=settings.mqtt, ca_file=settings.mqtt_ca_file, client_id=name)
    duty = BrokerAccess(credentials, listed)
    async with supervise({"duty": duty.run(), "link": listed.run()}):
        yield duty


@asynccontextmanager
async def device(broker: AccessBroker, device_id: str) -> AsyncIterator[aiomqtt.Client]:
    """Connected with its certificate, subscribed to its receipts."""
    context = ssl.create_default_context(cafile=broker.credentials.ca_file)
    context.load_cert_chain(*broker.credentials.device(device_id))
    async with aiomqtt.Client(
        ports.HOST, broker.port, protocol=aiomqtt.ProtocolVersion.V5, tls_context=context
    ) as client:
        yield client


async def gets_through(broker: AccessBroker, device_id: str) -> bool:
    """Whether the device may subscribe to what is its own; a refusal is an answer to it."""
    async with device(broker, device_id) as client:
        try:
            [code, *_] = await client.subscribe(topics.receipts(device_id), qos=1, timeout=5)
        except aiomqtt.MqttError:
            return False  # revoked in this moment, which ends its session
        return not getattr(code, "is_failure", False)


async def test_a_device_is_let_in_and_its_session_ends_when_its_credentials_are_revoked(
    broker: AccessBroker,
) -> None:
    credentials = MemoryCredentials()
    credentials.issue("PB-2")
    async with at_work(broker, credentials):
        assert not await gets_through(broker, "PB-1")
        credentials.issue("PB-1")
        await until(lambda: gets_through(broker, "PB-1"))
        async with device(broker, "PB-1") as client, device(broker, "PB-2") as other:
            await client.subscribe(topics.receipts("PB-1"), qos=1)
            await other.subscribe(topics.receipts("PB-2"), qos=1)
            credentials.revoke("PB-1")
            with suppress(aiomqtt.MqttError):
                async with asyncio.timeout(20):
                    async for _ in client.messages:
                        pass
            await other.publish(topics.status("PB-2"), b"online", qos=1)
        assert not await gets_through(broker, "PB-1")


async def test_a_broker_that_lost_its_list_while_it_was_away_has_it_again(broker: AccessBroker) -> None:
    credentials = MemoryCredentials()
    credentials.issue("PB-1", "PB-2")
    async with at_work(broker, credentials) as duty:
        await until(lambda: duty.was_equal)
        await broker.kill()
        broker.lose_list()
        credentials.revoke("PB-2")
        credentials.issue("PB-3")
        await broker.start()
        await until(lambda: gets_through(broker, "PB-3"))
        assert await gets_through(broker, "PB-1")
        assert not await gets_through(broker, "PB-2")


async def test_an_account_without_the_right_says_so_and_changes_nothing(broker: AccessBroker) -> None:
    credentials = MemoryCredentials()
    credentials.issue("PB-1")
    async with at_work(broker, credentials, Program.WORKER) as duty:
        await until(lambda: duty.refusal is not None)
        assert "NOT_AUTHORIZED" in str(duty.refusal)
        assert not duty.was_equal
    assert not await gets_through(broker, "PB-1")


async def test_devices_are_let_in_by_two_workers_at_once_while_the_broker_serves_others(
    broker: AccessBroker,
) -> None:
    """Two have the duty for a moment where one stood still: what one did is no fault of the other's."""
    credentials = MemoryCredentials()
    credentials.issue(*(f"PX-{number}" for number in range(60)), "PB-1")
    served = 0
    async with (
        at_work(broker, credentials) as first,
        device(broker, "PB-1") as client,
        at_work(broker, credentials, name="@other") as second,
    ):
        while not first.was_equal or not second.was_equal:
            await client.publish(topics.sync("PB-1"), b"{}", qos=1, timeout=5)
            served += 1
        assert (first.failed, second.failed) == (0, 0)
        assert first.devices == second.devices == 61
    assert served > 5
    assert await gets_through(broker, "PB-1")


async def test_a_worker_takes_what_is_issued_and_revoked_in_mongodb_to_the_broker(
    broker: AccessBroker, mongodb_url: str, redis_url: str, tmp_path: Path
) -> None:
    connection = MongoConnection(mongodb_url)
    store = MongoCredentialStore(connection)
    port = ports.any_free()
    worker = program(
        "worker",
        tmp_path / "worker.log",
        **broker.settings(Program.WORKER),
        broker_admin_url=broker.settings(Program.WARDEN)["mqtt_url"],
        mongodb_url=mongodb_url,
        redis_url=redis_url,
        metrics_port=port,
    )
    now = clock.now()
    given = {
        device_id: Credential(
            identifier="1",
            not_before=now,
            not_after=now + timedelta(days=1),
            source=Source.ISSUED,
            given_by="ada",
            given_at=now,
        )
        for device_id in ("PB-1", "PB-2")
    }
    async with running(worker), httpx.AsyncClient(trust_env=False, timeout=ANSWER_S) as client:
        await give(store, given, now, beside=False)
        await until(lambda: gets_through(broker, "PB-1"))
        await revoke(store, ["PB-1"], by="ada", now=now)

        async def is_out() -> bool:
            return not await gets_through(broker, "PB-1")

        await until(is_out)
        assert await gets_through(broker, "PB-2")
        metrics = (await client.get(f"http://{ports.HOST}:{port}/metrics")).text
        assert "pisync_worker_broker_access_devices 1.0" in metrics
        assert "pisync_worker_broker_access_refused 0.0" in metrics
        assert 'pisync_worker_lease_held{duty="broker-access"} 1.0' in metrics
    await connection.close()
