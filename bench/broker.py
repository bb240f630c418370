"""Raw MQTT 5 against the broker: queue a backlog for a session, and take one away again.

Plain sockets and the packets' codec: whatever a client library costs would count against the broker.
"""

import contextlib
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import mqtt5

from local_stack import ports
from pisync.domain import topics
from pisync.mqtt.address import MqttAddress
from pisync.mqtt.tls import tls_context
from pisync.settings import CommonSettings

_UNACKNOWLEDGED_MAX: Final = 2000
_CHUNK: Final = 200
SESSION_EXPIRY_S: Final = 3600
_TIMEOUT_S: Final = 60.0


class BacklogLost(RuntimeError):  # noqa: N818 - what happened
    """The broker did not take a message, or has nobody to keep it for."""


def subscribe_and_leave(port: int, client_id: str) -> None:
    """Make a persistent session that shares the bridges' subscription, and go: messages wait in it."""
    with _connected(port, client_id, persistent=True) as wire:
        topic_filter = mqtt5.TopicFilter(topics.SHARED_SYNC_FILTER, max_qos=mqtt5.QoS.AT_LEAST_ONCE)
        wire.send(mqtt5.SubscribePacket(1, [topic_filter]).write())
        while not isinstance(wire.next(), mqtt5.SubAckPacket):
            pass
        wire.send(mqtt5.DisconnectPacket().write())


def forget(port: int, client_id: str) -> None:
    """End the session of this client id, and with it what waits there."""
    with _connected(port, client_id, persistent=False) as wire:
        wire.send(mqtt5.DisconnectPacket().write())


def publish(broker: int | CommonSettings, messages: Iterable[tuple[str, bytes]]) -> int:
    """Publish the messages at QoS 1 and return how many, once the broker has acknowledged all.

    Args:
        broker: its port, or as whom to connect to one with access control.
        messages: topics and payloads.

    Raises:
        BacklogLost: an acknowledgement says that nobody is subscribed, or anything but success.
    """
    with _connected(broker, "backlog", persistent=False) as wire:
        sent = 0
        acknowledged = 0
        chunk: list[bytes] = []

        def flush(unacknowledged_max: int) -> int:
            wire.send(b"".join(chunk))
            chunk.clear()
            count = 0
            while sent - acknowledged - count > unacknowledged_max:
                packet = wire.next()
                if not isinstance(packet, mqtt5.PubAckPacket) or int(packet.reason_code) != 0:
                    raise BacklogLost(f"the broker answered {packet!r} to a PUBLISH")
                count += 1
            return count

        for topic, payload in messages:
            chunk.append(
                mqtt5.PublishPacket(
                    topic, payload, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=sent % 60_000 + 1
                ).write()
            )
            sent += 1
            if len(chunk) == _CHUNK:
                acknowledged += flush(_UNACKNOWLEDGED_MAX)
        acknowledged += flush(0)
    return sent


class _Wire:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = bytearray()

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def next(self) -> mqtt5.Packet:
        while True:
            with contextlib.suppress(IndexError):
                with memoryview(self._received) as view:
                    packet, size = mqtt5.read(view)
                del self._received[:size]
                return packet
            data = self._connection.recv(1 << 16)
            if not data:
                raise BacklogLost("the broker closed the connection")
            self._received += data


@contextlib.contextmanager
def _connected(broker: int | CommonSettings, client_id: str, *, persistent: bool) -> Iterator[_Wire]:
    address = None if isinstance(broker, int) else broker.mqtt
    authority = None if isinstance(broker, int) else broker.mqtt_ca_file
    with _socket(broker if isinstance(broker, int) else broker.mqtt.port, address, authority) as connection:
        wire = _Wire(connection)
        wire.send(
            mqtt5.ConnectPacket(
                client_id,
                username=None if address is None else address.username,
                password=address.password.encode() if address and address.password else None,
                clean_start=True,
                session_expiry_interval=SESSION_EXPIRY_S if persistent else 0,
            ).write()
        )
        answer = wire.next()
        if not isinstance(answer, mqtt5.ConnAckPacket) or int(answer.reason_code) != 0:
            raise BacklogLost(f"the broker answered {answer!r} to a CONNECT")
        yield wire


def _socket(port: int, address: MqttAddress | None, authority: Path | None) -> socket.socket:
    connection = socket.create_connection((ports.HOST, port), timeout=_TIMEOUT_S)
    tls = None if address is None else tls_context(address, authority)
    return connection if tls is None else tls.wrap_socket(connection, server_hostname=ports.HOST)
