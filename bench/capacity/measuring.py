"""Measures what each part costs: fleets of several shapes on servers of its own, and what explains them all.

CPU time, as the operating system counts it, so that a busy machine is no reason for other figures, or hardly
one: processes that take turns on a core find its caches cold.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from bench import rig as rigs
from bench.capacity import figures
from bench.capacity.costs import Cost, Costs, Counts, fitted
from bench.capacity.fleets import Backlogs, Seen, bridge_of, come_back, idle, unanswered
from bench.machine import Machine

COMMAND: Final = "python -m bench.capacity --measure"
BROKER, BRIDGE, MONGOD, REDIS = "mosquitto", "bridge", "mongod", "redis"
PARTS: Final = (BROKER, BRIDGE, MONGOD, REDIS)
BACKLOG: Final = 84
"""Events of a device in the worst morning: half a week of hourly syncs."""
_IDLE_S: Final = 8.0
_TLS_DEVICES: Final = 500
_ROUNDS: Final = 2
# What each part has work for; a bridge has none for a connection of a device. What answers a batch comes to
# the broker at once, so that single messages cost it more than those of a large batch.
_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    BROKER: (
        "seconds",
        "connects",
        "batches",
        "messages",
        "receipts",
        "waited",
        "events",
        "repeats",
        "alerts",
    ),
    BRIDGE: ("seconds", "batches", "shards", "messages", "receipts", "events", "repeats", "alerts"),
    MONGOD: ("seconds", "batches", "events", "repeats", "alerts"),
    REDIS: ("seconds", "batches", "shards", "messages", "events", "repeats", "alerts"),
}


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A fleet, and the share of what arrives that its bridge may take; None: all that it can."""

    fleet: Backlogs
    share: float | None = None


_ARRAYS: Final = Backlogs(devices=1500, events=BACKLOG, array_events=BACKLOG, window_s=3, prefix="CA")
_RUNS: Final = (
    _Run(fleet=Backlogs(devices=300, events=1, array_events=1, window_s=6, prefix="CP")),
    _Run(fleet=Backlogs(devices=2000, events=1, array_events=1, window_s=2, prefix="CO")),
    _Run(fleet=Backlogs(devices=120, events=BACKLOG, array_events=1, window_s=1, prefix="CS")),
    _Run(fleet=Backlogs(devices=800, events=6, array_events=1, window_s=6, prefix="CE")),
    _Run(fleet=Backlogs(devices=300, events=BACKLOG, array_events=BACKLOG, window_s=6, prefix="CW")),
    _Run(fleet=Backlogs(devices=250, events=6 * BACKLOG, array_events=BACKLOG, window_s=1, prefix="CM")),
    _Run(fleet=_ARRAYS),
    # As fast as in the morning, with little and with much that waits, and with messages that come again.
    _Run(fleet=Backlogs(devices=400, events=BACKLOG, array_events=BACKLOG, window_s=4, prefix="CB")),
    _Run(fleet=Backlogs(devices=800, events=BACKLOG, array_events=BACKLOG, window_s=6, prefix="CD")),
    _Run(fleet=Backlogs(devices=900, events=BACKLOG, array_events=BACKLOG, window_s=5, prefix="CG")),
    _Run(
        fleet=Backlogs(devices=600, events=BACKLOG, array_events=BACKLOG, window_s=5, prefix="CQ"), share=0.5
    ),
    _Run(
        fleet=Backlogs(
            devices=600,
            events=BACKLOG,
            array_events=BACKLOG,
            window_s=5,
            prefix="CR",
            receipt_wait_s=5,
        ),
        share=0.4,
    ),
)
_UNANSWERED: Final = Backlogs(devices=200, events=BACKLOG, array_events=1, window_s=0, prefix="CV")

Tell = Callable[[str], None]


async def measured(tell: Tell) -> Costs:
    """All costs of this machine; the figures are those of `docs/benchmarks.md`."""
    cpu = await measured_cpu(tell)
    tell("connections with TLS")
    cpu[BROKER] = await _with_tls(cpu[BROKER])
    return Costs(
        command=COMMAND,
        machine=Machine.here().sentence(),
        event_bytes=_ARRAYS.event_bytes,
        parts=cpu,
        figures=figures.read(),
    )


async def measured_cpu(tell: Tell, rounds: int = _ROUNDS) -> dict[str, Cost]:
    """What each part costs, without TLS."""
    # Each run has servers and a bridge of its own. After a minute a bridge begins to compare the projection
    # with MongoDB, and MongoDB to write its cache to the disk: whichever run that fell into would seem to
    # cost so much more.
    seen: list[Seen] = []
    tell("nothing comes")
    async with rigs.fresh() as rig, bridge_of(rig) as bridge:
        seen.append(await idle(rig, bridge, _IDLE_S))
    for run in _RUNS * rounds:
        tell(_told(run.fleet))
        seen.append(await _back(run))
    tell(f"{_told(_UNANSWERED)}, no receipts")
    async with rigs.fresh() as rig, bridge_of(rig) as bridge:
        seen.append(await unanswered(rig, bridge, _UNANSWERED))
    found = {part: fitted(_of(part, seen), _FIELDS[part]) for part in PARTS}
    for each in seen:
        tell(_explained(each, found))
    return found


async def _back(run: _Run) -> Seen:
    """What it is to have this fleet come back."""
    bytes_per_s = None if run.share is None else run.fleet.bytes_per_s(run.share)
    async with rigs.fresh() as rig, bridge_of(rig, bytes_per_s=bytes_per_s) as bridge:
        return await come_back(rig, bridge, run.fleet, is_throttled=run.share is not None)


def _explained(seen: Seen, costs: Mapping[str, Cost]) -> str:
    """A line that says how well the costs explain a run that they were made from."""
    told = ", ".join(
        f"{part} {used_s:.2f} s ({costs[part].cpu_s(seen.counts) / max(used_s, 0.01):.2f})"
        for part, used_s in seen.cpu_s.items()
    )
    counts = seen.counts
    return f"{counts.messages:,.0f} messages, {counts.batches:,.0f} batches: {told}"


def _told(shape: Backlogs) -> str:
    return f"{shape.devices:,} devices, {shape.messages:,} messages, {shape.events_total:,} events"


def _of(part: str, seen: Sequence[Seen]) -> list[tuple[Counts, float]]:
    # The operating system counts in hundredths of a second.
    return [(each.counts, max(each.cpu_s[part], 0.01)) for each in seen]


async def _with_tls(cost: Cost) -> Cost:
    """What a connection costs the broker more where it has TLS and devices have certificates of their own."""
    shape = Backlogs(devices=_TLS_DEVICES, events=1, array_events=1, window_s=4, prefix="CT")
    devices = [shape.traffic.device_id(place) for place in range(shape.devices)]
    async with rigs.fresh(secure_devices=devices) as rig, bridge_of(rig) as bridge:
        seen = await come_back(rig, bridge, shape)
    more_s = seen.cpu_s[BROKER] - cost.cpu_s(seen.counts)
    return msgspec.structs.replace(cost, tls_connects=max(0.0, more_s / shape.devices * 1e6))
