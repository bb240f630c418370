"""Rows: how fast a bridge drains a backlog, next to what the broker and the database do without it."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import Any, Final

from bench import broker
from bench import rig as rigs
from bench.draining import Drain, drain_of, drained_by_bridge, mosquitto_sub_drain, queue_for_returning
from bench.results import AT_LEAST, AT_MOST, Result, Target
from bench.rig import Rig, reached
from bench.scale import Scale
from bench.traffic import TOGETHER, Traffic, windows
from local_stack.process import running
from pisync import clock, limits
from pisync.domain import topics
from pisync.domain.events import SyncEvent
from pisync.stores.mongodb.events import documents

SINGLE_EVENTS: Final = 200_000
ARRAY_EVENTS: Final = 1_000_000
EVENTS_AN_ARRAY: Final = 50
ROUNDS: Final = 3
_INSERTS_AT_ONCE: Final = 4

Messages = Callable[[], Iterable[tuple[str, bytes]]]


async def single(scale: Scale) -> list[Result]:
    """Drain one event a message, in turn with `mosquitto_sub`; medians of three rounds."""
    traffic = Traffic.of_fleet(scale, SINGLE_EVENTS)
    waves = await _next_to_mosquitto_sub(traffic, lambda: traffic.single_messages(together=TOGETHER))
    mixed = await _next_to_mosquitto_sub(traffic, traffic.single_messages)
    queued = f"{traffic.events:,} QoS 1 messages queued, of {traffic.devices:,} devices"
    return [
        Result(
            name="drain, one event a message",
            value=waves.per_second,
            unit="events/s",
            against="mosquitto_sub, which keeps nothing",
            against_value=waves.limit_per_second,
            target=Target(AT_LEAST, 0.7),
            cpu_us_per_event=waves.cpu_us_per_event,
            note=f"{queued}; {TOGETHER} devices at a time come back, and take turns until each has sent all",
        ),
        _bridges_cpu("drain, one event a message", waves, at_most=1.0),
        Result(
            name="drain, one event a message, all devices in turn",
            value=mixed.per_second,
            unit="events/s",
            against="mosquitto_sub, which keeps nothing",
            against_value=mixed.limit_per_second,
            target=Target(AT_LEAST, 0.55),
            cpu_us_per_event=mixed.cpu_us_per_event,
            note=f"{queued}; neighbours are never of one device, so that no batch has two events of one",
        ),
    ]


async def arrays(scale: Scale) -> list[Result]:
    """Drain arrays, in turn with a bare insert of the same documents; medians of three rounds."""
    traffic = Traffic.of_fleet(scale, ARRAY_EVENTS)
    drains, inserts = [], []
    for _ in range(ROUNDS):
        async with rigs.fresh() as rig:
            inserts.append(await _bare_insert(rig, traffic))
        drains.append(await _drain(traffic, lambda: traffic.backlogs(EVENTS_AN_ARRAY)))
    both = _Medians(drains=drains, limits_per_second=[insert.per_second for insert in inserts])
    return [
        Result(
            name=f"drain, arrays of {EVENTS_AN_ARRAY}",
            value=both.per_second,
            unit="events/s",
            against="insert_many of the same documents, from memory",
            against_value=both.limit_per_second,
            target=Target(AT_LEAST, 0.6),
            cpu_us_per_event=both.cpu_us_per_event,
            note=f"{traffic.events:,} events of {traffic.devices:,} devices; insert_many with majority and"
            f" journal, {limits.BATCH_MESSAGES_MAX:,} documents each, {_INSERTS_AT_ONCE} at once, into the"
            " same indexes",
        ),
        _bridges_cpu(f"drain, arrays of {EVENTS_AN_ARRAY}", both, at_most=0.65),
    ]


async def two_bridges(scale: Scale) -> list[Result]:
    """Drain the same backlog with one bridge, and with two that share the subscription."""
    traffic = Traffic.of_fleet(scale, SINGLE_EVENTS)

    def messages() -> Iterable[tuple[str, bytes]]:
        return traffic.single_messages(together=TOGETHER)

    one = [await _drain(traffic, messages) for _ in range(ROUNDS)]
    two = [await _drain_by_two(traffic, messages) for _ in range(ROUNDS)]
    pair = _Medians(drains=two, limits_per_second=[drain.per_second for drain in one])
    used = sum(pair.cpu_us_per_event.values()) * pair.per_second / 1e6
    return [
        Result(
            name="drain, two bridges",
            value=pair.per_second,
            unit="events/s",
            against="one bridge",
            against_value=pair.limit_per_second,
            cpu_us_per_event=pair.cpu_us_per_event,
            note=f"all processes together keep {used:.1f} cores busy: beyond the machine's, a second bridge"
            " only takes turns with the first",
        )
    ]


async def secure(scale: Scale) -> list[Result]:
    """Drain the same backlog from a broker with TLS and access control, in turn with an open one."""
    traffic = Traffic.of_fleet(scale, SINGLE_EVENTS)

    def messages() -> Iterable[tuple[str, bytes]]:
        return traffic.single_messages(together=TOGETHER)

    devices = sorted({topics.device(topic) or "" for topic, _ in messages()})
    guarded, open_ = [], []
    for _ in range(ROUNDS):
        open_.append(await _drain(traffic, messages))
        async with rigs.fresh(secure_devices=devices) as rig:
            guarded.append(await drained_by_bridge(rig, messages(), events=traffic.events))
    both = _Medians(drains=guarded, limits_per_second=[drain.per_second for drain in open_])
    plain = _Medians(drains=open_, limits_per_second=[drain.per_second for drain in open_])
    return [
        Result(
            name="drain, with TLS and access control",
            value=both.per_second,
            unit="events/s",
            against="without",
            against_value=both.limit_per_second,
            target=Target(AT_LEAST, 0.85),
            cpu_us_per_event=both.cpu_us_per_event,
            note=f"{traffic.events:,} QoS 1 messages queued; the bridge's connection has a certificate and an"
            f" account, and the broker knows {len(devices):,} devices",
        ),
        Result(
            name="drain, with TLS and access control: the broker's and the bridge's CPU",
            value=both.cpu_us("mosquitto") + both.cpu_us("bridge"),
            unit="us/event",
            against="without",
            against_value=plain.cpu_us("mosquitto") + plain.cpu_us("bridge"),
        ),
    ]


@dataclass(frozen=True, kw_only=True)
class _Medians:
    """The medians of several rounds: of the bridge's, and of what bounds it."""

    drains: Sequence[Drain]
    limits_per_second: Sequence[float]

    @property
    def per_second(self) -> float:
        return median(drain.per_second for drain in self.drains)

    @property
    def limit_per_second(self) -> float:
        return median(self.limits_per_second)

    @property
    def cpu_us_per_event(self) -> dict[str, float]:
        return {name: self.cpu_us(name) for name in self.drains[0].cpu_us_per_event}

    def cpu_us(self, name: str) -> float:
        return median(drain.cpu_us_per_event[name] for drain in self.drains)


def _bridges_cpu(what: str, medians: _Medians, *, at_most: float) -> Result:
    return Result(
        name=f"{what}: the bridge's CPU",
        value=medians.cpu_us("bridge"),
        unit="us/event",
        against="mongod's",
        against_value=medians.cpu_us("mongod"),
        target=Target(AT_MOST, at_most),
    )


async def _next_to_mosquitto_sub(traffic: Traffic, messages: Messages) -> _Medians:
    drains, subs = [], []
    for _ in range(ROUNDS):
        async with rigs.fresh() as rig:
            subs.append(await mosquitto_sub_drain(rig, messages(), traffic.events))
        drains.append(await _drain(traffic, messages))
    return _Medians(drains=drains, limits_per_second=[drain.per_second for drain in subs])


async def _drain(traffic: Traffic, messages: Messages) -> Drain:
    async with rigs.fresh() as rig:
        return await drained_by_bridge(rig, messages(), events=traffic.events)


async def _drain_by_two(traffic: Traffic, messages: Messages) -> Drain:
    """Drain with two bridges, each with half the backlog: the broker deals the messages out as they come."""
    async with rigs.fresh() as rig, AsyncExitStack() as stack:
        bridges = [rig.bridge(f"bridge-{number}") for number in range(2)]
        for bridge in bridges:
            await queue_for_returning(rig, bridge, [])
        count = await asyncio.to_thread(broker.publish, rig.mosquitto.port, messages())
        await asyncio.gather(*(stack.enter_async_context(running(bridge)) for bridge in bridges))
        meter = rig.meter(**{bridge.name: bridge.pid for bridge in bridges})
        before = await rig.stored()
        await reached(rig.stored, traffic.events)
        for bridge in bridges:
            await reached(bridge.acknowledged, count // 2)
        return drain_of(meter, count, traffic.events - before)


async def _bare_insert(rig: Rig, traffic: Traffic) -> Drain:
    """Insert the events' documents; making them is not counted."""
    async with rig.event_store():
        collection: Any = rig.database.sync_events  # with the product's indexes
    received_at = clock.now()
    meter = rig.meter()
    seconds = 0.0
    events = _in_order(traffic)
    at_once = limits.BATCH_MESSAGES_MAX * _INSERTS_AT_ONCE
    while chunk := documents(list(islice(events, at_once)), received_at):
        parts = [chunk[part.start : part.stop] for part in windows(len(chunk), limits.BATCH_MESSAGES_MAX)]
        began = time.perf_counter()
        await asyncio.gather(*(collection.insert_many(part, ordered=False) for part in parts))
        seconds += time.perf_counter() - began
    usage = meter.usage()
    return Drain(
        messages=0,
        events=traffic.events,
        seconds=seconds,
        cpu_us_per_event=usage.per_event_us(traffic.events),
    )


def _in_order(traffic: Traffic) -> Iterator[SyncEvent]:
    """The events as the arrays hold them."""
    for numbers in windows(traffic.events_per_device, EVENTS_AN_ARRAY):
        for device in range(traffic.devices):
            for number in numbers:
                yield traffic.event(device, number)
