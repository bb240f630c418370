"""Hostile neighbours: devices that send, beside good events, what costs others the most, a bounded number of
times.

Each good event of theirs is told to the ledger like an honest device's: what a receipt calls stored must be.
What is bad becomes dead letters, which are no faults here.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import aiomqtt
import msgspec
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from device_sim.dialing import TlsContextOf
from pisync import limits
from pisync.domain import receipts, topics
from pisync.mqtt.address import MqttAddress
from tests.chaos.ledger import Ledger

PREFIX: Final = "HX-"
"""What the ids of hostile devices begin with, so that their dead letters are told apart."""
RECEIPT_TIMEOUT_S: Final = 5.0
RECONNECT_S: Final = 0.3
AT_ONCE: Final = 20
"""Messages of one device that wait for their receipts: as many as a broker takes without a PUBACK."""
SMALL_PACKET_BYTES: Final = 2048
PACKET_BYTES_BESIDE: Final = 1024
"""What a packet may have beside its payload, about."""

_START: Final = datetime(2026, 5, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)  # two equal messages are two messages
class Message:
    """One message; `good` are its good events by their places, `is_answered` whether it gets a receipt."""

    payload: bytes
    good: dict[int, bytes]
    correlation_bytes: int = 16
    is_answered: bool = True


Attack = Callable[[str, Iterator[bytes]], Iterator[Message]]
"""Makes the messages of a device, out of good events of it."""


def lexical_slips(device_id: str, good: Iterator[bytes]) -> Iterator[Message]:
    """One slip between two good events, and an array that is cut off."""
    slips = (b"NaN", b"None", b".5", b'"\\x"', b'"\x01"', b'"\\ud800"', b"1,}")
    for slip in slips:
        first, second = next(good), next(good)
        bad = b'{"device_id":"%s","internet_speed":%s}' % (device_id.encode(), slip)
        yield Message(payload=b"[" + b",".join((first, bad, second)) + b"]", good={0: first, 2: second})
    first, second = next(good), next(good)
    yield Message(payload=b"[" + first + b"," + second[:-20], good={0: first})


def too_many(device_id: str, good: Iterator[bytes]) -> Iterator[Message]:
    """Arrays of 600 events, which the device has to split."""
    del device_id
    for _ in range(2):
        yield _array([next(good) for _ in range(600)])


def amplifiers(device_id: str, good: Iterator[bytes]) -> Iterator[Message]:
    """Small messages of many bad events, and messages of as many as fit in, or of as much to look through."""
    numbers = b"[" + b",".join(b"%d" % number for number in range(500)) + b"]"
    objects = b"[" + b",".join([b"{}"] * 500) + b"]"
    for _ in range(60):
        yield Message(payload=numbers, good={})
        yield Message(payload=objects, good={})
    for part in (b"0", b"NaN", b'{"a":NaN}', b'"', b"[", b'{"a":', b'"\\'):
        payload = b"[" + (part + b",") * (limits.MESSAGE_BYTES_MAX // (len(part) + 1) - 2)
        yield Message(payload=payload, good={})
        yield Message(payload=payload + b"0]", good={})
    yield Message(
        payload=json.dumps([_event(f"{device_id}-other", 0)] * limits.MESSAGE_EVENTS_MAX).encode(), good={}
    )
    oversized = b"[" + b"0," * ((limits.BROKER_PACKET_BYTES_MAX - PACKET_BYTES_BESIDE) // 2) + b"0]"
    yield Message(payload=oversized, good={})
    yield Message(payload=b"[" * limits.MESSAGE_BYTES_MAX, good={})
    event = next(good)
    yield Message(payload=event, good={0: event})


def large_errors(device_id: str, good: Iterator[bytes]) -> Iterator[Message]:
    """Events with nearly as many `errors` as a message holds."""
    del device_id
    errors = [{"code": "E", "message": "x" * 1000}] * 200
    for _ in range(6):
        event = next(good)
        yield Message(payload=json.dumps(json.loads(event) | {"errors": errors}).encode(), good={0: event})


def large_correlation_data(device_id: str, good: Iterator[bytes]) -> Iterator[Message]:
    """Messages that are kept and not answered."""
    del device_id
    for _ in range(20):
        event = next(good)
        yield Message(payload=event, good={0: event}, correlation_bytes=60_000, is_answered=False)


def many_rejections(device_id: str, good: Iterator[bytes]) -> Iterator[Message]:
    """Events from 1970 between good ones, of a device that takes small packets only."""
    unset = json.dumps(_event(device_id, 0) | {"timestamp": "1970-01-01T00:00:07Z"}).encode()
    for _ in range(6):
        first, last = next(good), next(good)
        events = [first, *[unset] * 400, last]
        yield Message(payload=b"[" + b",".join(events) + b"]", good={0: first, 401: last})


ATTACKS: Final[tuple[Attack, ...]] = (
    lexical_slips,
    too_many,
    amplifiers,
    large_errors,
    large_correlation_data,
    many_rejections,
)


def device_ids(number: int) -> list[str]:
    """The devices of a salvo."""
    return [f"{PREFIX}{attack.__name__.replace('_', '-')}-{number}" for attack in ATTACKS]


class HostileNeighbours:
    """A device for each attack; `messages` counts those sent, `wrong` tells what receipts should not say."""

    def __init__(self, ledger: Ledger, address: MqttAddress, tls_context: TlsContextOf) -> None:
        self.messages = 0
        self.wrong: list[str] = []
        self.address = address
        self.tls_context = tls_context
        self._ledger = ledger
        self._sequence = 0

    async def salvo(self, number: int) -> None:
        """Have each device send its messages, all at once; return when all that are answered are."""
        async with asyncio.TaskGroup() as group:
            for attack, device_id in zip(ATTACKS, device_ids(number), strict=True):
                waiting = list(attack(device_id, map(self._encoded, _events(device_id))))
                group.create_task(self._device(device_id, waiting), name=device_id)

    def _encoded(self, event: dict[str, Any]) -> bytes:
        encoded = json.dumps(event).encode()
        self._ledger.sent(encoded)
        return encoded

    async def _device(self, device_id: str, waiting: list[Message]) -> None:
        """Send the messages, as often as it takes, until none is left."""
        while waiting:
            try:
                await _Connection(self, device_id, waiting).run()
            except aiomqtt.MqttError:
                await asyncio.sleep(RECONNECT_S)

    def next_correlation_data(self, message: Message) -> bytes:
        """Correlation Data that no other message has."""
        self._sequence += 1
        return self._sequence.to_bytes(message.correlation_bytes, "big")

    async def publish(
        self, client: aiomqtt.Client, device_id: str, message: Message, correlation_data: bytes
    ) -> None:
        """Publish a message."""
        self.messages += 1
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.ResponseTopic = topics.receipts(device_id)
        properties.CorrelationData = correlation_data
        await client.publish(topics.sync(device_id), message.payload, qos=1, properties=properties)

    def judge(self, device_id: str, message: Message, receipt: receipts.Receipt) -> list[Message]:
        """Take a receipt; returns the messages that take the place of one that was not taken."""
        places = set(receipts.rejected_places(receipt))
        if None in places:
            events = list(message.good.values())
            if len(events) > limits.MESSAGE_EVENTS_MAX:
                half = len(events) // 2
                return [_array(events[:half]), _array(events[half:])]
            if events:
                self.wrong.append(f"{device_id}: a message with good events was not taken: {receipt}")
            return []
        for place, event in message.good.items():
            if place in places:
                self.wrong.append(f"{device_id}: the good event {place} was rejected: {receipt}")
            else:
                self._ledger.confirmed(event)
        return []


class _Connection:
    """One connection of one device; what it sent without an answer stays in `waiting`."""

    def __init__(self, neighbours: HostileNeighbours, device_id: str, waiting: list[Message]) -> None:
        self._neighbours = neighbours
        self._device_id = device_id
        self._waiting = waiting
        self._sent: dict[bytes, Message] = {}
        self._answered = asyncio.Event()

    async def run(self) -> None:
        connect = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        connect.MaximumPacketSize = SMALL_PACKET_BYTES
        async with aiomqtt.Client(
            self._neighbours.address.host,
            self._neighbours.address.port,
            identifier=self._device_id,
            protocol=aiomqtt.ProtocolVersion.V5,
            properties=connect,
            timeout=RECEIPT_TIMEOUT_S,
            tls_context=self._neighbours.tls_context(self._device_id),
        ) as client:
            codes = await client.subscribe(topics.receipts(self._device_id), qos=1)
            if any(getattr(code, "is_failure", False) for code in codes):
                raise aiomqtt.MqttError("not let in yet")
            reading = asyncio.create_task(self._read(client))
            try:
                while self._waiting:
                    await self._send(client)
                    await self._wait()
            finally:
                reading.cancel()

    async def _send(self, client: aiomqtt.Client) -> None:
        for message in [*self._waiting]:
            if len(self._sent) >= AT_ONCE:
                break
            if message not in self._waiting or message in self._sent.values():
                continue
            correlation_data = self._neighbours.next_correlation_data(message)
            if message.is_answered:
                self._sent[correlation_data] = message
            await self._neighbours.publish(client, self._device_id, message, correlation_data)
            if not message.is_answered:
                self._waiting.remove(message)

    async def _wait(self) -> None:
        """Wait for a receipt; where none comes, everything is sent again."""
        if not self._sent:
            return
        try:
            async with asyncio.timeout(RECEIPT_TIMEOUT_S):
                await self._answered.wait()
        except TimeoutError:
            self._sent.clear()
        self._answered.clear()

    async def _read(self, client: aiomqtt.Client) -> None:
        async for received in client.messages:
            message = self._sent.pop(getattr(received.properties, "CorrelationData", b""), None)
            if message is None or message not in self._waiting:
                continue
            try:
                receipt = receipts.decode(bytes(received.payload))
            except msgspec.DecodeError:
                self._neighbours.wrong.append(f"{self._device_id}: no receipt: {received.payload!r}")
                continue
            self._waiting.remove(message)
            self._waiting += self._neighbours.judge(self._device_id, message, receipt)
            self._answered.set()


def _events(device_id: str) -> Iterator[dict[str, Any]]:
    number = 0
    while True:
        yield _event(device_id, number)
        number += 1


def _event(device_id: str, number: int) -> dict[str, Any]:
    moment = _START + timedelta(seconds=number)
    return {
        "device_id": device_id,
        "timestamp": moment.isoformat().replace("+00:00", "Z"),
        "total_files_synced": 3,
        "total_errors": 0,
        "internet_speed": 3.5,
    }


def _array(events: list[bytes]) -> Message:
    return Message(payload=b"[" + b",".join(events) + b"]", good=dict(enumerate(events)))
