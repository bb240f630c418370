"""A PiBox's gateway at a broker with access control: it speaks for its classroom, and for nobody else."""

import asyncio
from pathlib import Path

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from local_stack import ports
from local_stack.process import running
from pisync.broker_access import Program
from pisync.broker_access.gateways import gateway_account, gateway_role
from pisync.domain import topics
from pisync.mqtt.address import ClientCertificate, MqttAddress
from pisync.mqtt.dynamic_security import DynamicSecurity
from pisync.mqtt.tls import tls_context
from pisync.pki import Usage
from pisync.settings import CommonSettings, WorkerSettings
from pisync.tasks import supervise
from tests.support.access_broker import AccessBroker
from tests.support.gateway import GATEWAY, Client, EdgeServer
from tests.support.samples import payload
from tests.support.waiting import TIMEOUT_S, until

DEVICE = "PB-000123"
STRANGER = "PB-000999"


def certificate(broker: AccessBroker) -> ClientCertificate:
    """The gateway's own."""
    issued = broker.credentials.authority.issue(gateway_account(GATEWAY), usage=Usage.PROGRAM)
    directory = broker.credentials.directory
    shows = ClientCertificate(certificate=directory / "gateway.pem", key=directory / "gateway.key")
    shows.certificate.write_bytes(issued.certificate)
    shows.key.write_bytes(issued.key or b"")
    return shows


async def grant(broker: AccessBroker, *device_ids: str) -> None:
    settings = WorkerSettings(**broker.settings(Program.WARDEN))  # type: ignore[arg-type]
    warden = DynamicSecurity(
        address=settings.mqtt, ca_file=settings.mqtt_ca_file, client_id=topics.program_client_id("gateways")
    )
    async with supervise({"link": warden.run()}):
        await warden.connected(TIMEOUT_S)
        await warden.grant(gateway_role(GATEWAY, [GATEWAY, *device_ids]))


def client_of(broker: AccessBroker, program: Program) -> Client:
    settings = CommonSettings(**broker.settings(program))  # type: ignore[arg-type]
    return Client(
        settings.mqtt.host,
        settings.mqtt.port,
        username=settings.mqtt.username,
        password=settings.mqtt.password,
        tls_context=tls_context(settings.mqtt, settings.mqtt_ca_file),
        protocol=aiomqtt.ProtocolVersion.V5,
    )


def answerable(device_id: str) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.ResponseTopic, properties.CorrelationData = topics.receipts(device_id), b"1"
    return properties


async def test_a_classroom_crosses_with_the_gateways_certificate_and_nobody_else_does(tmp_path: Path) -> None:
    async with running(AccessBroker(tmp_path / "cloud")) as broker:
        cloud = MqttAddress(broker.url, shows=certificate(broker))
        await grant(broker, DEVICE)
        # The PiBox was told of a device that the cloud does not let it speak for.
        edge = EdgeServer(tmp_path / "edge", cloud, [DEVICE, STRANGER], ca_file=broker.credentials.ca_file)
        async with (
            running(edge),
            client_of(broker, Program.OBSERVER) as observer,
            client_of(broker, Program.BRIDGE) as bridge,
            Client(ports.HOST, edge.port, identifier=DEVICE, protocol=aiomqtt.ProtocolVersion.V5) as device,
        ):
            await observer.subscribe(f"{topics.PREFIX}/#", qos=1)
            await device.subscribe(topics.receipts(DEVICE), qos=1)
            for device_id in (STRANGER, DEVICE):
                await device.publish(
                    topics.sync(device_id),
                    payload(device_id=device_id),
                    qos=1,
                    properties=answerable(device_id),
                )
            async with asyncio.timeout(TIMEOUT_S):
                crossed = await anext(observer.messages)
            assert str(crossed.topic) == topics.sync(DEVICE)
            assert getattr(crossed.properties, "ResponseTopic", None) == topics.receipts(DEVICE)

            heard: list[str] = []

            async def hear() -> None:
                async for message in device.messages:
                    heard.append(str(message.topic))  # noqa: PERF401 - looked at while more come

            hearing = asyncio.create_task(hear())

            async def receipt_came() -> bool:
                await bridge.publish(topics.receipts(DEVICE), b"{}", qos=1)
                return bool(heard)

            await until(receipt_came)
            hearing.cancel()
            assert set(heard) == {topics.receipts(DEVICE)}


@pytest.mark.parametrize(
    "topic_filter",
    [
        topics.receipts("+"),
        topics.receipts(STRANGER),
        f"$share/{topics.BRIDGE_GROUP}/{topics.sync(DEVICE)}",
        f"{topics.PREFIX}/devices/{DEVICE}/#",
        topics.ALERTS_FILTER,
    ],
)
async def test_a_gateway_subscribes_to_its_devices_topics_and_to_no_others(
    tmp_path: Path, topic_filter: str
) -> None:
    async with running(AccessBroker(tmp_path / "cloud")) as broker:
        shows = certificate(broker)
        await grant(broker, DEVICE)
        context = tls_context(MqttAddress(broker.url, shows=shows), broker.credentials.ca_file)
        async with Client(
            ports.HOST, broker.port, tls_context=context, protocol=aiomqtt.ProtocolVersion.V5
        ) as gateway:
            [allowed] = await gateway.subscribe(topics.receipts(DEVICE), qos=1)
            [refused] = await gateway.subscribe(topic_filter, qos=1)
            assert (allowed.is_failure, refused.value) == (False, 0x87)  # type: ignore[union-attr]
            for topic in (topics.sync(STRANGER), topics.receipts(DEVICE), topics.alerts(DEVICE, "streak")):
                assert await gateway.publish_once(topic, b"{}", answerable(DEVICE)) == 0x87
            assert await gateway.publish_once(topics.sync(DEVICE), b"{}", answerable(DEVICE)) in {0, 0x10}
