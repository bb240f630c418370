"""A intake over stores in memory that can be away or wait, and everything that it talks to."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, cast

from bridge.alerts.judge import Judge
from bridge.alerts.rules import all_rules
from bridge.floods.gate import Gate
from bridge.floods.known_devices import KnownDevices
from bridge.floods.left_out import LeftOut
from bridge.intake import Intake
from bridge.kinds import Kind, kinds_of_messages
from bridge.metrics import Metrics
from bridge.projection.catch_up import CatchUp
from bridge.projection.projector import Projector
from pisync.domain import receipts, topics
from pisync.domain.alerts import AlertChange
from pisync.domain.dead_letters import DeadLetter
from pisync.domain.device_state import DeviceState
from pisync.domain.events import SyncEvent
from pisync.domain.receipts import Receipt
from pisync.errors import MongodbUnavailable, RedisUnavailable
from pisync.mqtt.connection import Connection
from pisync.mqtt.messages import Message
from pisync.settings import BridgeSettings
from pisync.stores.interfaces.bridges import Claim
from pisync.stores.interfaces.dead_letters import DroppedLetters, KeptDeadLetter
from pisync.stores.interfaces.events import InsertOutcome
from pisync.stores.memory.alerts import MemoryAlertStore
from pisync.stores.memory.bridges import MemoryBridgeRegistry
from pisync.stores.memory.dead_letters import MemoryDeadLetterStore
from pisync.stores.memory.events import MemoryEventStore
from pisync.stores.memory.projection import MemoryProjection
from tests.support.reception import reception_clock
from tests.support.samples import NOW
from tests.support.waiting import TIMEOUT_S, until

DEVICE = "PB-000123"


class GatedStore(MemoryEventStore):
    """An event store that can be away, and lets inserts through one by one when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.away = asyncio.Event()
        self.attempts = 0
        self.gates: list[asyncio.Future[None]] = []
        self.gated = False
        self.refused_files = -1
        self.loses_answers = 0

    async def insert(self, events: Sequence[SyncEvent], received_at: datetime) -> list[InsertOutcome]:
        self.attempts += 1
        if self.gated:
            gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.gates.append(gate)
            await gate
        if self.away.is_set():
            raise MongodbUnavailable("away")
        good = [event for event in events if event.total_files_synced != self.refused_files]
        outcomes = iter(await super().insert(good, received_at))
        if self.loses_answers:
            self.loses_answers -= 1
            raise MongodbUnavailable("connection reset")
        return [next(outcomes) if event in good else InsertOutcome.REFUSED for event in events]


class GatedDeadLetters(MemoryDeadLetterStore):
    """A dead-letter store that is unavailable together with the event store."""

    def __init__(self, events: GatedStore) -> None:
        super().__init__()
        self._events = events
        self.written: list[list[DeadLetter]] = []

    async def add(self, dead_letters: Sequence[DeadLetter], received_at: datetime) -> list[DroppedLetters]:
        if self._events.away.is_set():
            raise MongodbUnavailable("away")
        self.written.append(list(dead_letters))
        return await super().add(dead_letters, received_at)

    async def record_dropped(self, dropped: Mapping[str | None, int], now: datetime) -> None:
        if self._events.away.is_set():
            raise MongodbUnavailable("away")
        await super().record_dropped(dropped, now)


class FlakyProjection(MemoryProjection):
    """A streak store that fails some times before it works."""

    def __init__(self) -> None:
        super().__init__()
        self.failures_left = 0

    async def apply(self, states: Mapping[str, DeviceState], *, anew: bool = False) -> list[AlertChange]:
        if self.failures_left:
            self.failures_left -= 1
            raise RedisUnavailable("away")
        return await super().apply(states, anew=anew)


class FakeConnection:
    """Remembers the acknowledgements."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []
        self.closed = False

    def acknowledge(self, packet_ids: Sequence[int]) -> bool:
        if self.closed:
            return False
        self.acknowledged += packet_ids
        return True


class Rig:
    """A intake, and everything that it talks to."""

    def __init__(self, *more_kinds: Kind, **changes: Any) -> None:
        known: KnownDevices | None = changes.pop("known", None)
        settings = BridgeSettings(**{"linger_ms": 0, **changes})
        self.metrics = Metrics(settings)
        self.store = GatedStore()
        self.streaks = FlakyProjection()
        self.alerts = MemoryAlertStore()
        self.judge = Judge(
            store=self.alerts,
            rules=all_rules(events=self.store, projection=self.streaks),
            retries=self.metrics,
        )
        self.metrics.alerts_opened.set_function(lambda: self.judge.opened)
        self.metrics.alerts_closed.set_function(lambda: self.judge.closed)
        registry, claim = MemoryBridgeRegistry(), Claim(known_before=False, floor=NOW)
        self.projector = Projector(
            projection=self.streaks,
            alerts=self.judge,
            metrics=self.metrics,
            reception_clock=reception_clock(registry, claim),
        )
        self.catch_up = CatchUp(
            bridge_id="bridge-0",
            events=self.store,
            projection=self.streaks,
            projector=self.projector,
            alerts=self.judge,
            registry=registry,
            claim=claim,
            metrics=self.metrics,
        )
        self.dead_letters = GatedDeadLetters(self.store)
        self.left_out = LeftOut(dead_letters=self.dead_letters, metrics=self.metrics)
        self.known = known
        self.monotonic_s = 0.0
        gate = Gate(settings=settings, known=known, left_out=self.left_out, now_s=lambda: self.monotonic_s)
        kinds = kinds_of_messages(
            events=self.store,
            dead_letters=self.dead_letters,
            projector=self.projector,
            gate=gate,
            metrics=self.metrics,
        )
        self.clock_is_right = True
        self.intake = Intake(
            kinds=[*kinds, *more_kinds],
            settings=settings,
            metrics=self.metrics,
            is_clock_right=lambda: self.clock_is_right,
        )
        self.intake.attach(self)
        self.connection = FakeConnection()
        self.paused = False
        self.published: list[tuple[str, Receipt, bytes | None]] = []
        self.cleared: list[str] = []
        self.next_packet_id = 1

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        correlation_data: bytes | None = None,
        expiry_s: int | None = None,
        retain: bool = False,
    ) -> None:
        if retain:
            assert payload == b""
            self.cleared.append(topic)
            return
        self.published.append((topic, receipts.decode(payload), correlation_data))

    def send(
        self,
        raw: bytes,
        *,
        topic: str = topics.sync(DEVICE),
        qos: int = 1,
        response_topic: str | None = None,
        correlation_data: bytes = b"c",
        retain: bool = False,
    ) -> None:
        packet_id = self.next_packet_id if qos else None
        self.next_packet_id += 1
        connection = cast("Connection", self.connection)
        size_bytes = sum(map(len, (topic.encode(), raw, (response_topic or "").encode(), correlation_data)))
        self.intake.offer(
            Message(topic, raw, packet_id, response_topic, correlation_data, connection, size_bytes, retain)
        )

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"pisync_bridge_{name}", labels)

    @property
    def buried(self) -> list[KeptDeadLetter]:
        """The dead letters."""
        return list(self.dead_letters.dead_letters.values())

    async def drain(self) -> None:
        await asyncio.wait_for(self.intake.drain(), TIMEOUT_S)


@asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[Rig]:
    tasks = [
        asyncio.create_task(rig.catch_up.run()),
        asyncio.create_task(rig.intake.run()),
        asyncio.create_task(rig.judge.run()),
    ]
    await until(lambda: "bridge-0" in rig.streaks.watermarks and not rig.streaks.catching_up)
    try:
        yield rig
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
