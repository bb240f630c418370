"""The bridge's hot path: messages → batch → a kind makes them durable → answers → PUBACK.

One intake for all kinds of messages, because their bounds and their order are shared: batches are worked on
side by side, and acknowledged in the order in which their messages came [MQTT-4.6.0-2].
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Final, Protocol

from bridge.kinds import Kind
from bridge.linger import Linger
from bridge.metrics import Metrics
from pisync import limits, sampled
from pisync.domain import topics
from pisync.domain.payloads import printable
from pisync.mqtt.client import Publisher
from pisync.mqtt.messages import Message, topic_pattern
from pisync.settings import BridgeSettings

_TOPIC_CHARS_TOLD: Final = 200
_IS_RETAINED: Final = attrgetter("is_retained")


class FlowControl(Publisher, Protocol):
    """What the intake asks of the MQTT session."""

    def pause(self) -> None:
        """Stop taking messages in."""

    def resume(self) -> None:
        """Take messages in again."""


@dataclass(kw_only=True, slots=True)
class Batch:
    """Messages that are worked on together."""

    messages: list[Message]
    size_bytes: int
    began_at: float  # the event loop's time when it began to gather
    acknowledged: asyncio.Event = field(default_factory=asyncio.Event)


class Intake:
    """Takes messages in with `offer`, works on them in `run`, and holds no more than its limits allow."""

    def __init__(
        self,
        *,
        kinds: Sequence[Kind],
        settings: BridgeSettings,
        metrics: Metrics,
        is_clock_right: Callable[[], bool] = lambda: True,
    ) -> None:
        """Prepare.

        Args:
            kinds: the kinds of messages there are; the first also gets what none of the others takes.
            settings: the limits.
            metrics: where batches are counted, and what reads how much is held.
            is_clock_right: whether a batch may be judged by the clock as it is; asked before each.
        """
        self._kinds = kinds
        self._routes = [(topic_pattern(kind.topic_filter).fullmatch, kind) for kind in kinds]
        self._metrics = metrics
        self._log = sampled.get(__name__)
        metrics.log_lines_left_out(self._log)
        self._batch_messages_max = settings.batch_messages_max
        self._linger = Linger(longest_s=settings.linger_ms / 1000)
        self._messages_max = settings.inflight_messages_max
        self._bytes_max = settings.inflight_bytes_max
        self._slots = asyncio.Semaphore(settings.batches_inflight_max)
        self._flow: FlowControl | None = None
        self._paused = False
        self._draining = False
        self._is_clock_right = is_clock_right
        self._released = asyncio.Event()
        self._released.set()
        self._pending: deque[Message] = deque()
        self._pending_bytes = 0
        self._arrived = asyncio.Event()
        # When to ask the linger again whether the next batch begins; the number of messages that sets it.
        self._look = asyncio.Event()
        self._look_at = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.offered = 0
        # A task group cancels its tasks once, and a driver may lose that once: who ends the intake ends
        # these.
        self.batches: set[asyncio.Task[None]] = set()
        self._held_messages = 0
        self._held_bytes = 0
        metrics.messages_received.set_function(lambda: self.offered)
        metrics.inflight_messages.set_function(lambda: self._held_messages)
        metrics.inflight_bytes.set_function(lambda: self._held_bytes)

    def attach(self, flow: FlowControl) -> None:
        """Say which session the messages come from and the answers go to."""
        self._flow = flow

    def offer(self, message: Message) -> None:
        """Take a message in; at the limit the session is paused."""
        self._pending.append(message)
        pending = len(self._pending)
        size_bytes = message.size_bytes
        self.offered += 1
        self._held_messages += 1
        self._held_bytes += size_bytes
        self._pending_bytes = pending_bytes = self._pending_bytes + size_bytes
        if pending == 1:
            self._idle.clear()
            self._arrived.set()
        if pending == self._look_at or pending_bytes - size_bytes < limits.BATCH_BYTES_MAX <= pending_bytes:
            self._look.set()
        if self._held_messages >= self._messages_max or self._held_bytes >= self._bytes_max:
            self._apply_backpressure()

    @property
    def is_idle(self) -> bool:
        """Whether everything taken in is acknowledged."""
        return self._held_messages == 0

    def hold(self) -> None:
        """Work on no more batches, and take nothing in, until `release`; those under way are finished."""
        self._released.clear()
        self._apply_backpressure()

    def release(self) -> None:
        """Go on after a `hold`."""
        self._released.set()
        self._apply_backpressure()

    async def drain(self) -> None:
        """Take nothing more in; return when everything taken in is acknowledged.

        What is on hold is not worked on: the broker will deliver it again.
        """
        self._draining = True
        self._apply_backpressure()
        if not self._released.is_set():
            return
        await self._idle.wait()

    async def run(self) -> None:
        """Work until cancelled. A failure that is not `Unavailable` is a defect, and ends the bridge."""
        loop = asyncio.get_running_loop()
        predecessor = asyncio.Event()
        predecessor.set()
        async with asyncio.TaskGroup() as group:
            while True:
                await self._arrived.wait()
                began_at = loop.time()
                await self._gather()
                await self._slots.acquire()
                if not self._is_clock_right():
                    self.hold()
                await self._released.wait()
                batch = self._take(began_at)
                self._linger.begin(now=loop.time(), messages=len(batch.messages))
                task = group.create_task(self._work_on(batch, predecessor), name="batch")
                self.batches.add(task)
                task.add_done_callback(self.batches.discard)
                predecessor = batch.acknowledged

    async def _gather(self) -> None:
        """Wait for more messages as long as the linger says; not where the batch is full or none can come."""
        loop = asyncio.get_running_loop()
        while not (self._paused or self._is_full):
            pending = len(self._pending)
            wait_s = self._linger.wait_s(now=loop.time(), messages=pending, batches=len(self.batches))
            if not wait_s:
                return
            # Of the messages on the way only these wake us: the one that makes them many, and the one that
            # makes the batch full.
            self._look_at = self._batch_messages_max
            if pending < limits.LINGER_MANY:
                self._look_at = min(self._look_at, limits.LINGER_MANY)
            self._look.clear()
            timer = loop.call_later(wait_s, self._look.set)
            await self._look.wait()
            timer.cancel()

    @property
    def _is_full(self) -> bool:
        """Whether what has come makes a full batch."""
        return len(self._pending) >= self._batch_messages_max or self._pending_bytes >= limits.BATCH_BYTES_MAX

    def _take(self, began_at: float) -> Batch:
        pending, size_bytes = self._pending, 0
        messages: list[Message] = []
        for _ in range(min(len(pending), self._batch_messages_max)):
            size = pending[0].size_bytes
            if messages and size_bytes + size > limits.BATCH_BYTES_MAX:
                break
            messages.append(pending.popleft())
            size_bytes += size
        self._pending_bytes -= size_bytes
        if not pending:
            self._arrived.clear()
        return Batch(messages=messages, size_bytes=size_bytes, began_at=began_at)

    async def _work_on(self, batch: Batch, predecessor: asyncio.Event) -> None:
        try:
            answers = await self._keep(batch.messages)
            await predecessor.wait()
            self._answer(batch.messages, answers)
            self._clear_retained(batch.messages)
            acknowledged = _acknowledge(batch.messages)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # A stray cancellation of a driver: the batches behind this one would wait for it for ever.
            raise RuntimeError("a batch was cancelled from within") from None
        finally:
            self._slots.release()
        batch.acknowledged.set()
        self._metrics.batch_acknowledged(
            messages=len(batch.messages),
            acknowledged=acknowledged,
            seconds=asyncio.get_running_loop().time() - batch.began_at,
        )
        self._held_messages -= len(batch.messages)
        self._held_bytes -= batch.size_bytes
        if not self._held_messages:
            self._idle.set()
        self._apply_backpressure()

    async def _keep(self, messages: Sequence[Message]) -> Sequence[bytes | None]:
        """Have each kind make its messages durable; returns the answers in the order of the messages."""
        if any(map(_IS_RETAINED, messages)):
            return await self._keep_with_retained(messages)
        return await self._keep_by_kind(messages)

    async def _keep_by_kind(self, messages: Sequence[Message]) -> Sequence[bytes | None]:
        if len(self._kinds) == 1:
            return await self._kinds[0].keep(messages)
        places: dict[Kind, list[int]] = {}
        for place, message in enumerate(messages):
            places.setdefault(self._kind_of(message.topic), []).append(place)
        answers: list[bytes | None] = [None] * len(messages)
        for kind, taken in places.items():
            found = await kind.keep([messages[place] for place in taken])
            for place, answer in zip(taken, found, strict=True):
                answers[place] = answer
        return answers

    async def _keep_with_retained(self, messages: Sequence[Message]) -> Sequence[bytes | None]:
        """Keep all but what clears a retained message: that is nothing else, whether ours or a device's."""
        others = [
            place for place, message in enumerate(messages) if message.payload or not message.is_retained
        ]
        answers: list[bytes | None] = [None] * len(messages)
        if others:
            found = await self._keep_by_kind([messages[place] for place in others])
            for place, answer in zip(others, found, strict=True):
                answers[place] = answer
        return answers

    def _clear_retained(self, messages: Sequence[Message]) -> None:
        """Have the broker retain none of these: it would keep any number of them, each of up to 1 MiB."""
        if self._flow is None or not any(map(_IS_RETAINED, messages)):
            return
        for topic in {message.topic for message in messages if message.is_retained and message.payload}:
            if topics.sync_device(topic) is not None:
                self._flow.publish(topic, b"", retain=True)
                self._metrics.retained_cleared.inc()

    def _kind_of(self, topic: str) -> Kind:
        return next((kind for matches, kind in self._routes if matches(topic)), self._kinds[0])

    def _answer(self, messages: Iterable[Message], answers: Iterable[bytes | None]) -> None:
        """Publish the answers, in order, to the Response Topics of their messages, or by their tokens.

        A Response Topic that may not receive them is ignored, whatever the kind: a device must not be able to
        talk the bridge into publishing elsewhere. So is a message with too large Correlation Data: of 64 KB,
        an answer would be forty times what it may be.
        """
        if self._flow is None:
            return
        unanswered: list[Message] = []
        for message, answer in zip(messages, answers, strict=True):
            if answer is None:
                continue
            device_id = topics.device(message.topic)
            if device_id is None and message.topic != topics.SYNC_OF_NO_DEVICE:
                continue
            answer_topic = message.response_topic
            if answer_topic is None or not topics.may_receive_receipt(answer_topic, device_id):
                answer_topic = topics.token_receipts(message.topic)
            if answer_topic is None:
                continue
            if len(message.correlation_data or b"") > limits.CORRELATION_BYTES_MAX:
                unanswered.append(message)
                continue
            self._flow.publish(
                answer_topic,
                answer,
                correlation_data=message.correlation_data,
                expiry_s=limits.RECEIPT_EXPIRY_S,
            )
        if unanswered:
            self._log.warning(
                "not answered: Correlation Data too large",
                count=len(unanswered),
                bytes_max=limits.CORRELATION_BYTES_MAX,
                topic=printable(unanswered[0].topic[:_TOPIC_CHARS_TOLD]),
            )

    def _apply_backpressure(self) -> None:
        if self._flow is None:
            return
        full = (
            self._draining
            or not self._released.is_set()
            or self._held_messages >= self._messages_max
            or self._held_bytes >= self._bytes_max
        )
        if full and not self._paused:
            self._paused = True
            self._look.set()
            self._flow.pause()
        elif self._paused and not full:
            self._paused = False
            self._flow.resume()


def _acknowledge(messages: Iterable[Message]) -> int:
    """Send the PUBACKs, in order, in one write for each connection; returns how many were sent."""
    acknowledged = 0
    for connection, received in groupby(messages, attrgetter("connection")):
        packet_ids = [message.packet_id for message in received if message.packet_id is not None]
        if packet_ids and connection.acknowledge(packet_ids):
            acknowledged += len(packet_ids)
    return acknowledged
