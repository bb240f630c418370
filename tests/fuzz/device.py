"""A device on the bare codec: it sends what client libraries refuse to send."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import mqtt5

from local_stack import ports

_QOS_2: Final = 2
_PACKET_ID_MAX: Final = 65_535
ANSWER_TIMEOUT_S: Final = 20


class Device:
    """One MQTT 5 connection; keeps what it was sent until somebody asks."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._buffer = b""
        self._packet_id = 0
        self.received: list[mqtt5.PublishPacket] = []

    def send(self, packet: mqtt5.Packet) -> None:
        self._writer.write(packet.write())

    async def answer(self, *, of: type[mqtt5.Packet]) -> mqtt5.Packet:
        """The next packet of this kind; PUBLISH packets on the way are kept and acknowledged."""
        while not isinstance(packet := await self._read(), of):
            assert isinstance(packet, mqtt5.PublishPacket), packet
            self.received.append(packet)
            if packet.packet_id is not None:
                self.send(mqtt5.PubAckPacket(packet.packet_id))
        return packet

    async def publish(
        self, topic: str, payload: bytes, qos: int, *, response_topic: str, **properties: Any
    ) -> None:
        """Publish, and see the exchange through to its end."""
        self._packet_id = self._packet_id % _PACKET_ID_MAX + 1
        packet_id = self._packet_id if qos else None
        # The codec writes no wildcard there, but a device may, and Mosquitto passes it on.
        tame = response_topic.replace("#", "!").replace("+", "!")
        packet = mqtt5.PublishPacket(
            topic, payload, qos=mqtt5.QoS(qos), packet_id=packet_id, response_topic=tame, **properties
        ).write()
        self._writer.write(packet.replace(_property(tame), _property(response_topic), 1))
        if qos == _QOS_2:
            await self.answer(of=mqtt5.PubRecPacket)
            assert packet_id is not None
            self.send(mqtt5.PubRelPacket(packet_id))
            await self.answer(of=mqtt5.PubCompPacket)
        elif qos:
            await self.answer(of=mqtt5.PubAckPacket)

    async def receipt(self, correlation_data: bytes) -> mqtt5.PublishPacket:
        """Wait for what carries this Correlation Data; it is kept like the others."""
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while True:
                for packet in self.received:
                    if packet.correlation_data == correlation_data:
                        return packet
                self.send(mqtt5.PingReqPacket())
                await self.answer(of=mqtt5.PingRespPacket)

    async def _read(self) -> mqtt5.Packet:
        while True:
            try:
                packet, size = mqtt5.read(memoryview(self._buffer))
            except IndexError:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    data = await self._reader.read(65536)
                assert data, "the broker hung up"
                self._buffer += data
            else:
                self._buffer = self._buffer[size:]
                return packet


def _property(response_topic: str) -> bytes:
    text = response_topic.encode()
    return b"\x08" + len(text).to_bytes(2, "big") + text


@asynccontextmanager
async def connected(
    port: int, client_id: str, *filters: str, clean_start: bool = True
) -> AsyncIterator[tuple[Device, mqtt5.ConnAckPacket]]:
    """A device that has subscribed to these, without its own messages; and how the broker took it in."""
    reader, writer = await asyncio.open_connection(ports.HOST, port)
    device = Device(reader, writer)
    try:
        device.send(mqtt5.ConnectPacket(client_id, clean_start=clean_start, keep_alive=600))
        accepted = await device.answer(of=mqtt5.ConnAckPacket)
        assert isinstance(accepted, mqtt5.ConnAckPacket)
        if filters:
            wanted = [mqtt5.TopicFilter(each, max_qos=mqtt5.QoS(1), no_local=True) for each in filters]
            device.send(mqtt5.SubscribePacket(1, wanted))
            await device.answer(of=mqtt5.SubAckPacket)
        yield device, accepted
        device.send(mqtt5.DisconnectPacket())
    finally:
        writer.close()
        await writer.wait_closed()
