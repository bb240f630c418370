"""The devices to copy lose nothing and double nothing, whatever is killed or away: one matrix for all."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
import pytest_asyncio
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from cli.conformance import Watch, collect
from device_sim.conformance import Rule, Seen, judge
from local_stack import ports
from local_stack.broker_credentials import BrokerCredentials
from local_stack.process import running
from local_stack.secure_broker import SecureMosquittoServer
from local_stack.servers import MosquittoServer
from pisync import clock
from pisync.broker_access import Program
from pisync.domain import receipts, topics
from pisync.domain.events import Reason, Rejection
from pisync.mqtt.tls import tls_context
from pisync.settings import CommonSettings
from tests.support.example_devices import (
    BATCH,
    DEVICES,
    PUBACK_WAIT_S,
    RECEIPT_WAIT_S,
    CDevice,
    ExampleDevice,
    ShellDevice,
    ended,
)
from tests.support.waiting import TIMEOUT_S, until
from tests.support.world import World

DEVICE = "PB-000123"
EVENTS = 2000
COMMAND = "0" * 28
UNSET = "1970-01-01T00:05:00.000Z"


def backlog(count: int) -> Iterator[dict[str, Any]]:
    """Events of some days, and one whose clock was not set."""
    start = datetime(2026, 5, 8, tzinfo=UTC)
    moments = [start + timedelta(minutes=number) for number in range(count)]
    for timestamp in [*(moment.strftime("%Y-%m-%dT%H:%M:%S.000Z") for moment in moments), UNSET]:
        yield {
            "device_id": DEVICE,
            "timestamp": timestamp,
            "total_files_synced": 1,
            "total_errors": 0,
            "internet_speed": 1,
        }


def publisher(broker: MosquittoServer) -> aiomqtt.Client:
    """A client beside the device, to be connected."""
    return aiomqtt.Client(ports.HOST, broker.port, protocol=aiomqtt.ProtocolVersion.V5)


async def killed_in_the_middle(device: ExampleDevice) -> None:
    """Run it until a part of its backlog is confirmed, and kill it with SIGKILL."""
    child = await asyncio.create_subprocess_exec(*device.service())
    try:
        await until(lambda: device.waiting() < EVENTS - 200)
    finally:
        child.kill()
        await child.wait()
    assert device.waiting() > 2


@pytest.mark.parametrize("kind", DEVICES, ids=lambda kind: kind.name)
async def test_a_device_to_copy_confirms_its_backlog(
    kind: type[ExampleDevice], world: World, tmp_path: Path
) -> None:
    device = kind(tmp_path / "device", DEVICE, world.mosquitto.port)
    device.spool.parent.mkdir()
    seen: list[Seen] = []
    async with watching(world.mosquitto, seen):
        await lives_through_the_matrix(device, world, seen)
    verdicts = judge(DEVICE, seen, until=clock.now(), puback_wait_s=PUBACK_WAIT_S)
    # One event whose clock was not set, and one that no event may be, are in the backlog on purpose.
    broken = {verdict.rule: verdict.evidence for verdict in verdicts if verdict.broken}
    assert set(broken) == {Rule.CLOCK, Rule.EVENTS}, broken
    never_seen = {verdict.rule for verdict in verdicts if verdict.state == "not seen"}
    assert never_seen == {Rule.SESSION}


@asynccontextmanager
async def watching(broker: MosquittoServer, seen: list[Seen]) -> AsyncIterator[None]:
    """What `pisync conformance` sees of the device meanwhile."""
    settings = CommonSettings(mqtt_url=broker.url)
    watch = Watch(
        settings=settings, device_id=DEVICE, duration_s=0, puback_wait_s=PUBACK_WAIT_S, as_json=False
    )
    collecting = asyncio.create_task(collect(watch, seen, None))
    probe = topics.receipts(DEVICE, "probe")
    async with publisher(broker) as client:

        async def hears() -> bool:
            await client.publish(probe, b"", qos=1)
            return bool(seen) or collecting.done()

        await until(hears)
        try:
            yield
        finally:
            collecting.cancel()
            with suppress(asyncio.CancelledError):
                await collecting


def has_answered(seen: list[Seen]) -> bool:
    return any(message.topic == topics.command_replies(DEVICE) for message in seen)


def order() -> str:
    """A command that is good for an hour."""
    expires = clock.rfc3339(clock.now() + timedelta(hours=1))
    return json.dumps({"command": "sync_now", "id": COMMAND, "expires": expires})


async def asked_to_sync(broker: MosquittoServer, seen: list[Seen]) -> None:
    """Send a command until it is answered, as PiSync does, and twice at least: it is to be done once.

    The first two wait for the device in its session.
    """
    asking = order()
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.ResponseTopic = topics.command_replies(DEVICE)
    properties.CorrelationData = COMMAND.encode()
    async with publisher(broker) as client:
        await client.publish(topics.commands(DEVICE), asking, qos=1, properties=properties)
        while not has_answered(seen):
            await client.publish(topics.commands(DEVICE), asking, qos=1, properties=properties)
            with suppress(AssertionError):
                await until(lambda: has_answered(seen), timeout_s=3)


async def test_what_comes_between_two_sends_waits_for_the_next(
    mosquitto_server: MosquittoServer, tmp_path: Path
) -> None:
    device = ShellDevice(tmp_path / "device", "PB-between", mosquitto_server.port)
    device.spool.parent.mkdir()
    assert await ended(device.once(run_s=30)) == 0
    async with publisher(mosquitto_server) as client:
        await client.subscribe(topics.command_replies(device.device_id), qos=1)
        await client.publish(topics.commands(device.device_id), order(), qos=1)
        assert await ended(device.once(run_s=2)) == 1, (
            "no bridge confirms the event that the command asked for"
        )
        async with asyncio.timeout(TIMEOUT_S):
            reply = await anext(client.messages)
    assert json.loads(bytes(reply.payload))["id"] == COMMAND


async def lives_through_the_matrix(device: ExampleDevice, world: World, seen: list[Seen]) -> None:
    """A backlog, no bridge, kill -9, rejections, a clock that was not set, a command: all is there once."""
    if isinstance(device, CDevice):
        device.compile()
    assert await ended(device.record(20, 1, 3.2)) == 0
    assert await ended(device.record(20, -1, 3.2)) == 0
    device.fill(backlog(EVENTS - 1))
    assert device.waiting() == EVENTS + 2

    await world.bridge.kill()
    device.receipt_wait_s = device.shortest_receipt_wait_s
    assert await ended(device.once(run_s=5)) == 1
    device.receipt_wait_s = RECEIPT_WAIT_S
    assert device.waiting() == EVENTS + 2

    await world.bridge.start()
    await world.said("connected", times=2)
    await killed_in_the_middle(device)
    asking = asyncio.create_task(asked_to_sync(world.mosquitto, seen))
    try:
        assert await ended(device.once()) == 3
    finally:
        asking.cancel()
    await until(lambda: has_answered(seen))

    assert device.waiting() == 0
    assert UNSET in device.rejected()
    assert len(device.rejected()) == 2
    assert await world.truth.events() == EVENTS + 1  # with the one that the command asked for
    letters = [letter async for letter in world.truth.database.dead_letters.find()]
    assert sorted(reason for letter in letters for reason in letter["reasons"]) == ["clock_unset", "schema"]


async def test_a_bad_device_is_told_each_of_its_faults(mosquitto_server: MosquittoServer) -> None:
    seen: list[Seen] = []
    event = next(backlog(1))
    asks = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    asks.ResponseTopic, asks.CorrelationData = topics.receipts(DEVICE), b"1"
    async with watching(mosquitto_server, seen), publisher(mosquitto_server) as client:

        async def publish(
            body: object, qos: int = 1, retain: bool = False, asks: Properties | None = asks
        ) -> None:
            topic = topics.sync(DEVICE)
            await client.publish(topic, json.dumps(body), qos=qos, retain=retain, properties=asks)

        await publish(event, qos=0)
        await publish(event, qos=2)
        await publish(event)
        await publish(event, retain=True)
        await publish(event | {"device_id": "PB-999999"})
        await publish(event, asks=None)
        await client.publish(f"pisync/v1/devices/{DEVICE}/synch", b"", qos=1)
        await until(lambda: seen[-1].topic.endswith("synch"))
    verdicts = {verdict.rule: verdict for verdict in judge(DEVICE, seen, until=clock.now())}
    broken = {rule: verdict.broken for rule, verdict in verdicts.items() if verdict.broken}
    expected = {
        Rule.TOPIC: 1,
        Rule.DEVICE_ID: 1,
        Rule.QOS: 2,
        Rule.RETAINED: 1,
        Rule.ANSWERABLE: 1,
        Rule.RESEND: 2,
    }
    assert {rule: broken.get(rule) for rule in expected} == expected
    assert [each.why for each in verdicts[Rule.QOS].evidence] == ["published at QoS 0", "published at QoS 2"]


@pytest.mark.parametrize("kind", DEVICES, ids=lambda kind: kind.name)
async def test_a_device_to_copy_waits_splits_what_is_refused_as_a_whole_and_reads_groups(
    kind: type[ExampleDevice], mosquitto_server: MosquittoServer, tmp_path: Path
) -> None:
    device = kind(tmp_path / "device", DEVICE, mosquitto_server.port)
    device.spool.parent.mkdir()
    if isinstance(device, CDevice):
        device.compile()
    assert await ended(device.record(20, 1, 3.2)) == 0
    events = list(backlog(9))
    device.fill(events)
    bad = {event["timestamp"] for event in events if event["timestamp"][15] in "0124"}
    sizes: list[int] = []
    wholes = (Reason.RATE_EXCEEDED, Reason.UNKNOWN_DEVICE, Reason.TOO_LARGE)
    device.receipt_wait_s = device.shortest_receipt_wait_s

    async def answer(client: aiomqtt.Client) -> None:
        """As a bridge that has too much, then takes no first message, and rejects some events, as groups."""
        async for message in client.messages:
            sent = json.loads(message.payload) if isinstance(message.payload, bytes) else []
            sent = sent if isinstance(sent, list) else [sent]
            sizes.append(len(sent))
            places = [place for place, event in enumerate(sent) if event["timestamp"] in bad]
            rejections = [receipts.group(Reason.CLOCK_UNSET, places)] if places else []
            if len(sizes) <= len(wholes):
                rejections = [Rejection(index=None, reason=wholes[len(sizes) - 1])]
            found = receipts.receipt(
                stored=len(sent) - len(places) if len(sizes) > len(wholes) else 0,
                duplicates=0,
                rejections=rejections,
            )
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            if message.properties is not None and hasattr(message.properties, "CorrelationData"):
                properties.CorrelationData = message.properties.CorrelationData
            _, token = topics.sync_source(str(message.topic))
            reply_topic = topics.receipts(DEVICE, token)
            await client.publish(reply_topic, receipts.encode(found), qos=1, properties=properties)

    async with publisher(mosquitto_server) as client:
        await client.subscribe(f"{topics.sync(DEVICE)}/#", qos=1)
        answering = asyncio.create_task(answer(client))
        assert await ended(device.once(run_s=20)) == 3
        answering.cancel()
    assert sizes[:3] == [len(events) + 1] * 3
    assert max(sizes[3:]) <= (sizes[0] + 1) // 2
    assert device.waiting() == 0
    assert device.rejected() == bad


def certified_id(kind: type[ExampleDevice]) -> str:
    """The id of an example at the broker with access control, which all of them share."""
    return f"PB-{kind.name}"


@pytest.mark.parametrize("kind", DEVICES, ids=lambda kind: kind.name)
async def test_a_device_to_copy_connects_with_its_certificate_under_access_control(
    kind: type[ExampleDevice], secure_broker: SecureMosquittoServer, tmp_path: Path
) -> None:
    """Such a broker takes the certificate's name for the client id, and ends a second connection's first."""
    broker, device_id = secure_broker, certified_id(kind)
    device = kind(tmp_path / "device", device_id, broker.port)
    certificate, key = broker.credentials.device(device_id)
    device.tls = {"ca": broker.credentials.ca_file, "cert": certificate, "key": key}
    device.spool.parent.mkdir()
    if isinstance(device, CDevice):
        device.compile()
    assert await ended(device.record(20, 0, 3.2)) == 0
    events = [event | {"device_id": device_id} for event in backlog(2 * BATCH)]
    device.fill(event for event in events if event["timestamp"] != UNSET)
    stored: list[str] = []

    async def store(bridge: aiomqtt.Client) -> None:
        """As a bridge that takes everything."""
        async for message in bridge.messages:
            sent = json.loads(message.payload if isinstance(message.payload, bytes) else b"")
            sent = sent if isinstance(sent, list) else [sent]
            stored.extend(event["timestamp"] for event in sent)
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            if message.properties is not None and hasattr(message.properties, "CorrelationData"):
                properties.CorrelationData = message.properties.CorrelationData
            _, token = topics.sync_source(str(message.topic))
            receipt = receipts.encode(receipts.receipt(stored=len(sent), duplicates=0, rejections=[]))
            await bridge.publish(topics.receipts(device_id, token), receipt, qos=1, properties=properties)

    async with account(broker, Program.BRIDGE) as bridge, account(broker, Program.WORKER) as worker:
        await bridge.subscribe(topics.SHARED_SYNC_FILTER, qos=1)
        await worker.subscribe(topics.COMMAND_REPLIES_FILTER, qos=1)
        storing = asyncio.create_task(store(bridge))
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.ResponseTopic = topics.command_replies(device_id)
        properties.CorrelationData = COMMAND.encode()
        assert await ended(device.once(run_s=30)) == 0
        await worker.publish(topics.commands(device_id), order(), qos=1, properties=properties)
        assert await ended(device.record(1, 0, 3.2)) == 0
        assert await ended(device.once(run_s=30)) == 0
        async with asyncio.timeout(TIMEOUT_S):
            reply = await anext(worker.messages)
        assert str(reply.topic) == topics.command_replies(device_id)
        storing.cancel()
    assert device.waiting() == 0
    assert len(set(stored)) == 2 * BATCH + 3  # with the two that were recorded, and the command's
    assert len(stored) == len(set(stored)), "published again although each message had its receipt"


def account(broker: SecureMosquittoServer, program: Program) -> aiomqtt.Client:
    """A client with a program's account, to be connected."""
    settings = CommonSettings(**broker.settings(program))  # type: ignore[arg-type]
    address = settings.mqtt
    return aiomqtt.Client(
        address.host,
        address.port,
        username=address.username,
        password=address.password,
        tls_context=tls_context(address, settings.mqtt_ca_file),
        protocol=aiomqtt.ProtocolVersion.V5,
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def secure_broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SecureMosquittoServer]:
    """One for all the examples: each has a certificate of its own."""
    directory = tmp_path_factory.mktemp("secure")
    credentials = BrokerCredentials(directory / "credentials")
    async with running(
        SecureMosquittoServer(directory, credentials, devices=map(certified_id, DEVICES))
    ) as broker:
        yield broker
