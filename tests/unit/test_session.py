"""The bridge's session against a scripted broker: what the bridge adds to the client."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import mqtt5
import pytest
from structlog.testing import capture_logs

from bridge.broker_watch import STATUS_FILTER, BrokerWatch
from bridge.metrics import Metrics
from bridge.session import Session
from pisync import limits, tasks
from pisync.domain import topics
from pisync.errors import ConfigurationError, SessionTakenOver
from pisync.mqtt.address import MqttAddress
from pisync.mqtt.messages import Message, Subscription
from pisync.settings import BridgeSettings
from tests.support.fake_broker import FakeBroker, fake_broker
from tests.support.waiting import TIMEOUT_S, until


@pytest.fixture
async def broker() -> AsyncIterator[FakeBroker]:
    async with fake_broker() as one:
        yield one


class Bridge:
    """A session with the subscriptions of a bridge, and what became of it."""

    def __init__(self, address: MqttAddress, *, known_before: bool = False, **options: Any) -> None:
        self.metrics = Metrics(BridgeSettings())
        self.received: asyncio.Queue[Message] = asyncio.Queue()
        self.connections: asyncio.Queue[None] = asyncio.Queue()
        self.ours = True
        watch = BrokerWatch(self.metrics)
        self.session = Session(
            address=address,
            bridge_id="bridge-0",
            subscriptions=[
                Subscription(topics.SHARED_SYNC_FILTER, 1, self.received.put_nowait, retained=False),
                Subscription(STATUS_FILTER, 0, watch.on_message, required=False),
            ],
            on_connected=lambda: self.connections.put_nowait(None),
            is_ours=self._is_ours,
            known_before=known_before,
            metrics=self.metrics,
            **{"ca_file": None, **options},
        )

    async def _is_ours(self) -> bool:
        return self.ours

    async def connected(self) -> None:
        await asyncio.wait_for(self.connections.get(), TIMEOUT_S)

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


async def test_it_connects_with_the_bridges_id_and_a_long_session(broker: FakeBroker) -> None:
    bridge = Bridge(broker.address)
    running = asyncio.create_task(bridge.session.run())
    await bridge.connected()
    connect = await broker.has(mqtt5.ConnectPacket)
    assert (connect.client_id, connect.clean_start) == ("@bridge-0", False)
    assert connect.session_expiry_interval == limits.SESSION_EXPIRY_S
    assert bridge.metric("pisync_bridge_connected") == 1
    await tasks.cancel([running])
    assert bridge.metric("pisync_bridge_connected") == 0


async def test_what_the_broker_says_of_itself_is_no_message_of_a_device(broker: FakeBroker) -> None:
    bridge = Bridge(broker.address)
    running = asyncio.create_task(bridge.session.run())
    await bridge.connected()
    at_qos_1 = mqtt5.PublishPacket(topics.sync("PB-1"), b"{}", qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=7)
    broker.send(
        mqtt5.PublishPacket("$SYS/broker/store/messages/count", b"53").write(),
        mqtt5.PublishPacket(topics.sync("PB-1"), b"{}").write(),
        at_qos_1.write(),
    )
    messages = [await asyncio.wait_for(bridge.received.get(), TIMEOUT_S) for _ in range(2)]
    assert [message.packet_id for message in messages] == [None, 7]
    assert bridge.metric("pisync_broker_stored_messages") == 53
    await tasks.cancel([running])


@pytest.mark.parametrize(
    ("known_before", "session_present", "lost"), [(True, False, 1), (True, True, 0), (False, False, 0)]
)
async def test_a_lost_session_is_counted_and_warned_of(
    broker: FakeBroker, known_before: bool, session_present: bool, lost: int
) -> None:
    broker.session_present = session_present
    bridge = Bridge(broker.address, known_before=known_before)
    with capture_logs() as logs:
        running = asyncio.create_task(bridge.session.run())
        await bridge.connected()
    assert bridge.metric("pisync_bridge_sessions_lost_total") == lost
    named = [line["client_id"] for line in logs if "lost this bridge's session" in line["event"]]
    assert named == ["@bridge-0"] * lost
    broker.session_present = False
    broker.drop()
    await bridge.connected()
    assert bridge.session.lacked_session is bool(lost), "it is about the first connection"
    assert bridge.metric("pisync_bridge_sessions_lost_total") == lost + 1
    resumed = bridge.metric("pisync_bridge_connections_total", session="resumed")
    assert resumed == session_present
    await tasks.cancel([running])


async def test_another_client_under_our_name_does_not_end_the_bridge(broker: FakeBroker) -> None:
    bridge = Bridge(broker.address)
    running = asyncio.create_task(bridge.session.run())
    await bridge.connected()
    assert bridge.session.health == (True, "connected and subscribed")
    reason_code = mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER
    with capture_logs() as logs:
        for _ in range(2):
            broker.send(mqtt5.DisconnectPacket(reason_code=reason_code).write())
            await bridge.connected()
    assert bridge.metric("pisync_bridge_sessions_taken_over_total") == 2
    named = [line for line in logs if line["log_level"] == "error"]
    assert [line["client_id"] for line in named] == ["@bridge-0", "@bridge-0"]
    assert "took this bridge's session 2 times" in bridge.session.health.text
    await tasks.cancel([running])


async def test_a_broker_that_hangs_up_again_and_again_gives_the_session_to_another_client(
    broker: FakeBroker,
) -> None:
    """Mosquitto 2.0 gives no reason to the client that it hangs up on."""
    bridge = Bridge(broker.address)
    running = asyncio.create_task(bridge.session.run())
    await bridge.connected()
    for expected in (0, 0, 1, 2):
        broker.drop()
        await bridge.connected()
        assert bridge.metric("pisync_bridge_sessions_taken_over_total") == expected
    await tasks.cancel([running])


async def test_a_session_taken_over_says_which_setting_to_look_at(broker: FakeBroker) -> None:
    bridge = Bridge(broker.address)
    running = asyncio.create_task(bridge.session.run())
    await bridge.connected()
    bridge.ours = False
    reason_code = mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER
    broker.send(mqtt5.DisconnectPacket(reason_code=reason_code).write())
    with pytest.raises(SessionTakenOver, match=r"'bridge-0'.*PISYNC_BRIDGE_ID"):
        await asyncio.wait_for(running, TIMEOUT_S)


async def test_a_broker_that_hangs_up_without_a_word_may_mean_another_bridge(broker: FakeBroker) -> None:
    bridge = Bridge(broker.address)
    running = asyncio.create_task(bridge.session.run())
    await bridge.connected()
    broker.drop()
    await bridge.connected()  # it is ours still
    bridge.ours = False
    broker.drop()
    with pytest.raises(SessionTakenOver, match="PISYNC_BRIDGE_ID"):
        await asyncio.wait_for(running, TIMEOUT_S)


async def test_receipts_that_the_broker_does_not_take_are_counted_and_told_once(broker: FakeBroker) -> None:
    codes = iter([0x87, 0x00, 0x87, 0x10, 0x97])

    def refuse(publish: mqtt5.PublishPacket) -> Sequence[bytes]:
        assert publish.packet_id is not None
        # The codec makes no reason code of a number: two bytes of packet id, and the code.
        return [b"\x40\x03" + publish.packet_id.to_bytes(2, "big") + bytes([next(codes)])]

    broker.on_publish = refuse
    bridge = Bridge(broker.address)
    running = asyncio.create_task(bridge.session.run())
    await bridge.connected()
    with capture_logs() as logs:
        for _ in range(5):
            bridge.session.publish(topics.receipts("PB-1"), b"{}")
        await until(lambda: bridge.metric("pisync_bridge_publishes_refused_total", reason_code="0x97") == 1)
    counted = {
        code: bridge.metric("pisync_bridge_publishes_refused_total", reason_code=code)
        for code in ("0x10", "0x87", "0x97")
    }
    assert counted == {"0x10": 1, "0x87": 2, "0x97": 1}
    told = [line["reason_code"] for line in logs if "does not take a receipt" in line["event"]]
    assert told == ["0x87", "0x97"]
    await tasks.cancel([running])


def test_a_ca_file_without_certificates_is_a_configuration_error(tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text("nothing")
    with pytest.raises(ConfigurationError, match=r"PISYNC_MQTT_CA_FILE: .*ca\.pem holds no certificates"):
        Bridge(MqttAddress("mqtts://127.0.0.1"), ca_file=ca_file)
