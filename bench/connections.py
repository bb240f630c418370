"""Rows: a fleet that connects all at once, each device with a backlog, and as many as one process holds."""

import asyncio
import resource
from dataclasses import dataclass
from typing import Final

import msgspec

from bench import rig as rigs
from bench.meter import Peaks
from bench.results import Result
from bench.rig import Stalled
from bench.scale import Scale
from device_sim.dialing import FILE_DESCRIPTORS_BESIDE, allow_file_descriptors
from device_sim.fleet import CONNECTIONS
from device_sim.report import Summary
from local_stack.process import ChildProcess, running
from local_stack.services import pisync
from pisync import settings

DEVICES: Final = 5_000
DEVICES_LEAST: Final = 2 * CONNECTIONS
EVENTS_EACH: Final = 20
MANY: Final = 20_000
MANY_EVENTS_EACH: Final = 2
"""Devices that stay connected in one process, as far as the system lets it open so many files."""
_SEED: Final = 4
_TIMEOUT_S: Final = 600


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One simulation in which every event was confirmed."""

    connections: int
    seconds: float
    broker_mb: float
    simulator_mb: float
    simulator_cpu_s: float
    messages: int
    connected: int

    @property
    def cpu_us_per_message(self) -> float:
        """What the simulator's process used over all, for each message that it published."""
        return self.simulator_cpu_s / self.messages * 1e6


async def connections(scale: Scale) -> list[Result]:
    """Simulate a fleet all of whose devices are connected at once, and the same fleet 200 at a time."""
    devices = scale.of(DEVICES, at_least=DEVICES_LEAST)
    allow_file_descriptors(devices)  # the broker and the simulator inherit it
    few = await _simulated(devices, EVENTS_EACH, CONNECTIONS)
    all_at_once = await _simulated(devices, EVENTS_EACH, devices)
    against = f"{CONNECTIONS} at a time"
    what = f"connections: {devices:,} devices at once with {EVENTS_EACH} events each"
    more = (devices - CONNECTIONS) / 1e3
    return [
        Result(
            name=f"{what}, until all are confirmed",
            value=all_at_once.seconds,
            unit="s",
            against=against,
            against_value=few.seconds,
            note="every event was confirmed by a receipt; the simulator, one process, used"
            f" {all_at_once.simulator_cpu_s / all_at_once.seconds:.0%} of a core",
        ),
        Result(
            name=f"{what}, broker's memory",
            value=all_at_once.broker_mb,
            unit="MB",
            against=against,
            against_value=few.broker_mb,
            note=f"peak; {(all_at_once.broker_mb - few.broker_mb) / more:.1f} kB for each further connection",
        ),
        Result(
            name=f"{what}, simulator's memory",
            value=all_at_once.simulator_mb,
            unit="MB",
            against=against,
            against_value=few.simulator_mb,
            note=f"peak; {(all_at_once.simulator_mb - few.simulator_mb) / more:.1f} kB for each further"
            " connection",
        ),
        Result(
            name=f"{what}, simulator's CPU a message",
            value=all_at_once.cpu_us_per_message,
            unit="µs",
            against=against,
            against_value=few.cpu_us_per_message,
            note=f"of {all_at_once.messages:,} messages, with their PUBACKs and receipts, the connections,"
            " the making of the events and the start of the process",
        ),
        *await _many(scale, all_at_once),
    ]


async def _many(scale: Scale, fewer: _Run) -> list[Result]:
    """As many devices as one process may hold connected, all at the same time."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MANY if hard == resource.RLIM_INFINITY else min(MANY, hard - FILE_DESCRIPTORS_BESIDE)
    devices = min(most, scale.of(MANY, at_least=2 * DEVICES_LEAST))
    allow_file_descriptors(devices)
    many = await _simulated(devices, MANY_EVENTS_EACH, devices)
    what = f"connections: {many.connected:,} devices connected at one time, in one process"
    more = (devices - fewer.connected) / 1e3
    return [
        Result(
            name=f"{what}, until all are confirmed",
            value=many.seconds,
            unit="s",
            note=f"{MANY_EVENTS_EACH} events each, {many.messages:,} messages;"
            f" {many.cpu_us_per_message:.0f} µs of the simulator's CPU for each",
        ),
        Result(
            name=f"{what}, simulator's memory",
            value=many.simulator_mb,
            unit="MB",
            note=f"peak; {many.simulator_mb / devices * 1e3:.1f} kB for each device, the process itself"
            f" included, {(many.simulator_mb - fewer.simulator_mb) / more:.1f} kB for each more than"
            f" {fewer.connected:,}",
        ),
    ]


async def _simulated(devices: int, events: int, connections: int) -> _Run:
    """Run the fleet on new servers; where all may be connected at once, they stay until all are done.

    Raises:
        Stalled: not every event was confirmed.
    """
    async with rigs.fresh() as rig, running(rig.bridge()):
        report = rig.directory / "simulation.json"
        options = {
            "--mqtt-url": rig.mosquitto.url,
            "--devices": devices,
            "--events": events,
            "--connections": connections,
            "--seed": _SEED,
            "--timeout-s": _TIMEOUT_S,
            "--report": report,
        }
        simulator = ChildProcess(
            "simulated fleet",
            pisync(
                "simulate",
                *(str(part) for option in options.items() for part in option),
                *(["--stay"] if connections >= devices else []),
            ),
            log=rig.directory / "simulation.log",
            environment=settings.child_environment({}),
        )
        before_s = _children_cpu_s()
        async with running(simulator):
            peaks = Peaks({"broker": rig.mosquitto.pid, "simulator": simulator.pid})
            ended = asyncio.create_task(simulator.wait())
            await peaks.watch_until(ended)
        if ended.result() != 0:
            raise Stalled(f"the simulation {simulator.how_it_ended()}. {simulator.log_tail()}")
        summary = msgspec.json.decode(report.read_bytes(), type=Summary)
        return _Run(
            connections=connections,
            seconds=summary.elapsed_s,
            broker_mb=peaks.resident_mb["broker"],
            simulator_mb=peaks.resident_mb["simulator"],
            # Of the children that have ended meanwhile; there was no other.
            simulator_cpu_s=_children_cpu_s() - before_s,
            messages=summary.messages,
            connected=summary.connected_most,
        )


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
