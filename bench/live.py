"""Row: how long a device waits for its receipt while others publish at a steady rate, and what that costs."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench import rig as rigs
from bench.results import AT_MOST, Result, Target, percentile
from bench.rig import Rig
from bench.scale import Scale
from bench.steady import SteadyClient
from bench.traffic import Traffic
from local_stack.process import running
from pisync import clock, limits
from pisync.stores.mongodb.events import documents

MESSAGES_PER_S: Final = 2_000
SLOWER_MESSAGES_PER_S: Final = (200, 20)
SECONDS: Final = 15
DEVICES: Final = 1_000
P50_MS_MAX: Final = 15.0
P99_MS_MAX: Final = 50.0
BRIDGE_CPU_US_MAX: Final = 105.0
_INSERTS: Final = 300


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What one rate gave."""

    per_second: int
    seconds: int
    waits_ms: Sequence[float]
    batches: int
    cpu_us: Mapping[str, float]
    insert_ms: float

    def wait_ms(self, percent: int) -> float:
        return percentile(self.waits_ms, percent)

    @property
    def note(self) -> str:
        return (
            f"{self.per_second:,} messages/s for {self.seconds} s,"
            f" {len(self.waits_ms) / self.batches:.1f} in a batch"
        )


async def live(scale: Scale) -> list[Result]:
    """Publish single events at a steady rate and time each from its publish to its receipt."""
    run = await _at_rate(MESSAGES_PER_S, scale)
    slower = [await _at_rate(rate, scale) for rate in SLOWER_MESSAGES_PER_S]
    return [
        Result(
            name="live, publish to receipt, p50",
            value=run.wait_ms(50),
            unit="ms",
            against="the longest that is right",
            against_value=P50_MS_MAX,
            target=Target(AT_MOST, 1.0),
            cpu_us_per_event=run.cpu_us,
            note=f"{run.note}; a message waits for others for {limits.LINGER_MS} ms at most",
        ),
        Result(
            name="live, publish to receipt, p99",
            value=run.wait_ms(99),
            unit="ms",
            against="the longest that is right",
            against_value=P99_MS_MAX,
            target=Target(AT_MOST, 1.0),
            note=run.note,
        ),
        Result(
            name="live: the bridge's CPU",
            value=run.cpu_us["bridge"],
            unit="us/message",
            against="half of the 210 of a fixed linger of 2 ms",
            against_value=BRIDGE_CPU_US_MAX,
            target=Target(AT_MOST, 1.0),
            note=run.note,
        ),
        *(
            Result(
                name=f"live, {one.per_second:,} messages/s, publish to receipt, p50",
                value=one.wait_ms(50),
                unit="ms",
                against="the longest that is right",
                against_value=P50_MS_MAX,
                target=Target(AT_MOST, 1.0),
                cpu_us_per_event=one.cpu_us,
                note=f"{one.note}; p99 {one.wait_ms(99):.1f} ms",
            )
            for one in slower
        ),
        Result(
            name="live, publish to receipt, p50, next to a durable insert",
            value=run.wait_ms(50),
            unit="ms",
            against="insert_one with majority and journal, p50, nothing else going on",
            against_value=run.insert_ms,
            note="what of the wait is MongoDB's journal",
        ),
    ]


async def _at_rate(per_second: int, scale: Scale) -> _Run:
    """Publish so many messages a second to a bridge of its own."""
    seconds = scale.of(SECONDS, at_least=3)
    events = per_second * seconds
    traffic = Traffic(devices=min(DEVICES, per_second), events=events)
    async with rigs.fresh() as rig, running(rig.bridge()) as bridge:
        client = await SteadyClient.connect(rig.mosquitto.port)
        meter = rig.meter(bridge=bridge.pid)
        waits_ms = await client.run(traffic.single_messages(), events, per_second)
        cpu_us = meter.usage().per_event_us(events)
        client.close()
        return _Run(
            per_second=per_second,
            seconds=seconds,
            waits_ms=waits_ms,
            batches=round(await bridge.metric("pisync_bridge_batch_messages_count")),
            cpu_us=cpu_us,
            insert_ms=percentile(await _bare_inserts(rig, traffic), 50),
        )


async def _bare_inserts(rig: Rig, traffic: Traffic) -> list[float]:
    collection: Any = rig.database.bare
    waits_ms = []
    for number in range(_INSERTS):
        [document] = documents([traffic.event(number, 0)], clock.now())
        began = time.perf_counter()
        await collection.insert_one(document)
        waits_ms.append((time.perf_counter() - began) * 1000)
    return waits_ms
