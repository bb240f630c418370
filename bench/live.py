"""Row: how long a device waits for its receipt while others publish at a steady rate."""

import asyncio
import time
from typing import Any, Final, cast

import mqtt5

from bench import rig as rigs
from bench.results import AT_MOST, Result, Target, percentile
from bench.rig import Rig, Stalled
from bench.scale import Scale
from bench.traffic import Traffic
from local_stack import ports
from local_stack.process import running
from pisync import clock, limits
from pisync.domain import topics
from pisync.stores.mongodb.events import documents

MESSAGES_PER_S: Final = 2_000
SECONDS: Final = 15
DEVICES: Final = 1_000
P50_MS_MAX: Final = 15.0
P99_MS_MAX: Final = 100.0
_TICK_S: Final = 0.005
_INSERTS: Final = 300
_RECEIPTS_TIMEOUT_S: Final = 30.0
_PACKET_IDS: Final = 60_000
_RECEIPTS_TOPIC: Final = topics.api_receipts("bench")


async def live(scale: Scale) -> list[Result]:
    """Publish single events at a steady rate and time each from its publish to its receipt."""
    seconds = scale.of(SECONDS, at_least=3)
    traffic = Traffic(devices=DEVICES, events=MESSAGES_PER_S * seconds)
    async with rigs.fresh() as rig, running(rig.bridge()) as bridge:
        client = await _SteadyClient.connect(rig.mosquitto.port)
        meter = rig.meter(bridge=bridge.pid)
        waits_ms = await client.run(traffic)
        cpu = meter.usage().per_event_us(traffic.events)
        client.close()
        insert_ms = percentile(await _bare_inserts(rig, traffic), 50)
    p50, p99 = percentile(waits_ms, 50), percentile(waits_ms, 99)
    rate = f"{MESSAGES_PER_S:,} messages/s for {seconds} s"
    return [
        Result(
            name="live, publish to receipt, p50",
            value=p50,
            unit="ms",
            against="the longest that is right",
            against_value=P50_MS_MAX,
            target=Target(AT_MOST, 1.0),
            cpu_us_per_event=cpu,
            note=f"{rate}; {limits.LINGER_MS} ms of it is the linger, for which a first message waits for"
            " company",
        ),
        Result(
            name="live, publish to receipt, p99",
            value=p99,
            unit="ms",
            against="the longest that is right",
            against_value=P99_MS_MAX,
            target=Target(AT_MOST, 1.0),
            note=rate,
        ),
        Result(
            name="live, publish to receipt, p50, next to a durable insert",
            value=p50,
            unit="ms",
            against="insert_one with majority and journal, p50, nothing else going on",
            against_value=insert_ms,
            note="what of the wait is MongoDB's journal",
        ),
    ]


async def _bare_inserts(rig: Rig, traffic: Traffic) -> list[float]:
    collection: Any = rig.database.bare
    waits_ms = []
    for number in range(_INSERTS):
        [document] = documents([traffic.event(number, 0)], clock.now())
        began = time.perf_counter()
        await collection.insert_one(document)
        waits_ms.append((time.perf_counter() - began) * 1000)
    return waits_ms


class _SteadyClient(asyncio.Protocol):
    """Publishes with a Response Topic and notes when each receipt comes; on plain packets, to cost little."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self.subscribed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sent_at: dict[bytes, float] = {}
        self._waits_ms: list[float] = []
        self._all_in = asyncio.Event()
        self._expected = 0

    @classmethod
    async def connect(cls, port: int) -> "_SteadyClient":
        """Connect and subscribe to the receipts."""
        _, protocol = await asyncio.get_running_loop().create_connection(cls, ports.HOST, port)
        await protocol.subscribed
        return protocol

    async def run(self, traffic: Traffic) -> list[float]:
        """Publish everything at the rate; returns the milliseconds from each publish to its receipt."""
        self._expected = traffic.events
        messages = traffic.single_messages()
        loop = asyncio.get_running_loop()
        began = loop.time()
        for sent, (topic, payload) in enumerate(messages, start=1):
            self._publish(topic, payload, sent)
            ahead_s = sent / MESSAGES_PER_S - (loop.time() - began)
            if ahead_s > _TICK_S:
                await asyncio.sleep(ahead_s)
        try:
            async with asyncio.timeout(_RECEIPTS_TIMEOUT_S):
                await self._all_in.wait()
        except TimeoutError:
            raise Stalled(f"{len(self._waits_ms):,} of {traffic.events:,} receipts came") from None
        return self._waits_ms

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
                self._waits_ms.append(wait_s * 1000)
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
