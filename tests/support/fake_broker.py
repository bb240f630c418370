"""A broker of one connection at a time on a socket of its own, which answers as the test says."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar, cast

import mqtt5
import pytest

from pisync import backoff
from pisync.mqtt.address import MqttAddress
from tests.support.waiting import TIMEOUT_S

Packet = TypeVar("Packet", bound=mqtt5.Packet)


def acknowledge(publish: mqtt5.PublishPacket) -> Sequence[bytes]:
    """The answer to a publish that the broker takes, and that nobody replies to."""
    return [] if publish.packet_id is None else [mqtt5.PubAckPacket(publish.packet_id).write()]


class FakeBroker(asyncio.Protocol):
    """Accepts every connection and subscription, unless told otherwise; `on_publish` answers a PUBLISH."""

    def __init__(self) -> None:
        self.session_present = False
        self.refusal: mqtt5.ConnAckReasonCode | None = None
        self.grants = True
        self.on_publish: Callable[[mqtt5.PublishPacket], Sequence[bytes]] = acknowledge
        self.received: list[mqtt5.Packet] = []
        self.address = MqttAddress("mqtt://127.0.0.1")
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._arrived = asyncio.Event()

    def send(self, *packets: bytes) -> None:
        assert self._transport is not None
        self._transport.write(b"".join(packets))

    def drop(self) -> None:
        """Close the connection without a word."""
        assert self._transport is not None
        self._transport.close()

    def all(self, kind: type[Packet]) -> list[Packet]:
        """The packets of a kind that came, in order."""
        return [packet for packet in self.received if isinstance(packet, kind)]

    async def has(self, kind: type[Packet], count: int = 1) -> Packet:
        """Wait until so many packets of a kind came; returns the last of them."""
        async with asyncio.timeout(TIMEOUT_S):
            while len(self.all(kind)) < count:
                self._arrived.clear()
                await self._arrived.wait()
        return self.all(kind)[count - 1]

    # For asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            try:
                packet, size = mqtt5.read(memoryview(self._buffer))
            except IndexError:
                return
            self._buffer = self._buffer[size:]
            self.received.append(packet)
            self._arrived.set()
            self._answer(packet)

    def _answer(self, packet: mqtt5.Packet) -> None:
        if isinstance(packet, mqtt5.ConnectPacket):
            code = mqtt5.ConnAckReasonCode.SUCCESS if self.refusal is None else self.refusal
            present = self.session_present and self.refusal is None
            self.send(mqtt5.ConnAckPacket(session_present=present, reason_code=code).write())
        elif isinstance(packet, mqtt5.SubscribePacket) and self.grants:
            codes = [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE] * len(packet.topic_filters)
            self.send(mqtt5.SubAckPacket(packet.packet_id, codes).write())
        elif isinstance(packet, mqtt5.PublishPacket):
            self.send(*self.on_publish(packet))


@asynccontextmanager
async def fake_broker() -> AsyncIterator[FakeBroker]:
    """A fake broker on a free port of this machine, to which clients come back with hardly a backoff."""
    broker = FakeBroker()
    server = await asyncio.get_running_loop().create_server(lambda: broker, "127.0.0.1", 0)
    broker.address = MqttAddress(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backoff.delays, "__defaults__", (0.001, 0.01))
        async with server:
            try:
                yield broker
            finally:
                if broker._transport is not None:
                    broker._transport.close()
