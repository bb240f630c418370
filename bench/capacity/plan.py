"""The plan: what a fleet asks for, how much of each part that takes, and which part is full first. Pure."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import msgspec

from bench.capacity.costs import Cost, Costs, Counts, shards_touched
from bench.capacity.measuring import BRIDGE, BROKER, MONGOD, REDIS
from bench.capacity.morning import Capacity, Morning, Outcome, simulate
from pisync import limits

API, WORKER = "api", "worker"
DAY_S: Final = 86_400.0
HEADROOM: Final = 0.7
"""The share of a core that is planned with; the rest is for what nobody planned."""
DAY_PEAK: Final = 3.0
"""How many times the day's average the usual busiest hour is: schools sync in eight hours of the day."""
MONGOD_CORES_MAX: Final = 16
"""Cores of one MongoDB primary, beyond which a shard more is planned."""
# Of mosquitto/limits.conf: what waits for one bridge. Beyond it messages are dropped, and devices that wait
# for receipts send them again; a plan stays below half of it.
QUEUED_MESSAGES_MAX: Final = 2_000_000
QUEUED_BYTES_MAX: Final = 2_147_483_648
QUEUE_SHARE: Final = 0.5
DELIVERING: Final = 2.0
"""How many times what it holds a broker may take while it delivers (docs/operations.md)."""
MESSAGE_BYTES_BESIDE: Final = 400
"""Bytes of a queued message beside its payload: topic, properties, the broker's own."""
CONNECT_BYTES: Final = 1_000
TLS_BYTES: Final = 4_000
CACHE_DAYS: Final = 3
CACHE_BYTES_MIN: Final = 0.25e9
PROCESS_BYTES: Final = 10e6
"""What a broker or a Redis takes that holds nothing."""
SHORTAGES: Final = (0.5, 0.25)
COPIES_SHARE_MAX: Final = 0.001
# The last event is stored so long after the last device came, at most: tried from the cheapest on.
_LATER_S: Final = (240.0, 120.0, 60.0, 0.0)
_FASTER: Final = (0.9, 0.8, 0.65, 0.5, 0.35, 0.25)


class Inputs(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked: the fleet, its days, and its worst morning.

    `syncs` are of a device a day, `backlog` the events of each after an outage, `within_s` the seconds within
    which all come back, `array_events` the events in a message then, `failing` the share of devices with
    failures, `viewers` pages that are open, and `members` those of a replica set.
    """

    devices: int
    syncs: float = 24.0
    backlog: int = 84
    within_s: float = 600.0
    array_events: int = 84
    retention_days: int = 365
    receipts: bool = True
    tls: bool = True
    failing: float = 0.1
    viewers: int = 10
    members: int = 3


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What one part needs: how many of it, cores on a usual day and in the morning, and bytes, all of each.

    `used` is the share of its cores that the morning uses.
    """

    part: str
    count: int
    day_cores: float
    morning_cores: float
    used: float
    memory_bytes: float
    disk_bytes: float = 0.0


class Shortage(msgspec.Struct, frozen=True, kw_only=True):
    """What the same morning comes to where this share of what stands behind the brokers is there."""

    share: float
    stored_s: float
    copies_share: float
    receipt_wait_s: float
    queue_used: float


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The needs, what the morning comes to with them, and what limits first.

    `one_of_each` is, by part, how many devices one of it serves in such a morning; of MongoDB one core.
    """

    inputs: Inputs
    needs: tuple[Need, ...]
    events_a_day: float
    stored_s: float
    copies_share: float
    waiting_max: float
    waiting_bytes: float
    queue_used: float
    connect_wait_s: float
    receipt_wait_s: float
    network_bytes_per_s: float
    shortages: tuple[Shortage, ...]
    first: str
    devices_until: float
    one_of_each: Mapping[str, float]


def planned(inputs: Inputs, costs: Costs) -> Plan:
    """The least that serves the morning without a message sent twice, and no queue more than half full."""
    return _sized(inputs, costs).plan()


def outcome_of(inputs: Inputs, costs: Costs, share: float) -> Outcome:
    """The morning with this share of what is planned behind the brokers."""
    return _sized(inputs, costs).outcome(share)


def _sized(inputs: Inputs, costs: Costs) -> "_Sized":
    """The cheapest counts that serve; the most where none do."""
    window_s = inputs.within_s
    ends = [window_s + later_s for later_s in _LATER_S] + [window_s * faster for faster in _FASTER]
    for end_s in ends:
        sized = _Sized(inputs, costs, end_s)
        if sized.serves():
            break
    return sized


def messages_of(inputs: Inputs) -> float:
    """Messages of one device in the morning."""
    return float(-(-inputs.backlog // inputs.array_events))


def batches(messages: float, rate: float, message_bytes: float) -> float:
    """Batches that bridges make of so many messages where so many come to one bridge a second.

    The first waits half a linger for others, and as long again where some came; a batch has an end by
    messages and by bytes, too.
    """
    half = rate * limits.LINGER_MS / 2000
    size = 1 + half + (1 - math.exp(-half)) * half
    return messages / min(size, limits.BATCH_MESSAGES_MAX, max(1.0, limits.BATCH_BYTES_MAX / message_bytes))


class _Sized:
    """Counts of all parts such that the morning's work is done by `end_s`, and what comes of them."""

    def __init__(self, inputs: Inputs, costs: Costs, end_s: float) -> None:
        self._inputs, self._costs, self._end_s = inputs, costs, end_s
        self._cores_of = self._scaled_costs()
        self._messages = inputs.devices * messages_of(inputs)
        self._message_bytes = min(inputs.array_events, inputs.backlog) * costs.event_bytes
        # The brokers' connections come when they come; what is behind the brokers has until the end.
        self._counts: dict[str, int] = {}
        self._counts[BROKER] = self._count(BROKER, min(end_s, inputs.within_s))
        self._counts[BRIDGE] = max(self._counts[BROKER], self._count(BRIDGE, end_s))
        self._mongod_cores = self._count(MONGOD, end_s)
        self._counts[MONGOD] = math.ceil(self._mongod_cores / MONGOD_CORES_MAX)
        self._counts[REDIS] = self._count(REDIS, end_s)

    def _scaled_costs(self) -> Mapping[str, Cost]:
        """The measured costs, as of a store that has grown old and of a large projection."""
        parts = dict(self._costs.parts)
        old = self._costs.figure("old_store")
        parts[MONGOD] = _times(parts[MONGOD], old)
        tenfold = self._costs.figure("redis_merge_100_000") / self._costs.figure("redis_merge_10_000")
        if self._inputs.devices > 10_000:
            parts[REDIS] = _times(parts[REDIS], tenfold)
        return parts

    def _count(self, part: str, within_s: float) -> int:
        """Cores, for the morning and for the busiest hour of a usual day."""
        morning = self._morning_s(part) / within_s
        usual = self._cores_of[part].cpu_s(self._day_counts())
        return max(1, math.ceil(max(morning, usual) / HEADROOM))

    def _morning_s(self, part: str) -> float:
        """CPU seconds of the whole morning, without what a part uses while nothing comes."""
        return self._cores_of[part].cpu_s(self._morning_counts(0.0))

    def _morning_counts(self, copies: float) -> Counts:
        inputs = self._inputs
        messages = self._messages + copies
        rate = messages / inputs.within_s / self._counts.get(BRIDGE, 1)
        events = float(inputs.devices * inputs.backlog)
        made = batches(messages, rate, self._message_bytes)
        return Counts(
            connects=inputs.devices,
            tls_connects=inputs.devices if inputs.tls else 0,
            batches=made,
            shards=shards_touched(made, messages),
            messages=messages,
            receipts=messages if inputs.receipts else 0,
            waited=messages if self._end_s > inputs.within_s else 0,
            events=events,
            repeats=copies * events / self._messages,
            alerts=inputs.devices * inputs.failing,
        )

    def _day_counts(self) -> Counts:
        """Of a second of the usual busiest hour: each event a message, on a connection of its own."""
        inputs = self._inputs
        rate = inputs.devices * inputs.syncs / DAY_S * DAY_PEAK
        made = batches(rate, rate / self._counts.get(BRIDGE, 1), self._costs.event_bytes)
        return Counts(
            seconds=1,
            connects=rate,
            tls_connects=rate if inputs.tls else 0,
            batches=made,
            shards=shards_touched(made, rate),
            messages=rate,
            receipts=rate if inputs.receipts else 0,
            events=rate,
        )

    def capacity(self) -> Capacity:
        """What the counts can do, with the share of their cores that is planned with."""
        brokers = self._counts[BROKER] * HEADROOM
        broker = self._cores_of[BROKER]
        each = self._inputs.backlog / messages_of(self._inputs)
        receipt = 1.0 if self._inputs.receipts else 0.0
        tls = broker.tls_connects if self._inputs.tls else 0.0
        # A message is taken in, and given out: half of what it costs the broker each.
        half_us = (broker.messages + each * broker.events) / 2
        return Capacity(
            connect_s=(broker.connects + tls) / brokers / 1e6,
            receive_s=half_us / brokers / 1e6,
            deliver_s=(half_us + broker.waited + receipt * broker.receipts) / brokers / 1e6,
            store_s=self._behind_s(Counts(messages=1, receipts=receipt, events=each)),
            repeat_s=self._behind_s(Counts(messages=1, receipts=receipt, repeats=each)),
        )

    def _behind_s(self, message: Counts) -> float:
        """How long the slowest part behind the brokers takes for a message, with its part of a batch."""
        all_of_it = self._morning_counts(0.0)
        message = msgspec.structs.replace(
            message,
            batches=all_of_it.batches / self._messages,
            shards=all_of_it.shards / self._messages,
            alerts=all_of_it.alerts / self._messages,
        )
        cores = {
            BRIDGE: float(self._counts[BRIDGE]),
            MONGOD: float(self._mongod_cores),
            REDIS: float(self._counts[REDIS]),
        }
        return max(self._cores_of[part].cpu_s(message) / count / HEADROOM for part, count in cores.items())

    def serves(self) -> bool:
        """Whether a morning passes without a message sent twice, a full queue or a connection given up."""
        outcome = self.outcome()
        return (
            outcome.copies < COPIES_SHARE_MAX * outcome.messages
            and self._queue_used(outcome) < QUEUE_SHARE
            and outcome.connect_wait_s < limits.CONNECT_TIMEOUT_S
        )

    def outcome(self, share: float = 1.0) -> Outcome:
        """The morning with this share of what is planned behind the brokers."""
        inputs, capacity = self._inputs, self.capacity()
        return simulate(
            Morning(
                devices=inputs.devices,
                window_s=inputs.within_s,
                messages=messages_of(inputs),
                receipts=inputs.receipts,
            ),
            replace(capacity, store_s=capacity.store_s / share, repeat_s=capacity.repeat_s / share),
        )

    def plan(self) -> Plan:
        inputs = self._inputs
        outcome = self.outcome()
        needs = self._needs(outcome)
        queue_used = self._queue_used(outcome)
        used = {need.part: need.used for need in needs if need.part != API} | {
            "queue": queue_used / QUEUE_SHARE * HEADROOM
        }
        first = max(used, key=lambda part: used[part])
        connect_bytes = CONNECT_BYTES + (TLS_BYTES if inputs.tls else 0)
        bytes_a_device = inputs.backlog * self._costs.event_bytes + connect_bytes
        return Plan(
            inputs=inputs,
            needs=needs,
            events_a_day=inputs.devices * inputs.syncs,
            stored_s=outcome.stored_s,
            copies_share=outcome.copies / outcome.messages,
            waiting_max=outcome.waiting_max,
            waiting_bytes=self._waiting_bytes(outcome),
            queue_used=queue_used,
            connect_wait_s=outcome.connect_wait_s,
            receipt_wait_s=outcome.receipt_wait_s,
            network_bytes_per_s=inputs.devices * bytes_a_device / inputs.within_s,
            shortages=tuple(self._shortage(share) for share in SHORTAGES),
            first=first,
            devices_until=inputs.devices * HEADROOM / max(used[first], 1e-6),
            one_of_each={
                part: inputs.devices * inputs.within_s * HEADROOM / self._morning_s(part)
                for part in self._counts
            },
        )

    def _shortage(self, share: float) -> Shortage:
        outcome = self.outcome(share)
        return Shortage(
            share=share,
            stored_s=outcome.stored_s,
            copies_share=outcome.copies / outcome.messages,
            receipt_wait_s=outcome.receipt_wait_s,
            queue_used=self._queue_used(outcome),
        )

    def _waiting_bytes(self, outcome: Outcome) -> float:
        return outcome.waiting_max * (self._message_bytes + MESSAGE_BYTES_BESIDE)

    def _queue_used(self, outcome: Outcome) -> float:
        """How full the bridges' queues in the brokers are, by messages or bytes."""
        queues = self._counts[BRIDGE]
        messages = outcome.waiting_max / queues / QUEUED_MESSAGES_MAX
        return max(messages, self._waiting_bytes(outcome) / queues / QUEUED_BYTES_MAX)

    def _needs(self, outcome: Outcome) -> tuple[Need, ...]:
        inputs, costs = self._inputs, self._costs
        day, morning = self._day_counts(), self._morning_counts(outcome.copies)
        seconds = max(outcome.stored_s, inputs.within_s)
        cores = {part: float(count) for part, count in self._counts.items()} | {MONGOD: self._mongod_cores}
        connections = inputs.devices * costs.figure("broker_connection") * 1e3
        beside = {part: PROCESS_BYTES * self._counts[part] for part in (BROKER, REDIS)}
        memory = {
            BROKER: beside[BROKER] + connections + DELIVERING * self._waiting_bytes(outcome),
            BRIDGE: costs.figure("bridge_memory") * 1e6 * self._counts[BRIDGE],
            MONGOD: 1.5 * self._cache_bytes() + 0.5e9 * self._counts[MONGOD],
            REDIS: beside[REDIS] + 1.5 * inputs.devices * self._redis_device_bytes(),
        }
        disk = inputs.devices * inputs.syncs * inputs.retention_days * costs.figure("event_disk")
        needs = [
            Need(
                part=part,
                count=self._counts[part],
                day_cores=self._cores_of[part].cpu_s(day),
                morning_cores=cores[part],
                used=self._cores_of[part].cpu_s(morning) / seconds / cores[part],
                memory_bytes=memory[part] / self._counts[part],
                disk_bytes=disk / self._counts[part] if part == MONGOD else 0.0,
            )
            for part in (BROKER, BRIDGE, MONGOD, REDIS)
        ]
        return (*needs, self._api(day), self._worker(day, seconds))

    def _api(self, day: Counts) -> Need:
        """A page is asked for every five seconds by each that is open; each replica reads every change."""
        figures, inputs = self._costs.figure, self._inputs
        small, large = figures("overview_100_000"), figures("overview_1_000_000")
        page_ms = max(small / 2, small + (large - small) * (inputs.devices - 100_000) / 900_000)
        pages = inputs.viewers / 5 * page_ms / 1e3
        feed = (day.events * figures("fleet_change") + inputs.devices * figures("fleet_load") / 600) / 1e6
        morning_feed = min(1.0, inputs.devices / inputs.within_s * figures("fleet_change") / 1e6)
        count = max(1, math.ceil(pages / max(HEADROOM - feed, 0.1)))
        return Need(
            part=API,
            count=count,
            day_cores=pages + feed * count,
            morning_cores=float(count),
            used=(pages / count + max(feed, morning_feed)),
            memory_bytes=self._fleet_memory(),
        )

    def _worker(self, day: Counts, seconds: float) -> Need:
        figures, inputs = self._costs.figure, self._inputs
        feed = (day.events * figures("fleet_change") + inputs.devices * figures("fleet_load") / 600) / 1e6
        morning_us = inputs.backlog * figures("worker_event") + figures("fleet_change")
        return Need(
            part=WORKER,
            count=1,
            day_cores=day.events * figures("worker_event") / 1e6 + feed,
            morning_cores=1.0,
            used=inputs.devices * morning_us / 1e6 / seconds,
            memory_bytes=self._fleet_memory(),
        )

    def _fleet_memory(self) -> float:
        """Of a process that holds the fleet, such as the api."""
        small, large = (
            self._costs.figure("api_memory_100_000") * 1e6,
            self._costs.figure("api_memory_1_000_000") * 1e6,
        )
        each = (large - small) / 900_000
        return small + (self._inputs.devices - 100_000) * each

    def _cache_bytes(self) -> float:
        """The keys of the days that are written to, and of what the morning brings."""
        inputs = self._inputs
        events = max(inputs.devices * inputs.syncs * CACHE_DAYS, inputs.devices * inputs.backlog)
        each = max(CACHE_BYTES_MIN, events * self._costs.figure("event_keys") / self._counts[MONGOD])
        return each * self._counts[MONGOD]

    def _redis_device_bytes(self) -> float:
        without, failing = self._costs.figure("redis_device"), self._costs.figure("redis_failing_device")
        return without + self._inputs.failing * (failing - without)


def _times(cost: Cost, factor: float) -> Cost:
    """Each event costs so many times as much; what a second or a message costs beside stays."""
    return msgspec.structs.replace(cost, events=cost.events * factor, repeats=cost.repeats * factor)
