"""A blocking MQTT 5 client over TLS that hides nothing: reason codes, refusals, and what came."""

import contextlib
import socket
import ssl
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Self, TypeVar

import mqtt5

from local_stack import ports

_TIMEOUT_S: Final = 60.0
FAILURE: Final = 0x80
NOT_AUTHORIZED: Final = 0x87

Wanted = TypeVar("Wanted", bound=mqtt5.Packet)


class Refused(Exception):  # noqa: N818 - what happened
    """There is no connection: the handshake failed, or the CONNACK says so; `reason` is its code."""

    def __init__(self, why: object, reason: int | None = None) -> None:
        super().__init__(str(why))
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Shows:
    """What a client comes with: a port, a certificate, and a user name with its password.

    `authority` is whom it trusts; None: it speaks no TLS.
    """

    port: int
    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    username: str | None = None
    password: str | None = None

    @cached_property
    def context(self) -> ssl.SSLContext:
        """What it speaks; the same each time, so that a session of TLS may be resumed."""
        context = ssl.create_default_context(cafile=self.authority)
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        return context


class Wire:
    """One connection; `messages` are the PUBLISH packets that came, in the present or a former session."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = bytearray()
        self.messages: list[mqtt5.PublishPacket] = []
        self.is_resumed_by_broker = False

    @classmethod
    def connect(
        cls,
        shows: Shows,
        client_id: str = "any",
        *,
        will: mqtt5.Will | None = None,
        clean_start: bool = True,
        expiry_s: int = 0,
        session: ssl.SSLSession | None = None,
    ) -> Self:
        """Connect and read the CONNACK; `session` is one of TLS that is to be resumed.

        Raises:
            Refused: there is no connection.
        """
        plain = socket.create_connection((ports.HOST, shows.port), timeout=_TIMEOUT_S)
        wire = cls(
            plain
            if shows.authority is None
            else shows.context.wrap_socket(
                plain, server_hostname=ports.HOST, do_handshake_on_connect=False, session=session
            )
        )
        try:
            wire._shake_hands()
            wire._send(
                mqtt5.ConnectPacket(
                    client_id,
                    username=shows.username,
                    password=None if shows.password is None else shows.password.encode(),
                    clean_start=clean_start,
                    will=will,
                    session_expiry_interval=expiry_s,
                )
            )
            answer = wire._next(mqtt5.ConnAckPacket)
        except OSError as error:
            wire.cut()
            raise Refused(error) from None
        if int(answer.reason_code):
            wire.cut()
            raise Refused(answer.reason_code, int(answer.reason_code))
        wire.is_resumed_by_broker = answer.session_present
        return wire

    @property
    def session(self) -> ssl.SSLSession | None:
        """The session of TLS, once the broker has sent what it is resumed with."""
        return self._connection.session if isinstance(self._connection, ssl.SSLSocket) else None

    @property
    def is_resumed(self) -> bool:
        """Whether TLS took up an earlier session, without a look at the certificate."""
        return isinstance(self._connection, ssl.SSLSocket) and bool(self._connection.session_reused)

    def __enter__(self) -> Self:
        """The connection."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            self._send(mqtt5.DisconnectPacket())
        self.cut()

    def publish(self, messages: Iterable[tuple[str, bytes]], *, retain: bool = False) -> list[int]:
        """Publish at QoS 1; the reason code of each PUBACK."""
        sent = 0
        for sent, (topic, payload) in enumerate(messages, 1):
            self._send(
                mqtt5.PublishPacket(
                    topic, payload, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=sent, retain=retain
                )
            )
        answers = {}
        for _ in range(sent):
            answer = self._next(mqtt5.PubAckPacket)
            answers[answer.packet_id] = int(answer.reason_code)
        return [answers[number] for number in sorted(answers)]

    def publish_unanswered(self, topic: str, payload: bytes) -> None:
        """Publish at QoS 0."""
        self._send(mqtt5.PublishPacket(topic, payload))

    def subscribe(self, filters: Sequence[str]) -> list[int]:
        """Subscribe at QoS 1; the reason code of each filter."""
        asked = [mqtt5.TopicFilter(each, max_qos=mqtt5.QoS.AT_LEAST_ONCE) for each in filters]
        self._send(mqtt5.SubscribePacket(1, asked))
        return [int(code) for code in self._next(mqtt5.SubAckPacket).reason_codes]

    def barrier(self) -> Self:
        """Wait until the broker has answered all that was sent; what came until then is in `messages`."""
        self._send(mqtt5.PingReqPacket())
        self._next(mqtt5.PingRespPacket)
        return self

    def until_ended(self) -> None:
        """Wait until the broker ends the connection."""
        with contextlib.suppress(OSError):
            while True:
                self._read()

    def cut(self) -> None:
        """Close the socket without a word, so that the broker publishes the will."""
        self._connection.close()

    def _shake_hands(self) -> None:
        if isinstance(self._connection, ssl.SSLSocket):
            self._connection.do_handshake()

    def _send(self, packet: mqtt5.Packet) -> None:
        self._connection.sendall(packet.write())

    def _next(self, wanted: type[Wanted]) -> Wanted:
        while True:
            for packet in self._packets():
                if isinstance(packet, mqtt5.PublishPacket):
                    self.messages.append(packet)
                    if packet.packet_id is not None:
                        self._send(mqtt5.PubAckPacket(packet.packet_id))
                elif isinstance(packet, wanted):
                    return packet
            self._read()

    def _packets(self) -> Iterator[mqtt5.Packet]:
        with contextlib.suppress(IndexError):
            while True:
                with memoryview(self._received) as view:
                    packet, size = mqtt5.read(view)
                del self._received[:size]
                yield packet

    def _read(self) -> None:
        data = self._connection.recv(1 << 16)
        if not data:
            raise ConnectionError("the broker closed the connection")
        self._received += data


def received(watching: Wire, topic: str) -> list[bytes]:
    """The payloads of a topic that came to a connection so far."""
    return [message.payload for message in watching.barrier().messages if message.topic == topic]
