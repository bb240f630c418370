"""The client against a scripted broker: hooks, requests, and what outlives a connection."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import mqtt5
import pytest

from pisync import limits, tasks
from pisync.errors import (
    BrokerHungUp,
    BrokerUnavailable,
    ConfigurationError,
    PiSyncError,
    PublishRefused,
    ReplyLost,
    SessionTakenOver,
)
from pisync.mqtt.client import Client
from pisync.mqtt.messages import Message, Subscription
from tests.support.fake_broker import FakeBroker, fake_broker
from tests.support.waiting import TIMEOUT_S, until

REPLIES = "replies/1"


@pytest.fixture
async def broker() -> AsyncIterator[FakeBroker]:
    async with fake_broker() as one:
        yield one


class Ups:
    """A hook that remembers, and can be waited for."""

    def __init__(self) -> None:
        self.sessions: list[bool] = []
        self._came = asyncio.Event()

    def __call__(self, session_present: bool) -> None:
        self.sessions.append(session_present)
        self._came.set()

    async def times(self, count: int) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while len(self.sessions) < count:
                self._came.clear()
                await self._came.wait()


class Running:
    """A client, its task and what its hooks were told."""

    def __init__(self, broker: FakeBroker, **options: Any) -> None:
        self.ups = Ups()
        self.downs: list[PiSyncError] = []
        self.client = Client(
            **{
                "address": broker.address,
                "ca_file": None,
                "client_id": "client-1",
                "on_up": self.ups,
                "on_down": self._note,
                **options,
            }
        )
        self.task = asyncio.create_task(self.client.run())

    async def _note(self, error: PiSyncError) -> None:
        self.downs.append(error)


@asynccontextmanager
async def running(broker: FakeBroker, **options: Any) -> AsyncIterator[Running]:
    """A client that is up."""
    run = Running(broker, **options)
    try:
        await run.ups.times(1)
        yield run
    finally:
        await tasks.cancel([run.task])


def requesting(broker: FakeBroker) -> Any:
    return running(broker, reply_topic=REPLIES)


def persistent(broker: FakeBroker, **options: Any) -> Any:
    subscription = Subscription("t/+", 1, lambda _: None)
    return running(broker, **{"session_expiry_s": 60, "subscriptions": [subscription], **options})


def reply(payload: bytes, correlation_data: bytes | None) -> bytes:
    return mqtt5.PublishPacket(REPLIES, payload, correlation_data=correlation_data).write()


def puback(publish: mqtt5.PublishPacket, code: int = 0) -> bytes:
    assert publish.packet_id is not None
    return mqtt5.PubAckPacket(publish.packet_id, reason_code=mqtt5.PubAckReasonCode(code)).write()


def echo(publish: mqtt5.PublishPacket) -> Sequence[bytes]:
    """A reply with the request's payload behind its PUBACK."""
    return [puback(publish), reply(publish.payload, publish.correlation_data)]


# Connections


async def test_without_a_session_it_starts_clean_and_subscribes(broker: FakeBroker) -> None:
    async with requesting(broker) as run:
        connect, subscribe = await broker.has(mqtt5.ConnectPacket), await broker.has(mqtt5.SubscribePacket)
        assert (connect.client_id, connect.clean_start) == ("client-1", True)
        assert connect.session_expiry_interval == 0
        assert [(one.pattern, int(one.max_qos)) for one in subscribe.topic_filters] == [(REPLIES, 0)]
        assert run.client.is_ready


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux has the option")
async def test_a_machine_that_is_gone_ends_the_connection_sooner_than_its_silence(broker: FakeBroker) -> None:
    async with requesting(broker) as run:
        connection = run.client._connection
        assert connection is not None
        assert connection._transport is not None
        line = connection._transport.get_extra_info("socket")
        waits_ms = line.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert 0 < waits_ms == limits.LINE_SILENCE_S * 1000 < limits.KEEP_ALIVE_S * 1000


async def test_a_session_is_kept_across_connections(broker: FakeBroker) -> None:
    async with persistent(broker) as run:
        connect = await broker.has(mqtt5.ConnectPacket)
        assert (connect.clean_start, connect.session_expiry_interval) == (False, 60)
        assert connect.receive_max == limits.RECEIVE_MAXIMUM
        broker.session_present = True
        broker.drop()
        await run.ups.times(2)
        assert run.ups.sessions == [False, True]
        assert [type(error) for error in run.downs] == [BrokerHungUp]


async def test_a_session_lost_on_a_connection_that_was_never_up_is_told(broker: FakeBroker) -> None:
    """The broker makes a new session at that connection's CONNECT, and has it at the next one."""
    broker.session_present = True
    async with persistent(broker) as run:
        broker.session_present, broker.grants = False, False
        broker.drop()
        await broker.has(mqtt5.SubscribePacket, 2)
        broker.session_present, broker.grants = True, True
        broker.drop()
        await run.ups.times(2)
        broker.drop()
        await run.ups.times(3)
        assert run.ups.sessions == [True, False, True]


async def test_credentials_are_sent(broker: FakeBroker) -> None:
    broker.address.username, broker.address.password = "ann", "s:ecret"
    async with requesting(broker):
        connect = await broker.has(mqtt5.ConnectPacket)
        assert (connect.username, connect.password) == ("ann", b"s:ecret")


async def test_a_refusal_from_the_start_ends_it(broker: FakeBroker) -> None:
    broker.refusal = mqtt5.ConnAckReasonCode.NOT_AUTHORIZED
    run = Running(broker, reply_topic=REPLIES)
    with pytest.raises(ConfigurationError):
        await asyncio.wait_for(run.task, TIMEOUT_S)
    assert not run.client.was_ready
    with pytest.raises(BrokerUnavailable, match="does not let us in"):  # of several brokers others go on
        run.client.check_ready()


async def test_a_refusal_after_it_was_up_is_waited_out(broker: FakeBroker) -> None:
    async with requesting(broker) as run:
        broker.refusal = mqtt5.ConnAckReasonCode.NOT_AUTHORIZED
        broker.drop()
        await broker.has(mqtt5.ConnectPacket, 3)
        broker.refusal = None
        await run.ups.times(2)
        assert ConfigurationError in {type(error) for error in run.downs}


async def test_a_subscription_that_is_not_answered_ends_the_connection(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CONNECT_TIMEOUT_S", 0.05)
    broker.grants = False
    run = Running(broker, reply_topic=REPLIES)
    await broker.has(mqtt5.ConnectPacket, 2)
    assert "no answer to the subscription" in str(run.downs[0])
    await tasks.cancel([run.task])


async def test_what_a_hook_raises_ends_it(broker: FakeBroker) -> None:
    async def stop(error: PiSyncError) -> None:
        raise SessionTakenOver(str(error))

    async with running(broker, reply_topic=REPLIES, on_down=stop) as run:
        broker.drop()
        with pytest.raises(SessionTakenOver, match="closed the connection"):
            await asyncio.wait_for(run.task, TIMEOUT_S)


async def test_ending_the_session_ends_it(broker: FakeBroker) -> None:
    async with persistent(broker) as run:
        run.client.end_session()
        await asyncio.wait_for(run.task, TIMEOUT_S)
        disconnect = await broker.has(mqtt5.DisconnectPacket)
        assert disconnect.session_expiry_interval == 0
        assert not run.client.is_ready


async def test_leaving_unsubscribes(broker: FakeBroker) -> None:
    run = Running(
        broker, leaving=True, session_expiry_s=60, subscriptions=[Subscription("t/+", 1, lambda _: None)]
    )
    unsubscribe = await broker.has(mqtt5.UnsubscribePacket)
    assert unsubscribe.patterns == ["t/+"]
    assert broker.all(mqtt5.SubscribePacket) == []
    await tasks.cancel([run.task])


# Messages


async def test_a_message_goes_to_the_handler_of_its_filter_on_every_connection(broker: FakeBroker) -> None:
    queue: asyncio.Queue[tuple[str, Message]] = asyncio.Queue()

    def into(name: str) -> Callable[[Message], None]:
        return lambda message: queue.put_nowait((name, message))

    subscriptions = [
        Subscription("$share/g/devices/+/sync", 1, into("sync")),
        Subscription("devices/+/status", 1, into("status")),
        Subscription("$SYS/#", 0, into("broker")),
    ]
    at_qos_1 = {"devices/1/sync": "sync", "devices/1/status": "status"}
    at_qos_0 = {"$SYS/uptime": "broker", "devices/2/status": "status", "devices/2/sync": "sync"}
    async with running(broker, session_expiry_s=60, subscriptions=subscriptions) as run:
        for connection in (1, 2):
            await run.ups.times(connection)
            for number, topic in enumerate(at_qos_1, 1):
                qos = mqtt5.QoS.AT_LEAST_ONCE
                broker.send(mqtt5.PublishPacket(topic, b"", qos=qos, packet_id=number).write())
            for topic in at_qos_0:
                broker.send(mqtt5.PublishPacket(topic, b"").write())
            for topic, name in (at_qos_1 | at_qos_0).items():
                handler, message = await asyncio.wait_for(queue.get(), TIMEOUT_S)
                assert (handler, message.topic) == (name, topic)
                if message.packet_id is not None:
                    message.connection.acknowledge([message.packet_id])
            await broker.has(mqtt5.PubAckPacket, 2 * connection)
            broker.drop()


async def test_nothing_is_taken_in_while_paused(broker: FakeBroker) -> None:
    queue: asyncio.Queue[Message] = asyncio.Queue()
    async with persistent(broker, subscriptions=[Subscription("t/+", 1, queue.put_nowait)]) as run:
        run.client.pause()
        broker.send(mqtt5.PublishPacket("t/1", b"1").write())
        run.client.publish("marker", b"")
        await broker.has(mqtt5.PublishPacket)  # the message was sent before
        assert queue.empty()
        run.client.resume()
        assert (await asyncio.wait_for(queue.get(), TIMEOUT_S)).payload == b"1"


async def test_a_paused_client_connects_again_when_it_is_resumed(broker: FakeBroker) -> None:
    async with persistent(broker) as run:
        run.client.pause()
        broker.drop()
        async with asyncio.timeout(TIMEOUT_S):
            while not run.downs:
                run.client.publish("t", b"")  # a socket that is not read is known to be closed by a write
                await asyncio.sleep(0)
        await asyncio.sleep(0.05)  # many times the backoff
        assert len(broker.all(mqtt5.ConnectPacket)) == 1
        run.client.resume()
        await run.ups.times(2)


async def test_a_pause_that_comes_during_the_handshake_holds_for_the_new_connection(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue: asyncio.Queue[Message] = asyncio.Queue()
    subscriptions = [Subscription("t/+", 1, queue.put_nowait)]
    run = Running(broker, session_expiry_s=60, subscriptions=subscriptions)
    answer = broker._answer

    def pause_at_connect(packet: mqtt5.Packet) -> None:
        if isinstance(packet, mqtt5.ConnectPacket):
            run.client.pause()
        answer(packet)
        if isinstance(packet, mqtt5.SubscribePacket):
            broker.send(mqtt5.PublishPacket("t/1", b"1").write())

    monkeypatch.setattr(broker, "_answer", pause_at_connect)
    await broker.has(mqtt5.SubscribePacket)
    run.client.publish("marker", b"")
    await broker.has(mqtt5.PublishPacket)
    assert queue.empty()
    run.client.resume()
    assert (await asyncio.wait_for(queue.get(), TIMEOUT_S)).payload == b"1"
    await tasks.cancel([run.task])


# Publishes


async def test_it_publishes_over_whichever_connection_there_is(broker: FakeBroker) -> None:
    client = Client(address=broker.address, ca_file=None, client_id="x", reply_topic=REPLIES)
    client.publish("t", b"nobody is there")
    async with persistent(broker) as run:
        run.client.publish("t", b"1", retain=True, expiry_s=9)
        sent = await broker.has(mqtt5.PublishPacket)
        assert (sent.topic, sent.payload, sent.retain) == ("t", b"1", True)
        assert sent.message_expiry_interval == 9
        assert run.client.published_at_qos_0 == 0


@pytest.mark.parametrize("session_present", [True, False])
async def test_what_was_not_acknowledged_is_sent_again_in_a_resumed_session(
    broker: FakeBroker, session_present: bool
) -> None:
    broker.on_publish = lambda _: []
    async with persistent(broker) as run:
        run.client.publish("t", b"1")
        await broker.has(mqtt5.PublishPacket)
        broker.session_present = session_present
        broker.drop()
        await run.ups.times(2)
        run.client.publish("t", b"2")
        await broker.has(mqtt5.PublishPacket, 3 if session_present else 2)
        sent = [(publish.payload, publish.duplicate) for publish in broker.all(mqtt5.PublishPacket)]
        again = [(b"1", True)] if session_present else []
        assert sent == [(b"1", False), *again, (b"2", False)]


@pytest.mark.parametrize("code", [0x00, 0x10, 0x87])
async def test_an_acknowledgement_that_is_waited_for(broker: FakeBroker, code: int) -> None:
    broker.on_publish = lambda publish: [puback(publish, code)]
    async with persistent(broker) as run:
        if code == 0x87:
            with pytest.raises(PublishRefused, match="0x87"):
                await run.client.publish_acknowledged("t", b"1", retain=True)
        else:  # nobody has subscribed, and yet it is retained
            await run.client.publish_acknowledged("t", b"1", retain=True)


async def test_an_acknowledgement_that_does_not_come(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.on_publish = lambda _: []
    async with persistent(broker) as run:
        waiting = asyncio.create_task(run.client.publish_acknowledged("t", b"1"))
        await broker.has(mqtt5.PublishPacket)
        broker.drop()  # and with it the session
        with pytest.raises(BrokerUnavailable, match="lost the session"):
            await waiting
        await run.ups.times(2)
        monkeypatch.setattr(limits, "ALERTS_PUBACK_TIMEOUT_S", 0.01)
        with pytest.raises(BrokerUnavailable, match="in time"):
            await run.client.publish_acknowledged("t", b"1")


async def test_a_broker_that_hangs_is_waited_for_once_and_taken_up_when_it_answers(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each message that its connection still takes would hold up what is for other brokers, too."""
    broker.on_publish = lambda _: []
    monkeypatch.setattr(limits, "ALERTS_PUBACK_TIMEOUT_S", 0.01)
    async with persistent(broker) as run:
        quota = run.client.send_quota
        with pytest.raises(BrokerUnavailable, match="in time"):
            await run.client.publish_acknowledged("t", b"1")
        monkeypatch.setattr(limits, "ALERTS_PUBACK_TIMEOUT_S", TIMEOUT_S)
        with pytest.raises(BrokerUnavailable, match="takes no more"):
            await run.client.publish_acknowledged("t", b"2")
        hanging = await broker.has(mqtt5.PublishPacket)
        assert len(broker.all(mqtt5.PublishPacket)) == 1
        broker.on_publish = lambda publish: [puback(publish)]
        broker.send(puback(hanging))
        await until(lambda: run.client.send_quota == quota)
        await run.client.publish_acknowledged("t", b"3")


async def test_without_subscriptions_it_is_ready_and_sends_requests_whose_replies_go_elsewhere(
    broker: FakeBroker,
) -> None:
    async with running(broker) as run:
        await run.client.publish_acknowledged(
            "t", b"1", response_topic="elsewhere", correlation_data=b"7", expiry_s=60
        )
        [sent] = broker.all(mqtt5.PublishPacket)
        assert (sent.response_topic, sent.correlation_data, sent.message_expiry_interval) == (
            "elsewhere",
            b"7",
            60,
        )
        assert broker.all(mqtt5.SubscribePacket) == []


async def test_a_barrier_is_passed_when_all_before_it_is_handled(broker: FakeBroker) -> None:
    received: list[Message] = []
    async with persistent(broker, subscriptions=[Subscription("t", 0, received.append)]) as run:
        pings = len(broker.all(mqtt5.PingReqPacket))  # those of the keep-alive
        passed = asyncio.create_task(run.client.barrier())
        await broker.has(mqtt5.PingReqPacket, pings + 1)
        answers = [mqtt5.PingRespPacket().write()] * pings
        broker.send(*answers, mqtt5.PublishPacket("t", b"1").write())
        await until(lambda: received)
        assert not passed.done()
        broker.send(mqtt5.PingRespPacket().write())
        await asyncio.wait_for(passed, TIMEOUT_S)
        lost = asyncio.create_task(run.client.barrier())
        await broker.has(mqtt5.PingReqPacket, pings + 2)
        broker.drop()
        with pytest.raises(BrokerUnavailable):
            await lost


async def test_a_broker_that_is_silent_is_not_taken_for_one_that_is_there(broker: FakeBroker) -> None:
    async with persistent(broker) as run:
        pings = len(broker.all(mqtt5.PingReqPacket))  # those of the keep-alive
        for _ in range(3):
            with pytest.raises(BrokerUnavailable, match=r"does not answer; it said nothing for \d+ s"):
                await run.client.ping(0.01)
        run.client.check_ready()  # which is all that the connection says
        # However many ask, one question is on its way.
        asking = [asyncio.create_task(run.client.ping()) for _ in range(3)]
        await asyncio.sleep(0)
        assert len(broker.all(mqtt5.PingReqPacket)) == pings + 1
        broker.send(*[mqtt5.PingRespPacket().write()] * (pings + 1))
        await asyncio.wait_for(asyncio.gather(*asking), TIMEOUT_S)
        lost = asyncio.create_task(run.client.ping())
        await broker.has(mqtt5.PingReqPacket, pings + 2)
        broker.drop()
        with pytest.raises(BrokerUnavailable):
            await lost


# Requests


async def test_a_request_gets_its_own_reply(broker: FakeBroker) -> None:
    held: list[mqtt5.PublishPacket] = []

    def in_reverse(publish: mqtt5.PublishPacket) -> Sequence[bytes]:
        held.append(publish)
        return [packet for one in reversed(held) for packet in echo(one)] if len(held) == 3 else []

    broker.on_publish = in_reverse
    async with requesting(broker) as run:
        found = await asyncio.gather(*(run.client.request("t", b"%d" % n) for n in range(3)))
    assert found == [b"0", b"1", b"2"]
    assert {publish.response_topic for publish in held} == {REPLIES}
    assert len({publish.correlation_data for publish in held}) == 3


@pytest.mark.parametrize("code", [0x10, 0x87])
async def test_a_request_that_the_broker_refuses_fails_with_the_reason_code(
    broker: FakeBroker, code: int
) -> None:
    broker.on_publish = lambda publish: [puback(publish, code)]
    async with requesting(broker) as run:
        with pytest.raises(PublishRefused) as refused:
            await asyncio.wait_for(run.client.request("t", b"1"), TIMEOUT_S)
        assert refused.value.reason_code == code
        broker.on_publish = echo
        assert await run.client.request("t", b"2") == b"2"


async def test_a_reply_that_nobody_waits_for_is_ignored(broker: FakeBroker) -> None:
    broker.on_publish = lambda publish: [
        puback(publish),
        reply(b"forged", b"sixteen bytes..."),
        reply(b"forged", None),
        reply(b"right", publish.correlation_data),
        reply(b"late", publish.correlation_data),
    ]
    async with requesting(broker) as run:
        for _ in range(2):
            assert await run.client.request("t", b"1") == b"right"
        assert run.downs == []


async def test_a_lost_connection_fails_all_that_wait(broker: FakeBroker) -> None:
    broker.on_publish = lambda publish: [puback(publish)] if publish.payload == b"0" else []
    async with requesting(broker) as run:
        waiting = [asyncio.create_task(run.client.request("t", b"%d" % n)) for n in range(3)]
        await broker.has(mqtt5.PublishPacket, 3)
        broker.drop()
        for request in waiting:
            with pytest.raises(ReplyLost):
                await asyncio.wait_for(request, TIMEOUT_S)
        broker.on_publish = echo
        await run.ups.times(2)
        assert await run.client.request("t", b"5") == b"5"


async def test_the_caller_sets_the_time_and_nothing_is_left_of_a_request_given_up(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "WAITING_MAX", 1)
    broker.on_publish = lambda publish: [puback(publish)]
    async with requesting(broker) as run:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(run.client.request("t", b"1"), 0.02)
        broker.on_publish = echo
        assert await run.client.request("t", b"2") == b"2"


async def test_the_number_of_waiting_requests_is_bounded(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "WAITING_MAX", 2)
    broker.on_publish = lambda publish: [puback(publish)]
    async with requesting(broker) as run:
        waiting = [asyncio.create_task(run.client.request("t", b"1")) for _ in range(2)]
        await broker.has(mqtt5.PublishPacket, 2)
        with pytest.raises(BrokerUnavailable, match="2 requests are waiting"):
            await run.client.request("t", b"1")
        assert len(broker.all(mqtt5.PublishPacket)) == 2
        await tasks.cancel(waiting)


async def test_what_the_broker_does_not_take_in_is_bounded(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "UNSENT_BYTES_MAX", 1000)
    async with requesting(broker) as run:
        run.client.publish("t", b"1" * 2000)  # it leaves with the event loop's next step
        with pytest.raises(BrokerUnavailable, match="does not take in"):
            await run.client.request("t", b"1")


async def test_without_a_connection_a_request_says_why(broker: FakeBroker) -> None:
    client = Client(address=broker.address, ca_file=None, client_id="x", reply_topic=REPLIES)
    for attempt in (client.request("t", b""), _checked(client)):
        with pytest.raises(BrokerUnavailable, match="not connected yet"):
            await attempt
    async with requesting(broker) as run:
        run.client.check_ready()
        broker.refusal = mqtt5.ConnAckReasonCode.SERVER_BUSY
        broker.drop()
        await broker.has(mqtt5.ConnectPacket, 3)
        with pytest.raises(BrokerUnavailable, match="SERVER_BUSY"):
            await run.client.request("t", b"")


async def _checked(client: Client) -> None:
    client.check_ready()


async def test_a_client_without_a_reply_topic_makes_no_requests(broker: FakeBroker) -> None:
    async with persistent(broker) as run:
        with pytest.raises(RuntimeError):
            await run.client.request("t", b"")
