"""Row: whether a bridge grows with what it has drained."""

import asyncio
from typing import Final

from bench import draining
from bench import rig as rigs
from bench.meter import Peaks, resident_mb
from bench.results import AT_MOST, Result, Target
from bench.scale import Scale
from bench.traffic import DEVICES, Traffic
from local_stack.process import running

EVENTS_EARLY: Final = 50_000
EVENTS: Final = 1_000_000
EVENTS_EARLY_LEAST: Final = 20_000
EVENTS_LEAST: Final = 100_000
ARRAY_EVENTS: Final = 50
_BRIDGE_ID: Final = "bridge-0"


async def memory(scale: Scale) -> list[Result]:
    """The resident memory of one bridge after its first events and after twenty times as many.

    All of them wait in the broker when it starts: early and late, it holds as much as its limits allow.
    """
    early = scale.of(EVENTS_EARLY, at_least=EVENTS_EARLY_LEAST)
    messages = scale.of(EVENTS // ARRAY_EVENTS, at_least=EVENTS_LEAST // ARRAY_EVENTS)
    devices = min(DEVICES, messages)
    events_per_device = -(-messages // devices) * ARRAY_EVENTS
    traffic = Traffic(devices=devices, events=devices * events_per_device)
    async with rigs.fresh() as rig:
        bridge = rig.bridge(_BRIDGE_ID)
        count = await draining.queue_for_returning(rig, bridge, traffic.backlogs(ARRAY_EVENTS))
        async with running(bridge):
            peaks = Peaks({_BRIDGE_ID: bridge.pid})
            async with asyncio.TaskGroup() as group:
                ended = group.create_task(draining.finished(rig, bridge, count, traffic.events))
                group.create_task(peaks.watch_until(ended))
                await rigs.reached(rig.stored, early)
                early_mb = resident_mb(bridge.pid)
            late_mb = resident_mb(bridge.pid)
    return [
        Result(
            name=f"memory: the bridge after {traffic.events:,} events",
            value=late_mb,
            unit="MB",
            against=f"after {early:,} events",
            against_value=early_mb,
            target=Target(AT_MOST, 1.2),
            note=f"resident, in one life, {peaks.resident_mb[_BRIDGE_ID]:.0f} MB at the most; arrays of"
            f" {ARRAY_EVENTS} events of {devices:,} devices",
        )
    ]
