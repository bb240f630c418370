"""What a message costs the bridge, counted, not timed: a slip that makes it slow fails here."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, cast

import mqtt5
import pytest

from bridge.alerts.judge import Judge
from bridge.alerts.outbox import Outbox
from bridge.broker_watch import BrokerWatch
from bridge.floods.gate import Gate
from bridge.floods.known_devices import KnownDevices
from bridge.floods.left_out import LeftOut
from bridge.intake import Intake
from bridge.kinds import kinds_of_messages
from bridge.metrics import Metrics
from bridge.projection.projector import Projector
from pisync import clock, limits, tasks
from pisync.domain import topics
from pisync.domain.alerts import Alert, AlertChange, Rule
from pisync.domain.decoding import decode
from pisync.domain.device_state import project
from pisync.domain.events import SyncEvent
from pisync.mqtt.connection import Connection
from pisync.mqtt.messages import Subscription
from pisync.settings import BridgeSettings
from pisync.stores.interfaces.events import EventStore, InsertOutcome
from pisync.stores.memory.alerts import MemoryAlertStore
from pisync.stores.memory.dead_letters import MemoryDeadLetterStore
from pisync.stores.memory.projection import MemoryProjection
from pisync.stores.mongodb.events import documents
from tests.support import counting
from tests.support.reception import reception_clock
from tests.support.rules import NamedDevices
from tests.support.samples import backlog, members, payload
from tests.support.waiting import until
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

    def __init__(self, *, known: KnownDevices | None = None, **settings: Any) -> None:
        self.settings = BridgeSettings(**{"linger_ms": 0, **settings})
        metrics = Metrics(self.settings)
        # It is not attached: what merging costs is counted below.
        projector = Projector(
            projection=MemoryProjection(),
            alerts=cast("Any", None),
            metrics=metrics,
            reception_clock=reception_clock(),
        )
        letters = MemoryDeadLetterStore()
        kinds = kinds_of_messages(
            events=cast("EventStore", Ready()),
            dead_letters=letters,
            projector=projector,
            gate=Gate(
                settings=self.settings, known=known, left_out=LeftOut(dead_letters=letters, metrics=metrics)
            ),
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


class CountedAlerts:
    """A store of alerts that knows what it was asked for; to close none is nothing that MongoDB hears of."""

    def __init__(self) -> None:
        self._store = MemoryAlertStore()
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name != "resolve":
            self.asked.append(name)
        return getattr(self._store, name)


class Sent:
    """A sink that has published at once."""

    is_ready = True

    def __init__(self) -> None:
        self.device_ids: set[str] = set()

    async def publish(self, device_id: str, rule: Rule, alert: Alert | None) -> None:
        self.device_ids.add(device_id)

    async def differing(self, open_alerts: Iterable[Alert]) -> set[tuple[str, Rule]]:
        return set()


async def test_a_raised_alert_asks_for_three_things_and_many_that_follow_for_three_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "ALERTS_PAUSE_S", 3600)
    store, sent = CountedAlerts(), Sent()
    ids = [f"PB-{number}" for number in range(50)]
    outbox = Outbox(store=cast("Any", store))
    judge = Judge(
        store=cast("Any", store), rules=[NamedDevices(Rule.STREAK, set(ids))], on_change=outbox.wake
    )
    publishing, judging = asyncio.create_task(outbox.run(sent)), asyncio.create_task(judge.run())
    await until(lambda: store.asked)  # what an earlier life left
    store.asked.clear()
    for device_id in ids:  # each in a batch of its own, which comes when all is done
        judge.report([AlertChange(device_id=device_id, rule=Rule.STREAK, streak=3, opens=True)])
        for _ in range(50):
            await asyncio.sleep(0)
    assert store.asked == ["open", "unpublished", "published"]
    judging.cancel()
    judging = asyncio.create_task(judge.run())  # as when the pause is over
    await until(lambda: len(sent.device_ids) == len(ids) and judge.is_idle)
    await until(lambda: len(store.asked) >= 6)
    assert store.asked == ["open", "unpublished", "published"] * 2
    await tasks.cancel([judging, publishing])
