"""A client that publishes at a steady rate and notes when each receipt comes."""

import asyncio
import time
from collections.abc import Iterable
from typing import Final, cast

import mqtt5

from bench.rig import Stalled
from local_stack import ports
from pisync.domain import topics

_TICK_S: Final = 0.005
_RECEIPTS_TIMEOUT_S: Final = 30.0
_PACKET_IDS: Final = 60_000
_RECEIPTS_TOPIC: Final = topics.api_receipts("bench")


class SteadyClient(asyncio.Protocol):
    """Publishes with a Response Topic; on plain packets, to cost little."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self.subscribed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sent_at: dict[bytes, float] = {}
        self._waits_ms: dict[int, float] = {}
        self._all_in = asyncio.Event()
        self._expected = 0

    @classmethod
    async def connect(cls, port: int) -> "SteadyClient":
        """Connect and subscribe to the receipts."""
        _, protocol = await asyncio.get_running_loop().create_connection(cls, ports.HOST, port)
        await protocol.subscribed
        return protocol

    async def run(self, messages: Iterable[tuple[str, bytes]], count: int, per_second: int) -> list[float]:
        """Publish `count` messages, so many a second; returns each one's ms until its receipt, in order.

        Raises:
            Stalled: half a minute after the last one receipts are missing.
        """
        self._expected = count
        loop = asyncio.get_running_loop()
        began = loop.time()
        for sent, (topic, payload) in enumerate(messages, start=1):
            self._publish(topic, payload, sent)
            ahead_s = sent / per_second - (loop.time() - began)
            if ahead_s > _TICK_S:
                await asyncio.sleep(ahead_s)
        try:
            async with asyncio.timeout(_RECEIPTS_TIMEOUT_S):
                await self._all_in.wait()
        except TimeoutError:
            raise Stalled(f"{len(self._waits_ms):,} of {count:,} receipts came") from None
        return [self._waits_ms[number] for number in range(1, count + 1)]

    def close(self) -> None:
        """Hang up."""
        self._write(mqtt5.DisconnectPacket().write())
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Introduce ourselves and subscribe."""
        self._transport = cast("asyncio.Transport", transport)
        self._write(mqtt5.ConnectPacket("live", clean_start=True, receive_max=_PACKET_IDS).write())
        receipts = mqtt5.TopicFilter(_RECEIPTS_TOPIC, max_qos=mqtt5.QoS.AT_LEAST_ONCE)
        self._write(mqtt5.SubscribePacket(_PACKET_IDS + 1, [receipts]).write())

    def data_received(self, data: bytes) -> None:
        """Take in receipts."""
        self._received += data
        consumed = 0
        try:
            while True:
                packet, size = mqtt5.read(memoryview(self._received)[consumed:])
                consumed += size
                self._take(packet)
        except IndexError:
            pass  # the rest is not whole yet
        del self._received[:consumed]

    def _take(self, packet: mqtt5.Packet) -> None:
        if isinstance(packet, mqtt5.PublishPacket):
            if packet.correlation_data is not None:
                wait_s = time.perf_counter() - self._sent_at.pop(packet.correlation_data)
                self._waits_ms[int.from_bytes(packet.correlation_data, "big")] = wait_s * 1000
            if packet.packet_id is not None:
                self._write(mqtt5.PubAckPacket(packet.packet_id).write())
            if len(self._waits_ms) == self._expected:
                self._all_in.set()
        elif isinstance(packet, mqtt5.SubAckPacket):
            self.subscribed.set_result(None)

    def _publish(self, topic: str, payload: bytes, number: int) -> None:
        correlation_data = number.to_bytes(4, "big")
        self._sent_at[correlation_data] = time.perf_counter()
        self._write(
            mqtt5.PublishPacket(
                topic,
                payload,
                qos=mqtt5.QoS.AT_LEAST_ONCE,
                packet_id=number % _PACKET_IDS + 1,
                response_topic=_RECEIPTS_TOPIC,
                correlation_data=correlation_data,
            ).write()
        )

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)
