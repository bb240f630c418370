"""What a message costs the bridge, counted, not timed: a slip that makes it slow fails here."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, cast

import mqtt5
import pytest

from bridge.broker_watch import BrokerWatch
from bridge.intake import Intake
from bridge.kinds import kinds_of_messages
from bridge.metrics import Metrics
from bridge.projection.projector import Projector
from pisync import clock
from pisync.domain import topics
from pisync.domain.decoding import decode
from pisync.domain.device_state import project
from pisync.domain.events import SyncEvent
from pisync.mqtt.connection import Connection
from pisync.mqtt.messages import Subscription
from pisync.settings import BridgeSettings
from pisync.stores.interfaces.events import EventStore, InsertOutcome
from pisync.stores.memory.dead_letters import MemoryDeadLetterStore
from pisync.stores.memory.projection import MemoryProjection
from pisync.stores.mongodb.events import documents
from tests.support import counting
from tests.support.reception import reception_clock
from tests.support.samples import backlog, members, payload
from tests.unit.test_connection import CONNACK, SUBACK, FakeTransport

MESSAGES: Final = 500
# Counted: 22 for a message of one event, 2 for each event of an array, and 8 for a document and its part in
# the projection. One function more for every message is to be seen here.
CALLS_A_MESSAGE_MAX: Final = 22.5
CALLS_AN_EVENT_MAX: Final = 2.5
CALLS_KEEPING_MAX: Final = 8.5
# Counted: 99 for a message of one bad event, its dead letter in the store in memory included, and 3 for each
# of many bad elements.
CALLS_A_BAD_MESSAGE_MAX: Final = 102
CALLS_A_BAD_ELEMENT_MAX: Final = 3.5


class Ready:
    """A store that costs nothing, so that the bridge's own cost is what is counted."""

    async def insert(self, events: Sequence[SyncEvent], received_at: datetime) -> list[InsertOutcome]:
        return [InsertOutcome.STORED] * len(events)


class Bridge:
    """A connection and an intake, and the bytes that the broker would send."""

    def __init__(self, **settings: Any) -> None:
        self.settings = BridgeSettings(**{"linger_ms": 0, **settings})
        metrics = Metrics(self.settings)
        # It is not attached: what merging costs is counted below.
        projector = Projector(
            projection=MemoryProjection(),
            alerts=cast("Any", None),
            metrics=metrics,
            reception_clock=reception_clock(),
        )
        kinds = kinds_of_messages(
            events=cast("EventStore", Ready()),
            dead_letters=MemoryDeadLetterStore(),
            projector=projector,
            metrics=metrics,
        )
        self.intake = Intake(kinds=kinds, settings=self.settings, metrics=metrics)
        self.transport = FakeTransport()
        self.connection = Connection(
            connect=mqtt5.ConnectPacket("bridge-0"),
            subscriptions=[
                Subscription(topics.SHARED_SYNC_FILTER, 1, self.intake.offer),
                Subscription("$SYS/+", 0, BrokerWatch(metrics).on_message),
            ],
            unacknowledged={},
        )
        self.connection.connection_made(self.transport)
        self.connection.data_received(CONNACK + SUBACK)
        self.intake.attach(cast("Any", self.connection))

    async def take(self, payloads: Sequence[tuple[str, bytes]], *, receipts: bool = False) -> None:
        data = b"".join(
            mqtt5.PublishPacket(
                topics.sync(device_id),
                raw,
                qos=mqtt5.QoS.AT_LEAST_ONCE,
                packet_id=number,
                response_topic=topics.receipts(device_id) if receipts else None,
            ).write()
            for number, (device_id, raw) in enumerate(payloads, start=1)
        )
        self.connection.data_received(data)
        await self.intake._idle.wait()


def singles(count: int) -> list[tuple[str, bytes]]:
    return [(f"PB-{number}", payload(device_id=f"PB-{number}")) for number in range(count)]


def arrays(count: int, events: int) -> list[tuple[str, bytes]]:
    def array(device_id: str) -> bytes:
        stamps = [f"2026-05-08T12:{minute:02}:00Z" for minute in range(events)]
        return backlog(*(members(device_id=device_id, timestamp=stamp) for stamp in stamps))

    return [(f"PB-{number}", array(f"PB-{number}")) for number in range(count)]


async def cost(messages: Sequence[tuple[str, bytes]]) -> int:
    """Calls for taking these messages in, from the socket to the acknowledgement."""
    bridge = Bridge()
    running = asyncio.create_task(bridge.intake.run())
    await bridge.take(messages[:1])
    with counting.calls() as calls:
        await bridge.take(messages)
    running.cancel()
    return calls.count


async def test_calls_a_message() -> None:
    few, many = await cost(singles(MESSAGES)), await cost(singles(2 * MESSAGES))
    assert (many - few) / MESSAGES <= CALLS_A_MESSAGE_MAX


async def test_calls_an_event_of_an_array() -> None:
    few, many = await cost(arrays(50, 10)), await cost(arrays(50, 40))
    assert (many - few) / (50 * 30) <= CALLS_AN_EVENT_MAX


async def test_calls_for_what_is_bad() -> None:
    """A mebibyte holds 10,000 small messages, or half a million elements."""
    small = [(f"PB-{number}", b'{"x":%d}' % number) for number in range(2 * MESSAGES)]
    few, many = await cost(small[:MESSAGES]), await cost(small)
    assert (many - few) / MESSAGES <= CALLS_A_BAD_MESSAGE_MAX
    few, many = [await cost([("PB-1", b"[" + b"0," * count + b"0]")] * 20) for count in (99, 399)]
    assert (many - few) / (20 * 300) <= CALLS_A_BAD_ELEMENT_MAX


def test_calls_for_a_document_and_its_projection() -> None:
    events: list[SyncEvent] = []
    for number in range(MESSAGES):
        events += decoded(f"PB-{number}")
    received_at = clock.now()
    with counting.calls() as calls:
        documents(events, received_at)
        states: Mapping[str, object] = project(events)
    assert len(states) == MESSAGES
    assert calls.count / MESSAGES <= CALLS_KEEPING_MAX


def decoded(device_id: str) -> list[SyncEvent]:
    return decode(payload(device_id=device_id), device_id, clock.now()).events


async def test_no_step_of_the_event_loop_for_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for messages in (10, 1000):
        bridge = Bridge(batch_messages_max=2000)
        running = asyncio.create_task(bridge.intake.run())
        await asyncio.sleep(0)
        with counting.steps(monkeypatch) as steps:
            await bridge.take(singles(messages))
        running.cancel()
        counts.append(steps.count)
    assert counts[0] == counts[1]


async def test_one_write_for_a_batch() -> None:
    bridge = Bridge(batch_messages_max=1000)
    running = asyncio.create_task(bridge.intake.run())
    await asyncio.sleep(0)
    before = bridge.transport.writes
    await bridge.take(singles(1000), receipts=True)
    await asyncio.sleep(0)
    running.cancel()
    assert bridge.transport.written.count(b"/receipts") == 1000
    assert bridge.transport.writes == before + 1
