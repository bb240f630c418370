"""The bridge's hot path: messages → batch → MongoDB → Redis → receipts → PUBACK.

Batches are worked on side by side and settled in the order in which their messages came [MQTT-4.6.0-2].
A message is acknowledged only when MongoDB has all of its events, or its dead letters, durably.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import Protocol

import msgspec

from bridge.metrics import Metrics
from bridge.projection.projector import Projector
from bridge.retry import until_available
from pisync import clock, limits, logs
from pisync.domain import decoding, receipts, topics
from pisync.domain.decoding import Decoded
from pisync.domain.events import Reason, Rejection, SyncEvent
from pisync.mqtt.client import Publisher
from pisync.mqtt.messages import Message
from pisync.settings import Settings
from pisync.stores.interfaces.dead_letters import DeadLetter
from pisync.stores.interfaces.events import EventStore, InsertOutcome

log = logs.get(__name__)


class FlowControl(Publisher, Protocol):
    """What the pipeline asks of the MQTT session."""

    def pause(self) -> None:
        """Stop taking messages in."""

    def resume(self) -> None:
        """Take messages in again."""


class Delivery(msgspec.Struct):
    """One message on its way: what it held and what became of it."""

    message: Message
    decoded: Decoded
    stored: int = 0
    duplicates: int = 0


@dataclass(kw_only=True, slots=True)
class Batch:
    """Messages that are written together."""

    messages: list[Message]
    payload_bytes: int
    began_at: float  # the event loop's time when it began to gather
    settled: asyncio.Event = field(default_factory=asyncio.Event)


class Intake:
    """Takes messages in with `offer`, works on them in `run`, and holds no more than its limits allow."""

    def __init__(
        self, *, store: EventStore, projector: Projector, settings: Settings, metrics: Metrics
    ) -> None:
        self._store = store
        self._projector = projector
        self._metrics = metrics
        self._batch_messages_max = settings.batch_events_max
        self._linger_s = settings.linger_ms / 1000
        self._messages_max = settings.inflight_messages_max
        self._bytes_max = settings.inflight_bytes_max
        self._slots = asyncio.Semaphore(settings.batches_inflight_max)
        self._flow: FlowControl | None = None
        self._paused = False
        self._draining = False
        self._pending: deque[Message] = deque()
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.offered = 0
        # For whoever ends us: a task group cancels its tasks once, and a driver may lose that once.
        self.batches: set[asyncio.Task[None]] = set()
        self._held_messages = 0
        self._held_bytes = 0
        metrics.messages_received.set_function(lambda: self.offered)
        metrics.inflight_messages.set_function(lambda: self._held_messages)
        metrics.inflight_bytes.set_function(lambda: self._held_bytes)

    def attach(self, flow: FlowControl) -> None:
        """Say which session the messages come from and the receipts go to."""
        self._flow = flow

    def offer(self, message: Message) -> None:
        """Take a message in; at the limit the session is paused."""
        self._pending.append(message)
        self.offered += 1
        self._held_messages += 1
        self._held_bytes += len(message.payload)
        if len(self._pending) == 1:
            self._idle.clear()
            self._arrived.set()
        if self._held_messages >= self._messages_max or self._held_bytes >= self._bytes_max:
            self._apply_backpressure()

    @property
    def is_idle(self) -> bool:
        """Whether everything taken in is settled."""
        return self._held_messages == 0

    async def drain(self) -> None:
        """Take nothing more in; return when everything taken in is settled."""
        self._draining = True
        self._apply_backpressure()
        await self._idle.wait()

    async def run(self) -> None:
        """Work until cancelled. A failure that is not `Unavailable` is a defect, and ends the bridge."""
        loop = asyncio.get_running_loop()
        settled = asyncio.Event()
        settled.set()
        async with asyncio.TaskGroup() as group:
            while True:
                await self._arrived.wait()
                began_at = loop.time()
                if len(self._pending) < self._batch_messages_max:
                    await asyncio.sleep(self._linger_s)
                await self._slots.acquire()
                batch = self._take(began_at)
                task = group.create_task(self._work_on(batch, settled), name="batch")
                self.batches.add(task)
                task.add_done_callback(self.batches.discard)
                settled = batch.settled

    def _take(self, began_at: float) -> Batch:
        pending, payload_bytes = self._pending, 0
        messages: list[Message] = []
        for _ in range(min(len(pending), self._batch_messages_max)):
            size = len(pending[0].payload)
            if messages and payload_bytes + size > limits.BATCH_BYTES_MAX:
                break
            messages.append(pending.popleft())
            payload_bytes += size
        if not pending:
            self._arrived.clear()
        return Batch(messages=messages, payload_bytes=payload_bytes, began_at=began_at)

    async def _work_on(self, batch: Batch, predecessor: asyncio.Event) -> None:
        try:
            works = await self._keep(batch.messages)
            await predecessor.wait()
            acknowledged = self._settle(works)
        finally:
            self._slots.release()
        batch.settled.set()
        self._metrics.settled(
            messages=len(batch.messages),
            acknowledged=acknowledged,
            seconds=asyncio.get_running_loop().time() - batch.began_at,
        )
        self._held_messages -= len(batch.messages)
        self._held_bytes -= batch.payload_bytes
        if not self._held_messages:
            self._idle.set()
        self._apply_backpressure()

    async def _keep(self, messages: Sequence[Message]) -> list[Delivery]:
        """Make everything in the messages durable, and project it."""
        received_at = self._projector.receive()
        works = [Delivery(message, _decode(message, received_at)) for message in messages]
        batch = [event for work in works for event in work.decoded.events]
        outcomes = await until_available(lambda: self._store.insert(batch, received_at), self._metrics)
        kept = _attribute(works, outcomes)
        letters = [_dead_letter(work.message, fault) for work in works for fault in work.decoded.rejections]
        if letters:
            await until_available(lambda: self._store.add_dead_letters(letters, received_at), self._metrics)
            log.warning("rejected", count=len(letters), first=letters[0].detail, topic=letters[0].topic)
        self._metrics.kept(outcomes, (letter.reason for letter in letters))
        await self._projector.apply(kept, received_at)
        return works

    def _settle(self, works: Sequence[Delivery]) -> int:
        """Answer and acknowledge, in order, in one write for each connection; returns how many were."""
        for work in works:
            if work.message.response_topic is not None:
                self._answer(work, work.message.response_topic)
        acknowledged = 0
        messages = (work.message for work in works)
        for connection, its in groupby(messages, attrgetter("connection")):
            packet_ids = [message.packet_id for message in its if message.packet_id is not None]
            if packet_ids and connection.acknowledge(packet_ids):
                acknowledged += len(packet_ids)
        return acknowledged

    def _answer(self, work: Delivery, response_topic: str) -> None:
        device_id = topics.sync_device(work.message.topic)
        if self._flow is None or device_id is None:
            return
        if not topics.may_receive_receipt(response_topic, device_id):
            return
        receipt = receipts.receipt(
            stored=work.stored, duplicates=work.duplicates, rejections=work.decoded.rejections
        )
        self._flow.publish(
            response_topic,
            receipts.encode(receipt),
            correlation_data=work.message.correlation_data,
            expiry_s=limits.RECEIPT_EXPIRY_S,
        )

    def _apply_backpressure(self) -> None:
        if self._flow is None:
            return
        full = (
            self._draining or self._held_messages >= self._messages_max or self._held_bytes >= self._bytes_max
        )
        if full and not self._paused:
            self._paused = True
            self._flow.pause()
        elif self._paused and not full:
            self._paused = False
            self._flow.resume()


def _decode(message: Message, now: datetime) -> Decoded:
    device_id = topics.sync_device(message.topic)
    if device_id is None:
        detail = f"the topic names no device: an id is {topics.DEVICE_ID_RULE}"
        whole = Rejection(index=None, reason=Reason.DEVICE_ID, detail=detail, raw=message.payload)
        return Decoded(events=[], indexes=(), rejections=[whole])
    return decoding.decode(message.payload, device_id, now)


def _attribute(works: Sequence[Delivery], outcomes: Sequence[InsertOutcome]) -> list[SyncEvent]:
    """Give each message its events' outcomes; returns the events that MongoDB has with this content."""
    if outcomes.count(InsertOutcome.STORED) == len(outcomes):
        for work in works:
            work.stored = len(work.decoded.events)
        return [event for work in works for event in work.decoded.events]
    kept = []
    following = iter(outcomes)
    for work in works:
        for event, index in zip(work.decoded.events, work.decoded.indexes, strict=True):
            outcome = next(following)
            if outcome is InsertOutcome.STORED:
                work.stored += 1
                kept.append(event)
            elif outcome is InsertOutcome.DUPLICATE:
                work.duplicates += 1
                kept.append(event)  # stored before, but whether projected we cannot know
            else:
                work.decoded.rejections.append(_rejection(work, event, index, outcome))
    return kept


def _rejection(work: Delivery, event: SyncEvent, index: int, outcome: InsertOutcome) -> Rejection:
    reason, detail = Reason.REFUSED, "MongoDB refuses this event"
    if outcome is InsertOutcome.CONFLICT:
        moment = clock.rfc3339(event.timestamp)
        reason, detail = Reason.CONFLICT, f"an event of {moment} with other content is already stored"
    raw = decoding.element(work.message.payload, index)
    return Rejection(index=index, reason=reason, detail=detail, raw=raw)


def _dead_letter(message: Message, fault: Rejection) -> DeadLetter:
    return DeadLetter(
        topic=message.topic,
        device_id=topics.sync_device(message.topic),
        reason=fault.reason,
        detail=fault.detail,
        raw=fault.raw,
    )
