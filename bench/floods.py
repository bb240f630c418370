"""Row: how long other devices wait for their receipts while one floods, and what its messages cost."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import rig as rigs
from bench.results import AT_MOST, Result, Target, percentile
from bench.rig import MeteredBridge, Rig
from bench.scale import Scale
from bench.steady import SteadyClient
from bench.traffic import Traffic
from local_stack import ports
from local_stack.process import running

FLOOD_EVENTS: Final = 1_000_000
EVENTS_A_MESSAGE: Final = 50
NEIGHBOURS_PER_S: Final = 200
SECONDS: Final = 15
# So that the flood exceeds it soon, and so much that it never does.
BURST: Final = 5_000
NEVER: Final = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What one limit gave."""

    waits_ms: Sequence[float]
    flood_s: float
    cpu_us: Mapping[str, float]
    stored: int

    @property
    def cpu(self) -> float:
        """CPU of the bridge and of MongoDB for each event of the flood; the neighbours' is in it."""
        return self.cpu_us["bridge"] + self.cpu_us["mongod"]


async def floods(scale: Scale) -> list[Result]:
    """One device sends arrays of ever new events as fast as it can, while others send a few."""
    free = await _with_burst(NEVER, scale)
    held = await _with_burst(BURST, scale)
    note = f"{held.stored:,} events stored, and {free.stored:,} without the limit"
    return [
        Result(
            name="floods, a neighbour's receipt, p95",
            value=percentile(held.waits_ms, 95),
            unit="ms",
            against="no limit for a device",
            against_value=percentile(free.waits_ms, 95),
            target=Target(AT_MOST, 1.0),
            cpu_us_per_event=held.cpu_us,
            note=note,
        ),
        Result(
            name="floods, until the bridge is through with it",
            value=held.flood_s,
            unit="s",
            against="no limit for a device",
            against_value=free.flood_s,
            target=Target(AT_MOST, 1.0),
        ),
        Result(
            name="floods, CPU of bridge and mongod",
            value=held.cpu,
            unit="us/event of the flood",
            against="no limit for a device",
            against_value=free.cpu,
            target=Target(AT_MOST, 0.25),
        ),
    ]


async def _with_burst(burst: int, scale: Scale) -> _Run:
    """Flood a bridge of its own, which takes so many events of a device at once."""
    flood = Traffic(devices=1, events=scale.of(FLOOD_EVENTS, at_least=20_000), prefix="FLOOD")
    seconds = scale.of(SECONDS, at_least=4)
    neighbours = Traffic(devices=NEIGHBOURS_PER_S, events=NEIGHBOURS_PER_S * seconds)
    async with rigs.fresh() as rig:
        topic, lines = _written(flood, rig.directory / "flood")
        async with running(rig.bridge(device_events_burst=burst, device_bytes_burst=NEVER * 100)) as bridge:
            client = await SteadyClient.connect(rig.mosquitto.port)
            meter = rig.meter(bridge=bridge.pid)
            flooding = asyncio.create_task(_flood(rig, bridge, topic, lines))
            waits_ms = await client.run(neighbours.single_messages(), neighbours.events, NEIGHBOURS_PER_S)
            flood_s = await flooding
            cpu_us = meter.usage().per_event_us(flood.events)
            client.close()
            stored = await rig.stored()
    return _Run(waits_ms=waits_ms, flood_s=flood_s, cpu_us=cpu_us, stored=stored - neighbours.events)


def _written(flood: Traffic, path: Path) -> tuple[str, int]:
    """The flood as a file of a message a line: its topic, and how many lines it has."""
    messages = list(flood.backlogs(EVENTS_A_MESSAGE))
    path.write_bytes(b"".join(payload + b"\n" for _, payload in messages))
    return messages[0][0], len(messages)


async def _flood(rig: Rig, bridge: MeteredBridge, topic: str, lines: int) -> float:
    """Publish them as fast as the broker takes them; returns after how long the bridge was through."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    with (rig.directory / "flood").open("rb") as file:
        options = ("-V", "5", "-q", "1", "-i", "FLOOD", "-h", ports.HOST, "-p", str(rig.mosquitto.port))
        publisher = await asyncio.create_subprocess_exec(
            "mosquitto_pub", *options, "-t", topic, "-l", stdin=file
        )
        await publisher.wait()
    await rigs.reached(bridge.acknowledged, lines, interval_s=0.1)
    return loop.time() - began
