"""The simulator's codec against the one of the bridge, which shares nothing with it."""

import mqtt5
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sim import packets
from device_sim.packets import Version
from pisync.errors import ProtocolError

topics = st.text("abcXYZ/-_.é", min_size=1, max_size=80)
payloads = st.one_of(st.binary(max_size=300), st.integers(100, 70_000).map(lambda size: b"x" * size))
datas = st.binary(min_size=1, max_size=40)
packet_ids = st.integers(1, packets.PACKET_ID_MAX)


def as_bridge(data: bytes) -> mqtt5.Packet:
    packet, size = mqtt5.read(memoryview(data))
    assert size == len(data)
    return packet


@given(topics, payloads, datas, packet_ids, st.booleans())
def test_a_publish_says_the_same_to_both_codecs(
    topic: str, payload: bytes, correlation_data: bytes, packet_id: int, retain: bool
) -> None:
    packet = as_bridge(
        packets.publish(
            Version.V5,
            packet_id,
            topic,
            payload,
            retain=retain,
            response_topic="r/t",
            correlation_data=correlation_data,
        )
    )
    assert isinstance(packet, mqtt5.PublishPacket)
    assert (packet.topic, packet.payload, packet.packet_id) == (topic, payload, packet_id)
    assert (packet.response_topic, packet.correlation_data) == ("r/t", correlation_data)
    assert (int(packet.qos), packet.retain) == (1, retain)


@given(topics, payloads, datas, packet_ids, st.booleans())
def test_a_delivered_message_is_read_past_all_properties(
    topic: str, payload: bytes, correlation_data: bytes, packet_id: int, at_qos_0: bool
) -> None:
    data = mqtt5.PublishPacket(
        topic,
        payload,
        qos=mqtt5.QoS.AT_MOST_ONCE if at_qos_0 else mqtt5.QoS.AT_LEAST_ONCE,
        packet_id=None if at_qos_0 else packet_id,
        message_expiry_interval=7,
        content_type="t",
        response_topic="r/t",
        correlation_data=correlation_data,
        subscription_ids=[300],
        user_properties=[("a", "b")],
    ).write()
    read = packets.read(Version.V5, data + b"\xd0", 0)
    assert read is not None
    packet, end = read
    assert end == len(data)
    assert packet == packets.Received(
        topic=topic,
        payload=payload,
        packet_id=None if at_qos_0 else packet_id,
        correlation_data=correlation_data,
    )


def test_connect_has_the_session_the_will_and_the_credentials() -> None:
    data = packets.connect(
        Version.V5,
        "PB-1",
        keep_alive_s=60,
        session_expiry_s=86_400,
        username="me",
        password="secret",  # noqa: S106
        will_topic="s",
        will_payload=b"gone",
    )
    packet = as_bridge(data)
    assert isinstance(packet, mqtt5.ConnectPacket)
    assert (packet.client_id, packet.clean_start, packet.keep_alive) == ("PB-1", False, 60)
    assert (packet.username, packet.password) == ("me", b"secret")
    assert packet.session_expiry_interval == 86_400
    assert packet.will is not None
    assert (packet.will.topic, packet.will.payload, packet.will.retain) == ("s", b"gone", True)
    assert int(packet.will.qos) == 1


def test_subscribe_and_disconnect_are_read() -> None:
    packet = as_bridge(packets.subscribe(Version.V5, 9, ["a", "b/+"]))
    assert isinstance(packet, mqtt5.SubscribePacket)
    assert [(one.pattern, int(one.max_qos)) for one in packet.topic_filters] == [("a", 1), ("b/+", 1)]
    goodbye = as_bridge(packets.disconnect(Version.V5, session_expiry_s=0))
    assert isinstance(goodbye, mqtt5.DisconnectPacket)
    assert goodbye.session_expiry_interval == 0
    acknowledged = as_bridge(packets.puback(77))
    assert isinstance(acknowledged, mqtt5.PubAckPacket)
    assert acknowledged.packet_id == 77


ANSWERS: list[tuple[bytes, packets.Packet]] = [
    (
        mqtt5.ConnAckPacket(session_present=True, server_keep_alive=30, receive_max=9).write(),
        packets.ConnAck(session_present=True, reason_code=0, keep_alive_s=30),
    ),
    (
        mqtt5.ConnAckPacket(reason_code=mqtt5.ConnAckReasonCode.BANNED).write(),
        packets.ConnAck(session_present=False, reason_code=0x8A),
    ),
    (
        mqtt5.SubAckPacket(
            9,
            [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE, mqtt5.SubAckReasonCode.NOT_AUTHORIZED],
            reason_str="no",
        ).write(),
        packets.SubAck(reason_codes=b"\x01\x87"),
    ),
    (
        mqtt5.PubAckPacket(5, reason_code=mqtt5.PubAckReasonCode.NO_MATCHING_SUBSCRIBERS).write(),
        packets.PubAck(packet_id=5, reason_code=0x10),
    ),
    (mqtt5.PubAckPacket(5).write(), packets.PubAck(packet_id=5)),
    (mqtt5.PingRespPacket().write(), packets.PingResp()),
    (
        mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER).write(),
        packets.Disconnect(reason_code=0x8E),
    ),
]


@pytest.mark.parametrize(("data", "expected"), ANSWERS)
def test_what_a_broker_answers_is_read_once_it_is_whole(data: bytes, expected: packets.Packet) -> None:
    assert packets.read(Version.V5, data, 0) == (expected, len(data))
    assert packets.read(Version.V5, b"\x00" + data, 1) == (expected, len(data) + 1)
    for end in range(len(data)):
        assert packets.read(Version.V5, data[:end], 0) is None


def test_without_mqtt_5_there_are_no_properties() -> None:
    assert (
        packets.publish(Version.V311, 1, "t", b"p", correlation_data=b"no") == b"\x32\x06\x00\x01t\x00\x01p"
    )
    assert packets.subscribe(Version.V311, 2, ["t"]) == b"\x82\x06\x00\x02\x00\x01t\x01"
    assert packets.disconnect(Version.V311, session_expiry_s=0) == b"\xe0\x00"
    connected = packets.connect(
        Version.V311,
        "d",
        keep_alive_s=1,
        session_expiry_s=9,
        username=None,
        password=None,
        will_topic=None,
        will_payload=b"",
    )
    assert connected == b"\x10\x0d\x00\x04MQTT\x04\x00\x00\x01\x00\x01d"
    reads: list[tuple[bytes, packets.Packet]] = [
        (b"\x20\x02\x01\x00", packets.ConnAck(session_present=True, reason_code=0)),
        (b"\x90\x04\x00\x02\x01\x80", packets.SubAck(reason_codes=b"\x01\x80")),
        (b"\x40\x02\x00\x01", packets.PubAck(packet_id=1)),
        (b"\x32\x06\x00\x01t\x00\x01p", packets.Received(topic="t", payload=b"p", packet_id=1)),
    ]
    for data, expected in reads:
        assert packets.read(Version.V311, data, 0) == (expected, len(data))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x10\x00", id="CONNECT"),
        pytest.param(b"\x34\x05\x00\x01t\x00\x01", id="QoS 2"),
        pytest.param(b"\x30\xff\xff\xff\xff\x01", id="endless length"),
        pytest.param(b"\x32\x03\x00\x09t", id="topic beyond the end"),
        pytest.param(b"\x30\x04\x00\x01\xff\x00", id="no UTF-8"),
        pytest.param(b"\x30\x06\x00\x01t\x02\x7f\x00", id="unknown property"),
        pytest.param(b"\x40\x01\x00", id="half a packet id"),
    ],
)
def test_nonsense_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        packets.read(Version.V5, data, 0)


def test_pingreq_is_the_one_that_there_is() -> None:
    assert mqtt5.PingReqPacket().write() == packets.PINGREQ
