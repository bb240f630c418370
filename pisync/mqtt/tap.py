"""A client that sees whole PUBLISH packets, with their flags and properties, for what writes them down.

Other programs are given a `Message`, which has what they need and costs no more than that.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mqtt5
import msgspec

from pisync.errors import PiSyncError
from pisync.mqtt.address import MqttAddress
from pisync.mqtt.client import Client
from pisync.mqtt.connection import Connection, ConnectionState
from pisync.mqtt.messages import Message, Subscription


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """A PUBLISH as it came (MQTT 5, 3.3), and the connection that its acknowledgement must go back on."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    duplicate: bool
    packet_id: int | None
    payload_format_indicator: int
    message_expiry_interval: int | None
    content_type: str | None
    response_topic: str | None
    correlation_data: bytes | None
    user_properties: list[tuple[str, str]]
    connection: Connection


OnPublished = Callable[[Published], None]


class _Tapped(Connection):
    """A connection that hands each PUBLISH over before the handler of its subscription has it."""

    def __init__(self, on_published: OnPublished, **options: Any) -> None:
        super().__init__(**options)
        self._on_published = on_published

    def _handle(self, packet: mqtt5.Packet, size_bytes: int) -> None:
        if isinstance(packet, mqtt5.PublishPacket) and self.state is not ConnectionState.CONNECTING:
            self._on_published(_published(packet, self))
        else:
            super()._handle(packet, size_bytes)


class Tap(Client):
    """Subscribes to filters at QoS 1, to what is published from now on, and hands over whole packets."""

    def __init__(
        self,
        *,
        address: MqttAddress,
        ca_file: Path | None,
        client_id: str,
        filters: Sequence[str],
        optional_filters: Sequence[str],
        session_expiry_s: int,
        on_published: OnPublished,
        on_up: Callable[[bool], None],
        on_down: Callable[[PiSyncError], Any],
    ) -> None:
        """Prepare; `run` connects. Of the optional filters the broker also sends what it retains."""
        super().__init__(
            address=address,
            ca_file=ca_file,
            client_id=client_id,
            subscriptions=[
                *(Subscription(one, 1, _never, retained=False) for one in filters),
                *(Subscription(one, 0, _never, required=False) for one in optional_filters),
            ],
            session_expiry_s=session_expiry_s,
            on_up=on_up,
            on_down=on_down,
            beside=True,
        )
        self._on_published = on_published

    def _new_connection(self) -> Connection:
        return _Tapped(self._on_published, **self._options())


def _published(packet: mqtt5.PublishPacket, connection: Connection) -> Published:
    return Published(
        topic=packet.topic,
        payload=packet.payload,
        qos=0 if packet.packet_id is None else 1,  # a subscription at QoS 1 gets no more
        retain=packet.retain,
        duplicate=packet.duplicate,
        packet_id=packet.packet_id,
        payload_format_indicator=packet.payload_format_indicator,
        message_expiry_interval=packet.message_expiry_interval,
        content_type=packet.content_type,
        response_topic=packet.response_topic,
        correlation_data=packet.correlation_data,
        user_properties=packet.user_properties,
        connection=connection,
    )


def _never(_message: Message) -> None:
    """A tapped connection makes no messages."""
