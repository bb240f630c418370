"""A connection against a scripted broker: handshake, flow, and bytes of every kind."""

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import mqtt5
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from pisync import limits
from pisync.errors import BrokerUnavailable, ConfigurationError, PiSyncError, ProtocolError, SessionTakenOver
from pisync.mqtt.connection import Connection, ConnectionState, OnPuback
from pisync.mqtt.messages import Message, Subscription

CONNACK = mqtt5.ConnAckPacket(receive_max=2).write()
GRANTED = [
    mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE,
    mqtt5.SubAckReasonCode.GRANTED_QOS_AT_MOST_ONCE,
]
SUBACK = mqtt5.SubAckPacket(65_535, GRANTED).write()


def publish(packet_id: int | None = 1, payload: bytes = b"{}", **properties: Any) -> bytes:
    qos = mqtt5.QoS.AT_MOST_ONCE if packet_id is None else mqtt5.QoS.AT_LEAST_ONCE
    return mqtt5.PublishPacket("t/1", payload, qos=qos, packet_id=packet_id, **properties).write()


EVERY_KIND = [
    CONNACK,
    SUBACK,
    publish(None),
    publish(7, b"x" * 300, response_topic="r", correlation_data=b"c", user_properties=[("a", "b")]),
    mqtt5.PubAckPacket(1, reason_code=mqtt5.PubAckReasonCode.NO_MATCHING_SUBSCRIBERS).write(),
    mqtt5.PubRecPacket(1).write(),
    mqtt5.PubRelPacket(1).write(),
    mqtt5.PubCompPacket(1).write(),
    mqtt5.UnsubAckPacket(1, [mqtt5.UnsubAckReasonCode.SUCCESS]).write(),
    mqtt5.PingRespPacket().write(),
    mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.SERVER_SHUTTING_DOWN).write(),
    mqtt5.AuthPacket().write(),
    mqtt5.ConnectPacket("x").write(),
    mqtt5.SubscribePacket(1, [mqtt5.TopicFilter("a")]).write(),
    mqtt5.UnsubscribePacket(1, ["a"]).write(),
    mqtt5.PingReqPacket().write(),
]


class FakeTransport(asyncio.Transport):
    """Remembers what was written, and whether the other side would be read."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.writes = 0
        self.reading = True
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)
        self.writes += 1

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


class Bench:
    """A connection on a fake transport."""

    def __init__(
        self,
        unacknowledged: dict[int, bytes] | None = None,
        *,
        subscribed: bool = True,
        leaving: bool = False,
        former_filters: Sequence[str] = (),
        waiting: dict[int, OnPuback] | None = None,
    ) -> None:
        self.received: list[Message] = []
        self.told: list[Message] = []
        self.refused: list[int] = []
        self.waiting: dict[int, OnPuback] = {} if waiting is None else waiting
        self.unacknowledged = {} if unacknowledged is None else unacknowledged
        self.connection = Connection(
            connect=mqtt5.ConnectPacket("bridge-0", keep_alive=limits.KEEP_ALIVE_S),
            subscriptions=[
                Subscription("$share/g/t/+", 1, self.received.append, retained=False),
                Subscription("$SYS/+", 0, self.told.append, required=False),
            ],
            leaving=leaving,
            former_filters=former_filters,
            on_refused=self.refused.append,
            unacknowledged=self.unacknowledged,
            waiting=self.waiting,
        )
        self.transport = FakeTransport()
        self.connection.connection_made(self.transport)
        if subscribed:
            self.connection.data_received(CONNACK + SUBACK)
            self.written()

    def written(self) -> list[mqtt5.Packet]:
        """The packets sent since the last look."""
        self.connection._flush()
        packets = []
        view = memoryview(self.transport.written)
        while view:
            packet, size = mqtt5.read(view)
            packets.append(packet)
            view = view[size:]
        self.transport.written = b""
        return packets

    def error(self) -> PiSyncError:
        assert self.connection.state is ConnectionState.CLOSED
        assert self.transport.closed
        error = self.connection.closed.exception()
        assert isinstance(error, PiSyncError)
        return error


async def test_handshake() -> None:
    bench = Bench(subscribed=False)
    (connect,) = bench.written()
    assert isinstance(connect, mqtt5.ConnectPacket)
    bench.connection.data_received(mqtt5.ConnAckPacket(session_present=True, server_keep_alive=60).write())
    subscribe, ping = sorted(bench.written(), key=lambda packet: isinstance(packet, mqtt5.PingReqPacket))
    assert isinstance(subscribe, mqtt5.SubscribePacket)
    assert [(wanted.pattern, int(wanted.max_qos)) for wanted in subscribe.topic_filters] == [
        ("$share/g/t/+", 1),
        ("$SYS/+", 0),
    ]
    assert isinstance(ping, mqtt5.PingReqPacket)
    assert bench.connection.accepted.result() is True
    assert not bench.connection.ready.done()
    bench.connection.data_received(SUBACK)
    assert bench.connection.state is ConnectionState.READY
    assert bench.connection.ready.done()


async def test_a_resumed_session_may_deliver_before_the_suback() -> None:
    bench = Bench(subscribed=False)
    bench.connection.data_received(CONNACK + publish(3) + SUBACK)
    assert [message.packet_id for message in bench.received] == [3]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (mqtt5.ConnAckReasonCode.BAD_USER_NAME_OR_PASSWORD, ConfigurationError),
        (mqtt5.ConnAckReasonCode.NOT_AUTHORIZED, ConfigurationError),
        (mqtt5.ConnAckReasonCode.CLIENT_ID_NOT_VALID, ConfigurationError),
        (mqtt5.ConnAckReasonCode.UNSUPPORTED_PROTOCOL_VERSION, ConfigurationError),
        (mqtt5.ConnAckReasonCode.SERVER_UNAVAILABLE, BrokerUnavailable),
        (mqtt5.ConnAckReasonCode.SERVER_BUSY, BrokerUnavailable),
        (mqtt5.ConnAckReasonCode.QUOTA_EXCEEDED, BrokerUnavailable),
    ],
)
async def test_a_refused_connection_says_why(code: mqtt5.ConnAckReasonCode, kind: type[PiSyncError]) -> None:
    bench = Bench(subscribed=False)
    bench.connection.data_received(mqtt5.ConnAckPacket(reason_code=code).write())
    assert type(bench.error()) is kind
    assert code.name in str(bench.error())
    assert isinstance(bench.connection.accepted.exception(), kind)


async def test_a_broker_without_shared_subscriptions_is_refused() -> None:
    bench = Bench(subscribed=False)
    bench.connection.data_received(mqtt5.ConnAckPacket(shared_subscription_available=False).write())
    assert isinstance(bench.error(), ConfigurationError)


@pytest.mark.parametrize(
    "code", [mqtt5.SubAckReasonCode.NOT_AUTHORIZED, mqtt5.SubAckReasonCode.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED]
)
async def test_a_refused_subscription_says_why(code: mqtt5.SubAckReasonCode) -> None:
    bench = Bench(subscribed=False)
    bench.connection.data_received(CONNACK + mqtt5.SubAckPacket(65_535, [code, GRANTED[1]]).write())
    assert isinstance(bench.error(), ConfigurationError)
    assert code.name in str(bench.error())
    assert bench.connection.ready.exception() is bench.error()


async def test_a_broker_that_keeps_its_figures_to_itself_is_warned_of() -> None:
    bench = Bench(subscribed=False)
    refused = [GRANTED[0], mqtt5.SubAckReasonCode.NOT_AUTHORIZED]
    with structlog.testing.capture_logs() as logs:
        bench.connection.data_received(CONNACK + mqtt5.SubAckPacket(65_535, refused).write())
    assert bench.connection.ready.done()
    assert bench.connection.state is ConnectionState.READY
    (warning,) = logs
    assert warning["log_level"] == "warning"
    assert "$SYS/+: NOT_AUTHORIZED" in warning["why"]


@pytest.mark.parametrize("codes", [GRANTED[:1], [*GRANTED, GRANTED[0]]])
async def test_a_suback_answers_both_subscriptions(codes: list[mqtt5.SubAckReasonCode]) -> None:
    bench = Bench(subscribed=False)
    bench.connection.data_received(CONNACK + mqtt5.SubAckPacket(65_535, codes).write())
    assert isinstance(bench.error(), ProtocolError)


async def test_a_message_goes_to_the_handler_of_the_subscription_that_matches() -> None:
    bench = Bench()
    told = mqtt5.PublishPacket("$SYS/uptime", b"7").write()
    bench.connection.data_received(publish(None) + told + publish(7))
    assert [(message.topic, message.packet_id) for message in bench.received] == [("t/1", None), ("t/1", 7)]
    assert [(message.topic, message.payload) for message in bench.told] == [("$SYS/uptime", b"7")]


async def test_a_message_has_the_size_of_its_whole_packet() -> None:
    bench = Bench()
    packets = [
        publish(1),
        publish(2, b"x" * 70_000),
        publish(3, response_topic="r" * 60_000, correlation_data=b"c" * 60_000),
        publish(None, user_properties=[("n" * 100, "v" * 60_000)] * 3),
    ]
    whole = b"".join(packets)
    bench.connection.data_received(whole[:1000])
    bench.connection.data_received(whole[1000:])
    assert [message.size_bytes for message in bench.received] == [len(packet) for packet in packets]


async def test_a_lone_handler_at_qos_1_is_called_directly() -> None:
    """Nothing stands between the bridge's intake and the packet, as `test_bridge_costs.py` counts."""
    bench = Bench()
    assert bench.connection._on_message == bench.received.append


@pytest.mark.parametrize("code", [mqtt5.PubAckReasonCode.SUCCESS, mqtt5.PubAckReasonCode.QUOTA_EXCEEDED])
async def test_an_acknowledgement_is_told_with_its_reason(code: mqtt5.PubAckReasonCode) -> None:
    bench = Bench()
    told: list[int | None] = []
    packet_id = bench.connection.publish("t", b"1", on_puback=told.append)
    assert packet_id is not None
    acknowledgement = mqtt5.PubAckPacket(packet_id, reason_code=code).write()
    bench.connection.data_received(acknowledgement)
    bench.connection.data_received(acknowledgement)  # again: it is known already
    assert told == [int(code)]
    assert bench.refused == []
    assert bench.waiting == {}


async def test_a_refusal_that_nobody_waits_for_is_told_too() -> None:
    bench = Bench()
    packet_ids = [bench.connection.publish("t", b"1") for _ in range(2)]
    codes = [mqtt5.PubAckReasonCode.NOT_AUTHORIZED, mqtt5.PubAckReasonCode.SUCCESS]
    for packet_id, code in zip(packet_ids, codes, strict=True):
        assert packet_id is not None
        bench.connection.data_received(mqtt5.PubAckPacket(packet_id, reason_code=code).write())
    assert bench.refused == [0x87]


@pytest.mark.parametrize("session_present", [True, False])
async def test_who_waits_for_an_acknowledgement_is_told_when_it_cannot_come(session_present: bool) -> None:
    first = Bench()
    told: list[int | None] = []
    first.connection.publish("t", b"1", on_puback=told.append)
    second = Bench(first.unacknowledged, subscribed=False, waiting=first.waiting)
    second.connection.data_received(mqtt5.ConnAckPacket(session_present=session_present).write())
    assert told == ([] if session_present else [None])
    second.connection.data_received(mqtt5.PubAckPacket(1).write())
    assert told == ([0] if session_present else [None])


async def test_only_the_broker_status_asks_for_what_is_retained() -> None:
    bench = Bench(subscribed=False)
    bench.connection.data_received(CONNACK)
    (subscribe,) = [packet for packet in bench.written() if isinstance(packet, mqtt5.SubscribePacket)]
    assert [int(each.retain_handling) for each in subscribe.topic_filters] == [2, 0]


class Timers:
    """Runs what a connection wants to do later when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting: list[tuple[Callable[..., None], tuple[object, ...]]] = []
        monkeypatch.setattr(asyncio.get_running_loop(), "call_later", self._later)

    def _later(self, _: float, callback: Callable[..., None], *arguments: object) -> asyncio.TimerHandle:
        self.waiting.append((callback, arguments))
        return cast("asyncio.TimerHandle", SimpleNamespace(cancel=lambda: None))

    def run(self) -> None:
        due, self.waiting = self.waiting, []
        for callback, arguments in due:
            callback(*arguments)


async def test_a_subscription_that_is_not_answered_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timers = Timers(monkeypatch)
    bench = Bench(subscribed=False)
    bench.connection.data_received(mqtt5.ConnAckPacket(session_present=True).write())
    for packet_id in range(1, 4):  # a resumed session brings its messages first, however long that takes
        bench.connection.data_received(publish(packet_id))
        timers.run()
        assert bench.connection.state is ConnectionState.SUBSCRIBING
    bench.connection.pause()
    timers.run()
    assert bench.connection.state is ConnectionState.SUBSCRIBING  # the silence is our own
    bench.connection.resume()
    bench.connection.data_received(mqtt5.PingRespPacket().write())  # says nothing about the subscription
    timers.run()
    assert "no answer to the subscription" in str(bench.error())


async def test_a_subscription_that_is_answered_is_no_longer_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timers = Timers(monkeypatch)
    bench = Bench()
    for _ in range(3):
        timers.run()
    assert bench.connection.state is ConnectionState.READY


async def test_leaving_unsubscribes_from_both() -> None:
    bench = Bench(subscribed=False, leaving=True)
    bench.written()
    bench.connection.data_received(CONNACK)
    (unsubscribe,) = [packet for packet in bench.written() if isinstance(packet, mqtt5.UnsubscribePacket)]
    assert unsubscribe.patterns == ["$share/g/t/+", "$SYS/+"]
    gone = [mqtt5.UnsubAckReasonCode.SUCCESS, mqtt5.UnsubAckReasonCode.NO_SUBSCRIPTION_EXISTED]
    bench.connection.data_received(mqtt5.UnsubAckPacket(65_535, gone).write())
    assert bench.connection.state is ConnectionState.READY


RESUMED = mqtt5.ConnAckPacket(session_present=True).write()


async def test_a_resumed_session_is_rid_of_former_subscriptions_once_it_has_the_new_ones() -> None:
    bench = Bench(subscribed=False, former_filters=["$share/g/t"])
    bench.connection.data_received(RESUMED)
    assert isinstance(bench.written()[-1], mqtt5.SubscribePacket)
    bench.connection.data_received(SUBACK)
    assert bench.connection.state is ConnectionState.READY
    (unsubscribe,) = bench.written()
    assert isinstance(unsubscribe, mqtt5.UnsubscribePacket)
    assert unsubscribe.patterns == ["$share/g/t"]
    for code, warnings in (
        (mqtt5.UnsubAckReasonCode.SUCCESS, 0),
        (mqtt5.UnsubAckReasonCode.NO_SUBSCRIPTION_EXISTED, 0),
        (mqtt5.UnsubAckReasonCode.NOT_AUTHORIZED, 1),
    ):
        with structlog.testing.capture_logs() as logs:
            bench.connection.data_received(mqtt5.UnsubAckPacket(unsubscribe.packet_id, [code]).write())
        assert len(logs) == warnings
    assert bench.connection.state is ConnectionState.READY


async def test_a_new_session_has_no_former_subscriptions() -> None:
    bench = Bench(subscribed=False, former_filters=["$share/g/t"])
    bench.connection.data_received(CONNACK)
    bench.written()
    bench.connection.data_received(SUBACK)
    assert bench.written() == []


async def test_leaving_unsubscribes_from_former_filters_too() -> None:
    bench = Bench(subscribed=False, leaving=True, former_filters=["$share/g/t"])
    bench.connection.data_received(RESUMED)
    (unsubscribe,) = [packet for packet in bench.written() if isinstance(packet, mqtt5.UnsubscribePacket)]
    assert unsubscribe.patterns == ["$share/g/t/+", "$SYS/+", "$share/g/t"]


@pytest.mark.parametrize("waited_for", ["accepted", "ready", "closed"])
async def test_who_no_longer_waits_is_not_missed(waited_for: str) -> None:
    """A task that is cancelled cancels the future that it awaits."""
    bench = Bench(subscribed=False)
    getattr(bench.connection, waited_for).cancel()
    bench.connection.data_received(CONNACK + SUBACK)
    bench.connection.disconnect()
    assert bench.transport.closed
    assert isinstance(bench.written()[-1], mqtt5.DisconnectPacket)


async def test_a_session_taken_over_is_told_apart() -> None:
    bench = Bench()
    bench.connection.data_received(
        mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER).write()
    )
    assert isinstance(bench.error(), SessionTakenOver)
    assert "bridge-0" in str(bench.error())


async def test_acknowledgements_are_one_write_in_the_given_order() -> None:
    bench = Bench()
    assert bench.connection.acknowledge([5, 3, 65_535, 4])
    acknowledged = bench.written()
    assert all(isinstance(packet, mqtt5.PubAckPacket) for packet in acknowledged)
    assert [cast("mqtt5.PubAckPacket", packet).packet_id for packet in acknowledged] == [5, 3, 65_535, 4]


async def test_what_a_batch_has_to_say_is_one_write() -> None:
    bench = Bench()
    before = bench.transport.writes
    for number in range(100):
        bench.connection.publish(f"t/{number}", b"receipt")
    bench.connection.acknowledge(range(1, 101))
    assert bench.transport.writes == before
    await asyncio.sleep(0)
    assert bench.transport.writes == before + 1
    assert len(bench.written()) == 200


async def test_a_closed_connection_acknowledges_nothing() -> None:
    bench = Bench()
    bench.connection.connection_lost(None)
    assert not bench.connection.acknowledge([1])
    bench.connection.publish("r", b"x", correlation_data=None, expiry_s=1)
    assert bench.written() == []


async def test_publishing_keeps_within_the_brokers_receive_maximum() -> None:
    bench = Bench()
    for _ in range(3):
        bench.connection.publish("r", b"x", correlation_data=b"c", expiry_s=9)
    sent = [cast("mqtt5.PublishPacket", packet) for packet in bench.written()]
    assert [(int(packet.qos), packet.packet_id) for packet in sent] == [(1, 1), (1, 2), (0, None)]
    assert {(packet.correlation_data, packet.message_expiry_interval) for packet in sent} == {(b"c", 9)}
    assert bench.connection.published_at_qos_0 == 1
    bench.connection.data_received(mqtt5.PubAckPacket(1).write())
    bench.connection.data_received(mqtt5.PubAckPacket(1).write())  # a second one frees nothing
    for _ in range(2):
        bench.connection.publish("r", b"x", correlation_data=None, expiry_s=9)
    sent = [cast("mqtt5.PublishPacket", packet) for packet in bench.written()]
    assert [(int(packet.qos), packet.packet_id) for packet in sent] == [(1, 3), (0, None)]


@pytest.mark.parametrize("session_present", [True, False])
async def test_what_was_not_acknowledged_is_sent_again_to_a_broker_that_knows_us(
    session_present: bool,
) -> None:
    first = Bench()
    first.connection.publish("r", b"x", correlation_data=None, expiry_s=9)
    second = Bench(first.unacknowledged, subscribed=False)
    second.written()
    second.connection.data_received(
        mqtt5.ConnAckPacket(session_present=session_present, receive_max=1).write()
    )
    again = [packet for packet in second.written() if isinstance(packet, mqtt5.PublishPacket)]
    assert [(packet.packet_id, packet.duplicate) for packet in again] == (
        [(1, True)] if session_present else []
    )
    second.connection.data_received(SUBACK)
    second.connection.publish("r", b"y", correlation_data=None, expiry_s=9)
    (fresh,) = [packet for packet in second.written() if isinstance(packet, mqtt5.PublishPacket)]
    assert (int(fresh.qos), fresh.packet_id) == ((0, None) if session_present else (1, 1))


async def test_nothing_is_handed_out_while_paused() -> None:
    bench = Bench()
    bench.connection.pause()
    assert not bench.transport.reading
    bench.connection.data_received(publish(1) + publish(2))
    assert bench.received == []
    bench.connection.resume()
    assert bench.transport.reading
    await asyncio.sleep(0)
    assert [message.packet_id for message in bench.received] == [1, 2]


async def test_pausing_takes_effect_between_two_packets_of_one_read() -> None:
    bench = Bench()
    received: list[int | None] = []

    def one_only(message: Message) -> None:
        received.append(message.packet_id)
        bench.connection.pause()

    bench.connection._on_message = one_only
    bench.connection.data_received(b"".join(publish(number) for number in (1, 2, 3)))
    assert received == [1]
    bench.connection.resume()
    await asyncio.sleep(0)
    assert received == [1, 2]


async def test_nothing_is_read_while_the_broker_does_not_read() -> None:
    bench = Bench()
    bench.connection.pause_writing()
    assert not bench.transport.reading
    bench.connection.pause()
    bench.connection.resume_writing()
    assert not bench.transport.reading
    bench.connection.resume()
    assert bench.transport.reading


@pytest.mark.parametrize(
    "packet", EVERY_KIND, ids=lambda packet: type(mqtt5.read(memoryview(packet))[0]).__name__
)
async def test_a_packet_may_come_in_any_two_parts(packet: bytes) -> None:
    """Every truncation of every packet kind waits for its rest, and then means the same."""

    def outcome(*parts: bytes) -> tuple[object, ...]:
        bench = Bench(subscribed=packet not in {CONNACK, SUBACK})
        if packet == SUBACK:
            bench.connection.data_received(CONNACK)
        for part in parts:
            bench.connection.data_received(part)
        error = bench.connection.closed.exception() if bench.connection.closed.done() else None
        received = bench.received + bench.told
        messages = [(message.payload, message.correlation_data) for message in received]
        return bench.connection.state, messages, str(error)

    whole = outcome(packet)
    assert whole != outcome() or packet in {EVERY_KIND[4], mqtt5.PingRespPacket().write()}
    for cut in range(1, len(packet)):
        assert outcome(packet[:cut]) == outcome()
        assert outcome(packet[:cut], packet[cut:]) == whole


@pytest.mark.parametrize("packet", [packet for packet in EVERY_KIND if packet != EVERY_KIND[4]])
async def test_nothing_but_a_connack_may_come_first(packet: bytes) -> None:
    bench = Bench(subscribed=False)
    bench.connection.data_received(packet)
    if packet == CONNACK:
        assert bench.connection.state is ConnectionState.SUBSCRIBING
    elif packet != mqtt5.PingRespPacket().write():
        assert isinstance(bench.error(), PiSyncError)
        assert bench.received == []


MALFORMED = [
    b"\x00\x00",
    b"\x32\xff\xff\xff\xff\x7f",
    b"\x36\x05abcde",
    b"\x30\x05\x00\x02\xff\xfe\x00",  # a topic that is not UTF-8: the codec panics
    bytes([publish(1)[0] | 0x06]) + publish(1)[1:],
    mqtt5.PublishPacket("t", b"", qos=mqtt5.QoS.EXACTLY_ONCE, packet_id=1).write(),
    mqtt5.PublishPacket("", b"", topic_alias=1).write(),
    b"\x30\xff\xff\xff\x7f" + b"x" * (limits.BRIDGE_PACKET_BYTES_MAX + 1),
]


# The codec's panic leaves a second, unraisable exception behind, which pytest would take for a leak of ours.
codec_panics = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@codec_panics
@pytest.mark.parametrize("data", MALFORMED, ids=range(len(MALFORMED)))
async def test_malformed_bytes_end_the_connection(data: bytes) -> None:
    bench = Bench()
    bench.connection.data_received(publish(1) + data + publish(2))
    assert isinstance(bench.error(), ProtocolError)
    assert [message.packet_id for message in bench.received] == [1]
    bench.connection.data_received(publish(3))
    assert len(bench.received) == 1


@codec_panics
@settings(deadline=None)
@given(
    st.lists(st.sampled_from(EVERY_KIND) | st.binary(max_size=40), max_size=8),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4),
    st.lists(st.integers(1, 400), max_size=6),
)
async def test_any_bytes_in_any_parts_end_in_a_known_state(
    packets: list[bytes], flips: list[tuple[int, int]], sizes: list[int]
) -> None:
    stream = bytearray(CONNACK + SUBACK + b"".join(packets))
    for place, value in flips:
        stream[place % len(stream)] = value
    bench = Bench(subscribed=False)
    rest = bytes(stream)
    for size in sizes:
        bench.connection.data_received(rest[:size])
        rest = rest[size:]
    bench.connection.data_received(rest)
    if bench.connection.state is ConnectionState.CLOSED:
        assert isinstance(bench.connection.closed.exception(), PiSyncError)
    bench.connection.disconnect()
    assert bench.transport.closed


async def test_a_silent_broker_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now + 2 * limits.KEEP_ALIVE_S + 1)
    bench.connection._keep_alive()
    assert isinstance(bench.error(), BrokerUnavailable)
    assert "silent" in str(bench.error())


async def test_a_broker_we_do_not_read_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    bench.connection.pause()
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now + 100 * limits.KEEP_ALIVE_S)
    bench.connection._keep_alive()
    assert [type(packet) for packet in bench.written()] == [mqtt5.PingReqPacket]
    bench.connection.resume()
    bench.connection._keep_alive()
    assert bench.connection.state is ConnectionState.READY


async def test_goodbye_keeps_the_session() -> None:
    bench = Bench()
    bench.connection.disconnect()
    (packet,) = bench.written()
    assert isinstance(packet, mqtt5.DisconnectPacket)
    assert int(packet.reason_code) == 0
    assert packet.session_expiry_interval is None
    assert bench.connection.closed.result() is None
