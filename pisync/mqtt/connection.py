"""One MQTT 5 network connection: bytes in, messages out, acknowledgements back.

The packets come from the `mqtt5` codec. A connection lives from TCP connect to close; `pisync/mqtt/client.py`
makes one after another. When a message is acknowledged, and in which order, is its handler's concern.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence
from enum import Enum, auto
from typing import Final, cast

import mqtt5

from pisync import limits, logs
from pisync.errors import (
    BrokerHungUp,
    BrokerUnavailable,
    ConfigurationError,
    PiSyncError,
    ProtocolError,
    SessionTakenOver,
)
from pisync.mqtt.messages import Message, Subscription, dispatcher

log = logs.get(__name__)

# CONNACK reason codes that only a person can mend; the others may pass. The codec's reason codes have
# no hash and no order, whatever its type stubs say, so they are taken as the integers they stand for.
_REFUSALS: Final = {
    0x84: "the broker does not speak MQTT 5",
    0x85: "the broker does not accept our client id (a bridge's is @ and PISYNC_BRIDGE_ID)",
    0x86: "the user name or password in PISYNC_MQTT_URL is wrong",
    0x87: "the broker does not let us in (credentials in PISYNC_MQTT_URL?)",
    0x8A: "the broker has banned this client",
    0x8C: "the broker wants another authentication method",
}
FAILURE: Final = 0x80  # reason codes from here on are failures (MQTT 5, 2.4)
_PACKET_ID_MAX: Final = 65_535
_QOS_2: Final = mqtt5.QoS.EXACTLY_ONCE
_RETAINED: Final = {True: mqtt5.RetainHandling.SEND_ALWAYS, False: mqtt5.RetainHandling.SEND_NEVER}
_TAKEN: Final = mqtt5.PubAckReasonCode.SUCCESS
_PINGRESP_BYTES: Final = 2
_QOS: Final = (mqtt5.QoS.AT_MOST_ONCE, mqtt5.QoS.AT_LEAST_ONCE)


OnPuback = Callable[[int | None], None]
"""Told the reason code of a PUBACK; None: the session that would have brought it is lost."""


class ConnectionState(Enum):
    """Where a connection stands."""

    CONNECTING = auto()  # CONNECT sent, CONNACK awaited
    SUBSCRIBING = auto()  # (UN)SUBSCRIBE sent, its ACK awaited; a resumed session already sends messages
    READY = auto()
    CLOSED = auto()


class Connection(asyncio.Protocol):
    """Speaks MQTT 5 over one transport.

    `accepted` resolves to whether the broker resumed our session; `ready` when we are subscribed; `closed`
    when the connection is over. Each fails with the `PiSyncError` that ended it.
    """

    def __init__(
        self,
        *,
        connect: mqtt5.ConnectPacket,
        subscriptions: Sequence[Subscription],
        leaving: bool = False,
        former_filters: Sequence[str] = (),
        on_refused: Callable[[int], None] | None = None,
        unacknowledged: dict[int, bytes] | None = None,
        waiting: dict[int, OnPuback] | None = None,
    ) -> None:
        """Prepare; asyncio's `create_connection` brings the transport.

        Args:
            connect: the CONNECT packet.
            subscriptions: what to subscribe to; without the required ones the connection ends.
            leaving: unsubscribe from them instead.
            former_filters: what to unsubscribe from where the session is resumed, once we are subscribed.
            on_refused: called with the reason code of a PUBACK that is no success, where `publish` was not
                told whom else to tell.
            unacknowledged: our own publishes by packet id that the broker has not acknowledged yet, handed
                from one connection to the next of a session. None: nothing is sent again.
            waiting: whom to tell of the PUBACKs of some of them, handed on with them.
        """
        loop = asyncio.get_running_loop()
        self._loop = loop
        self.accepted: asyncio.Future[bool] = loop.create_future()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        for future in (self.accepted, self.ready, self.closed):
            # A task that awaits one of them need not look at the others.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.state = ConnectionState.CONNECTING
        self._connect = connect
        self._subscriptions = subscriptions
        self._leaving = leaving
        self._former_filters = former_filters
        # At QoS 1 come only the messages of subscriptions that ask for it [MQTT-3.8.4-8].
        self._on_message = dispatcher([one for one in subscriptions if one.qos] or subscriptions)
        self._on_message_at_qos_0 = dispatcher(subscriptions)
        self._on_refused = on_refused
        self._waiting = {} if waiting is None else waiting
        self._resends = unacknowledged is not None  # [MQTT-4.4.0-1]
        self._unacknowledged = {} if unacknowledged is None else unacknowledged
        self._next_packet_id = 1
        self._send_quota = 0
        self.published_at_qos_0 = 0
        self._buffer = bytearray()
        self._outgoing: list[bytes] = []
        self._reading = True
        self._writable = True
        self._transport: asyncio.Transport | None = None
        self._keep_alive_s: float = connect.keep_alive
        self._keep_alive_timer: asyncio.TimerHandle | None = None
        self._suback_timer: asyncio.TimerHandle | None = None
        self._heard_at = loop.time()
        self._heard_bytes = 0
        self._pongs = 0
        # The PINGREQs that are not answered yet, with who waits for that.
        self._pings: deque[asyncio.Future[None] | None] = deque()
        self._asked: asyncio.Future[None] | None = None

    # For the client and the handlers

    def acknowledge(self, packet_ids: Collection[int]) -> bool:
        """Send PUBACKs in this order, in one write; False on a closed connection: the broker redelivers."""
        if self._transport is None or self.state is ConnectionState.CLOSED:
            return False
        self._write(b"".join([_PUBACK + id_.to_bytes(2, "big") for id_ in packet_ids]))
        return True

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        correlation_data: bytes | None = None,
        expiry_s: int | None = None,
        retain: bool = False,
        response_topic: str | None = None,
        on_puback: OnPuback | None = None,
    ) -> int | None:
        """Send a message at QoS 1, or at QoS 0 where the broker's Receive Maximum is used up.

        It never waits: a wait here would hold back the acknowledgements that free the very quota.
        `on_puback` is not called for what is sent at QoS 0, or not at all.

        Returns:
            the packet id; None at QoS 0, and before CONNACK or after the end, when nothing is sent.
        """
        if self.state not in {ConnectionState.SUBSCRIBING, ConnectionState.READY}:
            return None
        packet_id = self._free_packet_id() if self._send_quota > 0 else None
        packet = mqtt5.PublishPacket(
            topic,
            payload,
            qos=mqtt5.QoS.AT_MOST_ONCE if packet_id is None else mqtt5.QoS.AT_LEAST_ONCE,
            packet_id=packet_id,
            retain=retain,
            response_topic=response_topic,
            correlation_data=correlation_data,
            message_expiry_interval=expiry_s,
        ).write()
        if packet_id is None:
            self.published_at_qos_0 += 1
        else:
            self._send_quota -= 1
            self._unacknowledged[packet_id] = packet if self._resends else b""
            if on_puback is not None:
                self._waiting[packet_id] = on_puback
        self._write(packet)
        return packet_id

    async def barrier(self) -> None:
        """Return when the broker has answered all that was sent so far, and we have handled the answers.

        It answers a PINGREQ behind what it sent before; what it would send later is not waited for.

        Raises:
            PiSyncError: the connection ended first.
        """
        answered: asyncio.Future[None] = self._loop.create_future()
        if self.state is ConnectionState.CLOSED:
            raise BrokerUnavailable("the connection is closed")
        self._ping(answered)
        await answered

    async def ping(self) -> None:
        """Return when the broker has answered; whoever asks meanwhile waits for the same answer.

        Raises:
            PiSyncError: the connection ended first.
        """
        if self.state is ConnectionState.CLOSED:
            raise BrokerUnavailable("the connection is closed")
        if self._asked is None or self._asked.done():
            self._asked = self._loop.create_future()
            self._ping(self._asked)
        await asyncio.shield(self._asked)

    @property
    def silent_s(self) -> float:
        """For how long nothing has come of the broker."""
        return self._loop.time() - self._heard_at

    @property
    def send_quota(self) -> int:
        """How many publishes the broker takes now at QoS 1."""
        return self._send_quota

    @property
    def unsent_bytes(self) -> int:
        """What the broker has not taken from us yet, as far as we can see."""
        sent = 0 if self._transport is None else self._transport.get_write_buffer_size()
        return sent + sum(map(len, self._outgoing))

    def pause(self) -> None:
        """Stop reading from the socket, and stop handing out what is already read."""
        self._reading = False
        self._apply_backpressure()

    def resume(self) -> None:
        """Read on."""
        self._reading = True
        self._apply_backpressure()

    def disconnect(self, *, end_session: bool = False) -> None:
        """Say goodbye and close, after everything written so far; unless ended, the session stays."""
        if self.state is not ConnectionState.CLOSED:
            expiry_s = 0 if end_session else None
            self._write(mqtt5.DisconnectPacket(session_expiry_interval=expiry_s).write())
        self._end(None)

    # For asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send CONNECT."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._write(self._connect.write())

    def connection_lost(self, error: Exception | None) -> None:
        """Fail `accepted`, `ready` and `closed`, those that are not done."""
        if error is None:
            self._end(BrokerHungUp("the broker closed the connection"))
        else:
            self._end(BrokerUnavailable(f"connection lost: {error}"))

    def data_received(self, data: bytes) -> None:
        """Take in bytes and handle every whole packet among them."""
        self._heard_at = self._loop.time()
        self._heard_bytes += len(data)
        self._buffer += data
        self._parse()

    def pause_writing(self) -> None:
        """Do not take in more while the broker does not take our answers: they would pile up."""
        self._writable = False
        self._apply_backpressure()

    def resume_writing(self) -> None:
        """Take in more again."""
        self._writable = True
        self._apply_backpressure()

    # Inside

    def _apply_backpressure(self) -> None:
        if self._transport is None or self._transport.is_closing() or self.state is ConnectionState.CLOSED:
            return
        if self._reading and self._writable:
            self._heard_at = self._loop.time()
            self._transport.resume_reading()
            # Not from here: the caller may be in the middle of its own bookkeeping.
            self._loop.call_soon(self._parse)
        else:
            self._transport.pause_reading()

    def _parse(self) -> None:
        consumed = 0
        try:
            with memoryview(self._buffer) as view:
                while self._reading and self._writable and self.state is not ConnectionState.CLOSED:
                    packet, size = mqtt5.read(view[consumed:])
                    consumed += size
                    self._handle(packet, size)
        except IndexError:  # the codec's word for a packet that is not whole yet
            self._refuse_oversize(consumed)
        except PiSyncError as error:
            self._end(error)
        except ValueError as error:
            self._malformed(str(error))
        except BaseException as error:
            # The codec panics on text that is not UTF-8, and its panic is no Exception.
            if type(error).__name__ != "PanicException":
                raise
            self._malformed("text that is not UTF-8")
        if self.state is ConnectionState.CLOSED:
            self._buffer = bytearray()
        else:
            del self._buffer[:consumed]

    def _refuse_oversize(self, consumed: int) -> None:
        if len(self._buffer) - consumed > limits.BRIDGE_PACKET_BYTES_MAX:
            self._end(ProtocolError("the broker sent a packet larger than the Maximum Packet Size"))

    def _malformed(self, detail: str) -> None:
        reason_code = mqtt5.DisconnectReasonCode.MALFORMED_PACKET
        self._write(mqtt5.DisconnectPacket(reason_code=reason_code).write())
        self._end(ProtocolError(f"the broker sent a malformed packet: {detail}"))

    def _handle(self, packet: mqtt5.Packet, size_bytes: int) -> None:
        if isinstance(packet, mqtt5.PublishPacket) and self.state is not ConnectionState.CONNECTING:
            topic, packet_id = packet.topic, packet.packet_id
            if packet.qos == _QOS_2 or not topic:
                raise ProtocolError("the broker sent a PUBLISH at QoS 2 or with a topic alias")
            take = self._on_message_at_qos_0 if packet_id is None else self._on_message
            take(
                Message(
                    topic,
                    packet.payload,
                    packet_id,
                    packet.response_topic,
                    packet.correlation_data,
                    self,
                    size_bytes,
                    packet.retain,
                )
            )
        else:
            self._handle_control(packet)

    def _handle_control(self, packet: mqtt5.Packet) -> None:
        if isinstance(packet, mqtt5.PubAckPacket):
            if self._unacknowledged.pop(packet.packet_id, None) is not None:
                self._send_quota += 1
                if packet.packet_id in self._waiting:
                    self._waiting.pop(packet.packet_id)(int(packet.reason_code))
                elif packet.reason_code != _TAKEN and self._on_refused is not None:
                    self._on_refused(int(packet.reason_code))
        elif isinstance(packet, mqtt5.PingRespPacket):
            self._ponged()
        elif isinstance(packet, mqtt5.ConnAckPacket) and self.state is ConnectionState.CONNECTING:
            self._connected(packet)
        elif isinstance(packet, mqtt5.SubAckPacket) and self.state is ConnectionState.SUBSCRIBING:
            self._subscribed(packet)
        elif isinstance(packet, mqtt5.UnsubAckPacket) and (self._leaving or self._former_filters):
            self._unsubscribed(packet)
        elif isinstance(packet, mqtt5.DisconnectPacket):
            self._disconnected(packet)
        else:
            raise ProtocolError(f"the broker sent a {type(packet).__name__} in state {self.state.name}")

    def _connected(self, packet: mqtt5.ConnAckPacket) -> None:
        code = int(packet.reason_code)
        if code in _REFUSALS:
            raise ConfigurationError(f"MQTT: {_REFUSALS[code]} ({_named(packet.reason_code)})")
        if code >= FAILURE:
            raise BrokerUnavailable(f"the broker refused the connection: {_named(packet.reason_code)}")
        shares = any(wanted.topic_filter.startswith("$share/") for wanted in self._subscriptions)
        if shares and not packet.shared_subscription_available:
            raise ConfigurationError("MQTT: the broker has no shared subscriptions, which the bridge needs")
        if packet.server_keep_alive is not None:
            self._keep_alive_s = packet.server_keep_alive
        if not packet.session_present:
            self._former_filters = ()
        self._send_quota = packet.receive_max
        self._keep_alive()
        self.state = ConnectionState.SUBSCRIBING
        if not self._subscriptions:
            self._is_subscribed()
        elif self._leaving:
            filters = [*(wanted.topic_filter for wanted in self._subscriptions), *self._former_filters]
            self._write(mqtt5.UnsubscribePacket(_PACKET_ID_MAX, filters).write())
        else:
            subscriptions = [
                mqtt5.TopicFilter(
                    wanted.topic_filter,
                    max_qos=_QOS[wanted.qos],
                    retain_as_published=wanted.as_published,
                    retain_handling=_RETAINED[wanted.retained],
                )
                for wanted in self._subscriptions
            ]
            self._write(mqtt5.SubscribePacket(_PACKET_ID_MAX, subscriptions).write())
        self._expect_suback(-1)
        self._resend(session_present=packet.session_present)
        if not self.accepted.done():  # cancelled with the task that awaited it
            self.accepted.set_result(packet.session_present)

    def _resend(self, *, session_present: bool) -> None:
        """Send again what the broker has not acknowledged, or forget it where it forgot us."""
        pending = list(self._unacknowledged.items()) if session_present else []
        self._unacknowledged.clear()
        self._unacknowledged.update(pending[: self._send_quota])
        for packet in self._unacknowledged.values():
            self._write(bytes([packet[0] | 0x08]) + packet[1:])  # DUP
        self._send_quota -= len(self._unacknowledged)
        for packet_id in [one for one in self._waiting if one not in self._unacknowledged]:
            self._waiting.pop(packet_id)(None)

    def _expect_suback(self, heard_before: int) -> None:
        """Give up on a broker that answers no subscription, once nothing but PINGRESP came for a while.

        A session that was resumed may bring any number of messages before its SUBACK.
        """
        if self.state is not ConnectionState.SUBSCRIBING:
            return
        heard = self._heard_bytes - _PINGRESP_BYTES * self._pongs
        if heard == heard_before and self._reading and self._writable:
            self._end(BrokerUnavailable("no answer to the subscription in time"))
            return
        self._suback_timer = self._loop.call_later(limits.CONNECT_TIMEOUT_S, self._expect_suback, heard)

    def _subscribed(self, packet: mqtt5.SubAckPacket) -> None:
        for wanted, code in zip(self._subscriptions, packet.reason_codes, strict=True):
            if int(code) < FAILURE:
                continue
            refusal = f"the broker refuses the subscription to {wanted.topic_filter}: {_named(code)}"
            if wanted.required:
                raise ConfigurationError(f"MQTT: {refusal}")
            log.warning("subscription refused", why=refusal)
        self._is_subscribed()
        # Not before: what is published meanwhile would find no subscription.
        if self._former_filters:
            self._write(mqtt5.UnsubscribePacket(_PACKET_ID_MAX, list(self._former_filters)).write())

    def _unsubscribed(self, packet: mqtt5.UnsubAckPacket) -> None:
        if self._leaving:
            self._is_subscribed()
        elif any(int(code) >= FAILURE for code in packet.reason_codes):
            log.warning("the broker keeps a former subscription, and sends messages twice")

    def _is_subscribed(self) -> None:
        self.state = ConnectionState.READY
        if not self.ready.done():  # cancelled with the task that awaited it
            self.ready.set_result(None)

    def _disconnected(self, packet: mqtt5.DisconnectPacket) -> None:
        if packet.reason_code == mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER:
            raise SessionTakenOver(f"another client connected as {self._connect.client_id!r}")
        raise BrokerUnavailable(f"the broker disconnected us: {_named(packet.reason_code)}")

    def _free_packet_id(self) -> int:
        # SUBSCRIBE has the last id for itself.
        while self._next_packet_id in self._unacknowledged or self._next_packet_id == _PACKET_ID_MAX:
            self._next_packet_id = self._next_packet_id % _PACKET_ID_MAX + 1
        packet_id = self._next_packet_id
        self._next_packet_id = packet_id % _PACKET_ID_MAX + 1
        return packet_id

    def _keep_alive(self) -> None:
        """Ping twice within each keep-alive interval, and give up on a broker that is silent for two."""
        if self.state is ConnectionState.CLOSED or not self._keep_alive_s:
            return
        silent_s = self.silent_s
        # While we do not read, silence is our own doing.
        if self._reading and self._writable and silent_s > 2 * self._keep_alive_s:
            self._end(BrokerUnavailable(f"the broker has been silent for {silent_s:.0f} s"))
            return
        self._ping(None)
        self._keep_alive_timer = self._loop.call_later(self._keep_alive_s / 2, self._keep_alive)

    def _ponged(self) -> None:
        self._pongs += 1
        answered = self._pings.popleft() if self._pings else None
        if answered is not None and not answered.done():
            answered.set_result(None)

    def _ping(self, answered: asyncio.Future[None] | None) -> None:
        self._pings.append(answered)
        self._write(_PINGREQ)

    def _write(self, data: bytes) -> None:
        """Write soon: what a batch has to say, a receipt for each message, then costs one system call."""
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(data)

    def _flush(self) -> None:
        if self._outgoing and self._transport is not None and not self._transport.is_closing():
            try:
                self._transport.write(b"".join(self._outgoing))
            except RuntimeError:
                # Where connecting was cancelled, uvloop has closed the transport, which does not say so.
                log.debug("not sent, the transport is closed")
        self._outgoing.clear()

    def _end(self, error: PiSyncError | None) -> None:
        if self.state is ConnectionState.CLOSED:
            return
        self.state = ConnectionState.CLOSED
        if self._keep_alive_timer is not None:
            self._keep_alive_timer.cancel()
        if self._suback_timer is not None:
            self._suback_timer.cancel()
        self._flush()
        if self._transport is not None:
            self._transport.close()
        for future in (self.accepted, self.ready, *self._pings):
            if future is not None and not future.done():
                future.set_exception(error or BrokerUnavailable("the connection was closed"))
        if self.closed.done():  # cancelled with the task that awaited it
            return
        if error is None:
            self.closed.set_result(None)
        else:
            self.closed.set_exception(error)


def _named(code: mqtt5.ConnAckReasonCode | mqtt5.SubAckReasonCode | mqtt5.DisconnectReasonCode) -> str:
    return f"{code.name}, 0x{int(code):02X}"


_PINGREQ: Final = mqtt5.PingReqPacket().write()
_PUBACK: Final = mqtt5.PubAckPacket(1).write()[:2]
