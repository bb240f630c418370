"""Row: what the worker takes to count what a drain stored, and how long after it."""

import asyncio
from typing import Final

from bench import rig as rigs
from bench.draining import drained, queue_for_returning
from bench.results import AT_MOST, Result, Target
from bench.rig import Rig, reached
from bench.scale import Scale
from bench.traffic import Traffic
from local_stack.process import running
from local_stack.services import Worker
from pisync import clock
from pisync.domain.rollups import Span, Unit
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.rollups import MongoRollupStore

EVENTS: Final = 2_000_000
EVENTS_AN_ARRAY: Final = 50
CAUGHT_UP_S_MAX: Final = 60.0
CPU_US_MAX: Final = 5.0
_IDLE_S: Final = 10.0
_LOOK_INTERVAL_S: Final = 0.25


async def rollups(scale: Scale) -> list[Result]:
    """Drain arrays beside a worker, and wait until each event is in a rollup."""
    traffic = Traffic.of_fleet(scale, EVENTS)
    async with rigs.fresh() as rig:
        bridge, worker = rig.bridge(), Worker(rig.urls, log=rig.directory / "worker.log")
        began_ms = clock.to_ms(clock.now())
        count = await queue_for_returning(rig, bridge, traffic.backlogs(EVENTS_AN_ARRAY))
        async with running(worker):
            await asyncio.sleep(_IDLE_S)
            idle = rig.meter(worker=worker.pid)
            await asyncio.sleep(_IDLE_S)
            idle_share = idle.usage().cpu_s["worker"] / _IDLE_S
            meter = rig.meter(worker=worker.pid)
            drain = await drained(rig, bridge, count, traffic.events)
            after = rig.meter()
            await _counted(rig, began_ms, traffic.events)
            late, used = after.usage(), meter.usage()
    own_us = (used.cpu_s["worker"] - idle_share * used.seconds) / traffic.events * 1e6
    what = f"{traffic.events:,} events of {traffic.devices:,} devices in arrays of {EVENTS_AN_ARRAY}"
    return [
        Result(
            name="rollups: from the end of a drain until all of it is counted",
            value=late.seconds,
            unit="s",
            against="the longest that is right",
            against_value=CAUGHT_UP_S_MAX,
            target=Target(AT_MOST, 1.0),
            note=f"{what}, drained at {drain.per_second:,.0f} a second beside the worker",
        ),
        Result(
            name="rollups: the worker's CPU",
            value=own_us,
            unit="us/event",
            against="the most that is right",
            against_value=CPU_US_MAX,
            target=Target(AT_MOST, 1.0),
            note=f"from the drain's begin until all is counted, without the {idle_share:.3f} cores that it"
            " takes where nothing comes; what it counts again when a minute closes comes later;"
            f" mongod {late.per_event_us(traffic.events)['mongod']:.1f} µs an event after the drain",
        ),
    ]


async def _counted(rig: Rig, began_ms: int, events: int) -> None:
    """Wait until the minutes since then have as many events as were drained."""
    connection = MongoConnection(rig.mongodb.url)
    store = MongoRollupStore(connection)

    async def counted() -> float:
        end_ms = clock.to_ms(clock.now()) + Unit.MINUTE.ms
        found = await store.read(Unit.MINUTE, Span(Unit.MINUTE.floor(began_ms), end_ms), with_breakdown=False)
        return sum(each.figures.events for each in found if each.figures is not None)

    try:
        await reached(counted, events, interval_s=_LOOK_INTERVAL_S)
    finally:
        await connection.close()
