"""What docs/protocol.md says of sessions and resending, seen with a real broker and a real bridge."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiomqtt
import mqtt5
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from local_stack import ports
from pisync import limits
from pisync.domain import topics
from tests.fuzz.device import connected as bare_device
from tests.support.samples import members
from tests.support.waiting import until
from tests.support.world import World

DEVICE = "PB-000123"
ROOT = Path(__file__).parents[2]
PROTOCOL, README = (ROOT / "docs" / "protocol.md").read_text(), (ROOT / "README.md").read_text()


@asynccontextmanager
async def connected(
    world: World,
    *,
    clean_start: bool,
    session_expiry_s: int,
    subscribe: bool = True,
    device_id: str = DEVICE,
) -> AsyncIterator[aiomqtt.Client]:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = session_expiry_s
    async with aiomqtt.Client(
        ports.HOST,
        world.mosquitto.port,
        identifier=device_id,
        protocol=aiomqtt.ProtocolVersion.V5,
        clean_start=clean_start,
        properties=properties,
    ) as client:
        if subscribe:
            await client.subscribe(topics.receipts(device_id), qos=1)
        yield client


async def publish(
    client: aiomqtt.Client, payload: str, correlation_data: bytes, *, qos: int = 1, device_id: str = DEVICE
) -> None:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.ResponseTopic = topics.receipts(device_id)
    properties.CorrelationData = correlation_data
    await client.publish(topics.sync(device_id), payload, qos=qos, properties=properties)


def correlation_data_of(message: aiomqtt.Message) -> bytes:
    found: bytes = getattr(message.properties, "CorrelationData", b"")
    return found


async def receipt(client: aiomqtt.Client, correlation_data: bytes) -> dict[str, Any]:
    async with asyncio.timeout(30):
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            if correlation_data_of(message) == correlation_data:
                answer: dict[str, Any] = json.loads(message.payload)
                return answer
    raise AssertionError


async def test_a_receipt_waits_for_a_persistent_session_and_comes_without_a_new_subscription(
    world: World,
) -> None:
    async with connected(world, clean_start=False, session_expiry_s=86_400) as client:
        world.bridge.pause()
        await publish(client, json.dumps(members(device_id=DEVICE)), b"kept")
    world.bridge.resume()
    async with connected(world, clean_start=False, session_expiry_s=86_400, subscribe=False) as client:
        assert (await receipt(client, b"kept"))["stored"] == 1


async def test_a_session_that_ended_gets_no_receipt_of_what_it_published(world: World) -> None:
    async with connected(world, clean_start=False, session_expiry_s=0) as client:
        world.bridge.pause()
        await publish(client, json.dumps(members(device_id=DEVICE)), b"gone")
    world.bridge.resume()
    async with connected(world, clean_start=True, session_expiry_s=0, device_id="PB-2") as later:
        # Receipts go out in the order of the messages: once this one is here, the other one was sent.
        await publish(later, json.dumps(members(device_id="PB-2")), b"later", device_id="PB-2")
        assert (await receipt(later, b"later"))["stored"] == 1
    async with connected(world, clean_start=False, session_expiry_s=0) as client:
        await publish(client, json.dumps(members(device_id=DEVICE)), b"again")
        assert correlation_data_of(await anext(aiter(client.messages))) == b"again"


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_message_of_any_qos_gets_a_receipt(world: World, qos: int) -> None:
    async with connected(world, clean_start=True, session_expiry_s=0) as client:
        await publish(client, json.dumps(members(device_id=DEVICE)), b"any", qos=qos)
        assert (await receipt(client, b"any"))["stored"] == 1


async def test_a_packet_beyond_the_brokers_limit_ends_the_connection_and_a_smaller_one_is_rejected(
    world: World,
) -> None:
    async with connected(world, clean_start=True, session_expiry_s=0) as client:
        await publish(client, " " * (limits.BROKER_PACKET_BYTES_MAX - 1000), b"large")
        (rejected,) = (await receipt(client, b"large"))["rejected"]
        assert rejected["reason"] == "too_large"
    ended = None
    with suppress(ConnectionResetError):  # the connection is gone when the device takes its leave
        async with bare_device(world.mosquitto.port, DEVICE) as (device, _):
            payload = b" " * limits.BROKER_PACKET_BYTES_MAX
            device.send(mqtt5.PublishPacket(topics.sync(DEVICE), payload, qos=mqtt5.QoS(1), packet_id=1))
            ended = await device.answer(of=mqtt5.DisconnectPacket)
    assert isinstance(ended, mqtt5.DisconnectPacket)
    assert ended.reason_code == mqtt5.DisconnectReasonCode.PACKET_TOO_LARGE


async def test_a_resend_may_change_what_the_protocol_says_it_may(world: World) -> None:
    event = members(device_id=DEVICE, timestamp="2026-05-08T13:00:00Z", internet_speed=3.0)
    text = json.dumps(event)
    assert "3.0" in text
    same = {
        "grouping": f"[{text}]",
        "order and white space": json.dumps(dict(reversed(event.items())), indent=3),
        "unknown member": json.dumps(event | {"firmware": "9"}),
        "null": json.dumps(event | {"device_type": None}),
        "offset": json.dumps(event | {"timestamp": "2026-05-08T15:00:00+02:00"}),
        "digits": json.dumps(event | {"timestamp": "2026-05-08T13:00:00.0004Z"}),
        "integer": text.replace("3.0", "3"),
    }
    async with connected(world, clean_start=True, session_expiry_s=0) as client:
        await publish(client, text, b"first")
        assert (await receipt(client, b"first"))["stored"] == 1
        for what, payload in same.items():
            await publish(client, payload, what.encode())
            assert (what, (await receipt(client, what.encode()))["duplicates"]) == (what, 1)
        await publish(client, json.dumps(event | {"internet_speed": 3.1}), b"other")
        (rejected,) = (await receipt(client, b"other"))["rejected"]
        assert rejected["reason"] == "conflict"


async def shell(command: str, world: World) -> str:
    """What the commands of a document print, run against this world's broker."""
    assert "-p 11883" in command
    process = await asyncio.create_subprocess_shell(
        command.replace("11883", str(world.mosquitto.port)), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    return output.decode()


async def test_the_documents_examples_of_mqtt_311_print_receipts(world: World) -> None:
    """And what has a wrong token is kept."""
    (lasting,) = re.findall(r"^    mosquitto_sub .*-V mqttv311(?:.|\n)*?-C 1 -v$", PROTOCOL, re.MULTILINE)
    (at_once,) = re.findall(r"^    mosquitto_sub .*-V mqttv311.*\n    mosquitto_pub.*$", README, re.MULTILINE)
    for command, token, stored in ((lasting, "1", 1), (at_once, "42", 0)):  # of one and the same event
        topic, _, answer = (await shell(command, world)).partition(" ")
        assert topic == topics.receipts(DEVICE, token)
        assert json.loads(answer) == {"stored": stored, "duplicates": 1 - stored, "rejected": []}
    wrong = f"mosquitto_pub -p 11883 -V mqttv311 -q 1 -t {topics.sync(DEVICE, 'a/b')} -m {{}}"
    await shell(wrong, world)

    async def is_kept() -> bool:
        found = await world.truth.database.dead_letters.find({}).to_list()
        return [(one["topic"], one["device_id"]) for one in found] == [(topics.sync(DEVICE, "a/b"), DEVICE)]

    await until(is_kept)


async def test_a_bridge_of_before_tokens_is_upgraded_without_a_gap_or_a_second_copy(world: World) -> None:
    await world.bridge.terminate()
    await publish_as_before(world)
    await world.bridge.start()
    await world.said("connected", times=2)
    async with connected(world, clean_start=True, session_expiry_s=0) as client:

        async def answered() -> tuple[bytes, int]:
            message = await asyncio.wait_for(anext(aiter(client.messages)), 30)
            assert isinstance(message.payload, bytes)
            return correlation_data_of(message), json.loads(message.payload)["duplicates"]

        async def send(minute: int) -> None:
            event = members(device_id=DEVICE, timestamp=f"2026-05-08T13:{minute:02}:00Z")
            await publish(client, json.dumps(event), b"%d" % minute)

        # The broker had handled what the bridge sent before this receipt, an UNSUBSCRIBE among it.
        await send(0)
        assert (await answered())[0] == b"0"
        await send(1)
        await send(2)
        # Of the first there may have been a second copy, of no other.
        told = [await answered() for _ in range(2)]
        if told[0] == (b"0", 1):
            told = [*told[1:], await answered()]
        assert told == [(b"1", 0), (b"2", 0)]
    assert await world.truth.events() == 4  # what waited in the session, too


async def publish_as_before(world: World) -> None:
    """Have the broker hold an event for the bridge by the subscription that it had before tokens."""
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = 3600
    async with aiomqtt.Client(
        ports.HOST,
        world.mosquitto.port,
        identifier=topics.program_client_id("bridge-0"),
        protocol=aiomqtt.ProtocolVersion.V5,
        clean_start=True,
        properties=properties,
    ) as client:
        await client.subscribe(topics.FORMER_SHARED_SYNC_FILTER, qos=1)
    async with connected(world, clean_start=True, session_expiry_s=0, subscribe=False) as client:
        await client.publish(topics.sync(DEVICE), json.dumps(members(device_id=DEVICE)), qos=1)


async def test_the_documents_example_prints_the_correlation_data_it_sent(world: World) -> None:
    (command,) = re.findall(r"^    mosquitto_rr (?:.|\n)*?\]'$", PROTOCOL, re.MULTILINE)
    correlation_data, _, answer = (await shell(command, world)).partition(" ")
    assert correlation_data == "1"
    assert json.loads(answer)["stored"] == 1
    assert [rejected["reason"] for rejected in json.loads(answer)["rejected"]] == ["clock_unset"]
