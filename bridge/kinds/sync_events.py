"""Sync events: messages → MongoDB → the projection → receipts.

A message's events are stored, or become dead letters, durably; what MongoDB has is merged into the
projection.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime
from typing import Final

import msgspec

from bridge.floods.gate import Gate, Refusal
from bridge.metrics import Metrics
from bridge.projection.projector import Projector
from bridge.retry import until_available
from pisync import clock, limits, sampled
from pisync.domain import decoding, receipts, topics
from pisync.domain.dead_letters import DeadLetter, dead_letter, distinct
from pisync.domain.decoding import Decoded
from pisync.domain.events import Reason, Rejection, SyncEvent
from pisync.domain.payloads import printable
from pisync.mqtt.messages import Message
from pisync.stores.interfaces.dead_letters import DeadLetterStore
from pisync.stores.interfaces.events import EventStore, InsertOutcome
from pisync.tasks import cancel

_TOPIC_CHARS_TOLD: Final = 200
# The events that MongoDB has from this batch, and those that it had before.
Attributed = tuple[list[SyncEvent], list[SyncEvent]]


class Delivery(msgspec.Struct):
    """One message: what it held, the device and the token in its topic, and what became of it."""

    message: Message
    decoded: Decoded
    device_id: str | None
    token: str | None
    stored: int = 0
    duplicates: int = 0
    refusal: Refusal | None = None


class SyncEvents:
    """The kind of message that carries sync events."""

    topic_filter: Final = topics.SYNC_FILTER

    def __init__(
        self,
        *,
        events: EventStore,
        dead_letters: DeadLetterStore,
        projector: Projector,
        gate: Gate,
        metrics: Metrics,
        now: Callable[[], datetime] | None,
    ) -> None:
        self._now = now
        self._events = events
        self._dead_letters = dead_letters
        self._projector = projector
        self._gate = gate
        self._log = sampled.get(__name__)
        metrics.log_lines_left_out(self._log)
        self._metrics = metrics

    async def keep(self, messages: Sequence[Message]) -> list[bytes | None]:
        """Store the events and the dead letters, merge the events, and write the receipts."""
        answers: list[bytes | None] = []
        stored: list[SyncEvent] = []
        duplicates: list[SyncEvent] = []
        with self._projector.receive() as reception:
            while len(answers) < len(messages):
                # Not by the time of receipt, which never goes backwards and so may be ahead of the clock.
                deliveries = _decode_some(messages, len(answers), (self._now or clock.now)(), self._gate)
                of_now, of_before = await self._store(deliveries, reception.received_at)
                stored += of_now
                duplicates += of_before
                answers += [
                    None
                    if delivery.token is None and delivery.message.response_topic is None
                    else _receipt(delivery)
                    for delivery in deliveries
                ]
            await reception.merge(stored, duplicates)
        return answers

    async def _store(self, deliveries: Sequence[Delivery], received_at: datetime) -> Attributed:
        """Make events and dead letters durable; returns the events that MongoDB has with this content."""
        batch = [event for delivery in deliveries for event in delivery.decoded.events]
        attempts = 0

        def insert() -> Awaitable[list[InsertOutcome]]:
            nonlocal attempts
            attempts += 1
            return self._events.insert(batch, received_at)

        outcomes = await self._beside_the_hopeless(
            until_available(insert, self._metrics), deliveries, received_at
        )
        stored, duplicates = _attribute(deliveries, outcomes)
        if attempts > 1:
            stored += await self._stored_before_the_answer_was_lost(duplicates, received_at)
        rejected = [one for one in deliveries if one.decoded.rejections]
        if others := [one for one in rejected if one.decoded.events]:
            await self._bury(others, received_at)
        self._metrics.kept(
            outcomes,
            (rejection.reason for delivery in rejected for rejection in delivery.decoded.rejections),
        )
        return stored, duplicates

    async def _beside_the_hopeless(
        self,
        inserting: Awaitable[list[InsertOutcome]],
        deliveries: Sequence[Delivery],
        received_at: datetime,
    ) -> list[InsertOutcome]:
        """Insert, and meanwhile keep the messages of which nothing can be stored; both are durable then.

        The good messages of the batch would else wait for the one and then for the other.
        """
        hopeless = [one for one in deliveries if one.decoded.rejections and not one.decoded.events]
        if not hopeless:
            return await inserting
        burying = asyncio.create_task(self._bury(hopeless, received_at), name="dead letters")
        try:
            outcomes = await inserting
            await burying
        finally:
            await cancel([burying])
        return outcomes

    async def _stored_before_the_answer_was_lost(
        self, duplicates: Sequence[SyncEvent], received_at: datetime
    ) -> list[SyncEvent]:
        """The duplicates that an earlier attempt of this batch stored: they have its time of receipt."""
        received = await until_available(lambda: self._events.received(duplicates), self._metrics)
        return [event for event, moment in zip(duplicates, received, strict=True) if moment == received_at]

    async def _bury(self, deliveries: Sequence[Delivery], received_at: datetime) -> None:
        """Keep what was rejected as dead letters, one for a message."""
        letters = distinct(_dead_letter(delivery) for delivery in deliveries)
        dropped = await until_available(lambda: self._dead_letters.add(letters, received_at), self._metrics)
        first = letters[0]
        topic = printable(first.topic[:_TOPIC_CHARS_TOLD])
        self._log.warning("rejected", letters=len(letters), first=first.parts[0].detail, topic=topic)
        for device in dropped:
            self._metrics.dead_letters_dropped.inc(device.dropped)
            self._log.warning("dead letters dropped", device_id=device.device_id, count=device.dropped)


def _decode_some(messages: Sequence[Message], start: int, now: datetime, gate: Gate) -> list[Delivery]:
    """The next messages, decoded, until there are so many events and rejections that they should be written.

    A message of 2 bytes an element makes a thousand times its size of rejections, so that bytes bound
    nothing. Looking at the numbers once for many messages keeps them free for good ones. What the gate
    refuses is not decoded.
    """
    deliveries: list[Delivery] = []
    elements = 0
    while elements < limits.BATCH_ELEMENTS_MAX and start < len(messages):
        some = messages[start : start + limits.MESSAGES_DECODED_AT_ONCE]
        refusals = gate.refusals(some) if gate.is_watchful else None
        if refusals:
            decoded = [
                _refused(message, refusals[place]) if place in refusals else _decode(message, now)
                for place, message in enumerate(some)
            ]
        else:
            decoded = [_decode(message, now) for message in some]
        deliveries += decoded
        elements += sum(map(len, [delivery.decoded.events for delivery in decoded]))
        elements += sum(map(len, [delivery.decoded.rejections for delivery in decoded]))
        start += len(some)
    gate.took(_sample(deliveries))
    return deliveries


def _sample(deliveries: Sequence[Delivery]) -> Iterator[tuple[str | None, int, int]]:
    """What devices sent, as the gate counts it; of many messages some by chance stand for all.

    To count every message would take a twentieth of the bridge's time in a drain. Who sends too much sends so
    many that the estimate is good. What is bad counts by what it costs: of tiny elements a message may have
    very many.
    """
    weight = 1
    if len(deliveries) >= limits.RATES_SAMPLED_FROM:
        weight = limits.RATES_SAMPLED_ONE_OF
        deliveries = random.choices(deliveries, k=len(deliveries) // weight)  # noqa: S311 - no secret
    for each in deliveries:
        if each.refusal is None:
            events = len(each.decoded.events)
            if rejections := len(each.decoded.rejections):
                events += limits.LETTER_EVENTS + rejections // limits.REJECTIONS_AN_EVENT
            yield each.device_id, weight * events, weight * each.message.size_bytes


def _decode(message: Message, now: datetime) -> Delivery:
    device_id, token = topics.sync_source(message.topic)
    if device_id is None:
        return _of_wrong_topic(message)
    return Delivery(message, decoding.decode(message.payload, device_id, now), device_id, token)


def _refused(message: Message, refusal: Refusal) -> Delivery:
    """A message that is not looked at: kept as it is, or left out."""
    device_id, token = topics.sync_source(message.topic)
    if device_id is None:
        device_id = topics.sync_device(message.topic)
    nothing = Decoded(events=[], indexes=(), rejections=[refusal.rejection] if refusal.is_kept else [])
    return Delivery(message, nothing, device_id, token, refusal=refusal)


def _of_wrong_topic(message: Message) -> Delivery:
    device_id = topics.sync_device(message.topic)
    if device_id is None:
        reason, detail = Reason.DEVICE_ID, f"the topic names no device: an id is {topics.DEVICE_ID_RULE}"
    else:
        reason, detail = Reason.TOKEN, f"behind sync/ stands no token, which is {topics.RULE_OF_TOKENS}"
    whole = Rejection(index=None, reason=reason, detail=detail)
    return Delivery(message, Decoded(events=[], indexes=(), rejections=[whole]), device_id, None)


def _attribute(deliveries: Sequence[Delivery], outcomes: Sequence[InsertOutcome]) -> Attributed:
    """Give each message its events' outcomes; returns the events that MongoDB has with this content."""
    if outcomes.count(InsertOutcome.STORED) == len(outcomes):
        for delivery in deliveries:
            delivery.stored = len(delivery.decoded.events)
        return [event for delivery in deliveries for event in delivery.decoded.events], []
    stored: list[SyncEvent] = []
    duplicates: list[SyncEvent] = []
    following = iter(outcomes)
    for delivery in deliveries:
        decoded = delivery.decoded
        for event, index in zip(decoded.events, decoded.indexes, strict=True):
            outcome = next(following)
            if outcome is InsertOutcome.STORED:
                delivery.stored += 1
                stored.append(event)
            elif outcome in _STORED_BEFORE:
                delivery.duplicates += 1
                duplicates.append(event)  # stored before, but whether it was merged we cannot know
            else:
                decoded.rejections.append(_rejection(event, index, outcome))
    return stored, duplicates


_STORED_BEFORE: Final = frozenset({InsertOutcome.DUPLICATE, InsertOutcome.ENRICHED})


def _rejection(event: SyncEvent, index: int, outcome: InsertOutcome) -> Rejection:
    reason, detail = Reason.REFUSED, "MongoDB refuses this event"
    if outcome is InsertOutcome.CONFLICT:
        moment = clock.rfc3339(event.timestamp)
        reason, detail = Reason.CONFLICT, f"an event of {moment} with other content is already stored"
    return Rejection(index=index, reason=reason, detail=detail)


def _dead_letter(delivery: Delivery) -> DeadLetter:
    message = delivery.message
    # Without the token: the same again with another one is the same letter.
    topic = message.topic if delivery.token is None else message.topic.removesuffix(f"/{delivery.token}")
    return dead_letter(
        topic=topic,
        device_id=delivery.device_id,
        payload=message.payload,
        rejections=delivery.decoded.rejections,
    )


def _receipt(delivery: Delivery) -> bytes | None:
    message, rejections = delivery.message, delivery.decoded.rejections
    if delivery.refusal is not None and not delivery.refusal.is_kept:
        if not topics.is_api_receipts(message.response_topic or ""):
            return None  # a device forgets a single event that is rejected, and this one is nowhere
        rejections = [delivery.refusal.rejection]
    answer = receipts.receipt(stored=delivery.stored, duplicates=delivery.duplicates, rejections=rejections)
    # An api replica takes every detail, because it answers a person.
    if answer.rejected and not topics.is_api_receipts(message.response_topic or ""):
        return receipts.bounded(answer)
    return receipts.encode(answer)
