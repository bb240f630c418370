"""How fast a backlog is drained: by a bridge, by a rival, and by `mosquitto_sub`, which keeps nothing."""

import asyncio
import subprocess
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from bench import broker
from bench.meter import Meter
from bench.rig import MeteredBridge, Rig, reached
from local_stack import ports
from local_stack.process import ChildFailed, ChildProcess, running
from pisync.domain import topics

_LOOK_INTERVAL_S: Final = 0.02


class TooSmall(RuntimeError):  # noqa: N818 - what happened
    """The backlog was drained before anything could be measured."""


@dataclass(frozen=True, kw_only=True)
class Drain:
    """A backlog that was drained: how many events in how long, and CPU microseconds an event by process."""

    messages: int
    events: int
    seconds: float
    cpu_us_per_event: Mapping[str, float]

    @property
    def per_second(self) -> float:
        """Events a second."""
        return self.events / self.seconds

    @property
    def cpu(self) -> str:
        """What each process used, for a note."""
        return ", ".join(f"{name} {used:.0f} µs" for name, used in self.cpu_us_per_event.items())


async def queue(rig: Rig, client_id: str, messages: Iterable[tuple[str, bytes]]) -> int:
    """Let the broker keep these messages for a member of the bridges' group; returns how many.

    The member is a session under this client id, and nobody is connected: the next one that is gets them.
    """
    port = rig.mosquitto.port
    await asyncio.to_thread(broker.subscribe_and_leave, port, client_id)
    return await asyncio.to_thread(broker.publish, port, messages)


async def queue_for_returning(rig: Rig, bridge: MeteredBridge, messages: Iterable[tuple[str, bytes]]) -> int:
    """Let the broker keep these messages for a bridge that ran before and is stopped now; returns how many.

    Its very first start would build the projection beside the drain, which a returning bridge does not.
    """
    async with running(bridge):
        await reached(_alive(bridge, bridge.is_current), 1, interval_s=_LOOK_INTERVAL_S)
    return await asyncio.to_thread(broker.publish, rig.publisher, messages)


async def drained(
    rig: Rig, process: ChildProcess, messages: int, events: int, *, name: str = "bridge"
) -> Drain:
    """Start the process, measure until all is stored and acknowledged, and stop it.

    Clock and meter begin when the process is up and its first event is stored, and what was stored before
    that does not count: the start of a Python program is no part of the rate. They end when every event is
    stored and, where the process tells (PiSync's bridge does, in its metrics), every message acknowledged. A
    rival does not tell: its last acknowledgements are left out, in its favour.

    Args:
        rig: the servers; they may hold events already.
        process: what drains, not started yet.
        messages: how many wait for it.
        events: how many new events those hold.
        name: what the process is called in the CPU figures.

    Raises:
        Stalled: nothing moved for a minute.
        ChildFailed: the process ended.
        TooSmall: all was stored before the first look.
    """
    before = await rig.stored()
    async with running(process):
        await reached(_alive(process, rig.stored), before + 1, interval_s=_LOOK_INTERVAL_S)
        meter = rig.meter(**{name: process.pid})
        began_at = await rig.stored()
        await finished(rig, process, messages, before + events)
        return drain_of(meter, messages, before + events - began_at)


async def drained_by_bridge(
    rig: Rig, messages: Iterable[tuple[str, bytes]], *, events: int | None = None
) -> Drain:
    """Queue the messages for a bridge that ran before, and measure how it drains them.

    Args:
        rig: the servers; they may hold events already.
        messages: what is queued.
        events: how many new events the messages hold; None: one each.

    Raises:
        Stalled, ChildFailed, TooSmall: as `drained` does.
    """
    bridge = rig.bridge()
    count = await queue_for_returning(rig, bridge, messages)
    return await drained(rig, bridge, count, count if events is None else events)


async def acknowledged(rig: Rig, messages: Iterable[tuple[str, bytes]], *, events_each: int) -> Drain:
    """Queue the messages for a bridge that ran before, and measure until it has acknowledged all.

    Where nothing new is stored this is all there is to see. The clock begins with the first batch that is
    acknowledged.

    Raises:
        Stalled, ChildFailed, TooSmall: as `drained` does.
    """
    bridge = rig.bridge()
    count = await queue_for_returning(rig, bridge, messages)
    async with running(bridge):
        look = _alive(bridge, bridge.acknowledged)
        before = round(await reached(look, 1, interval_s=_LOOK_INTERVAL_S))
        meter = rig.meter(bridge=bridge.pid)
        await reached(look, count, interval_s=_LOOK_INTERVAL_S)
        return drain_of(meter, count - before, (count - before) * events_each)


async def finished(rig: Rig, process: ChildProcess, messages: int, stored: int) -> None:
    """Wait until so many events are stored, and so many messages acknowledged in this life of the process.

    Raises:
        Stalled: nothing moved for a minute.
        ChildFailed: the process ended.
    """
    await reached(_alive(process, rig.stored), stored, interval_s=_LOOK_INTERVAL_S)
    if isinstance(process, MeteredBridge):
        await reached(_alive(process, process.acknowledged), messages, interval_s=_LOOK_INTERVAL_S)


async def mosquitto_sub_drain(
    rig: Rig, messages: Iterable[tuple[str, bytes]], events: int, *, client_id: str = "mosquitto-sub"
) -> Drain:
    """Queue the messages and measure how `mosquitto_sub` takes them all from the broker, to keep none.

    Its session is gone afterwards. Its own CPU is not in the figures, which end after it has.

    Raises:
        ChildFailed: it ended with an error.
    """
    count = await queue(rig, client_id, messages)
    port = str(rig.mosquitto.port)
    meter = rig.meter()
    process = await asyncio.create_subprocess_exec(
        *("mosquitto_sub", "-h", ports.HOST, "-p", port, "-V", "5", "-q", "1"),
        *("-i", client_id, "-c", "-x", str(broker.SESSION_EXPIRY_S)),
        *("-C", str(count), "-t", topics.SHARED_SYNC_FILTER),
        stdout=subprocess.DEVNULL,
    )
    try:
        code = await process.wait()
        drain = drain_of(meter, count, events)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code != 0:
        raise ChildFailed(f"mosquitto_sub ended with exit code {code}")
    await asyncio.to_thread(broker.forget, rig.mosquitto.port, client_id)
    return drain


def drain_of(meter: Meter, messages: int, events: int) -> Drain:
    """What the meter saw, as a drain.

    Raises:
        TooSmall: there were no events.
    """
    usage = meter.usage()
    if events <= 0:
        raise TooSmall(f"{messages:,} messages are too few to measure: take a larger scale")
    return Drain(
        messages=messages,
        events=events,
        seconds=usage.seconds,
        cpu_us_per_event=usage.per_event_us(events),
    )


def _alive(process: ChildProcess, look: Callable[[], Awaitable[float]]) -> Callable[[], Awaitable[float]]:
    """The same look, as long as the process runs: one that has ended is an error at once."""

    async def look_alive() -> float:
        if not process.running:
            raise ChildFailed(f"{process.name} {process.how_it_ended()}. {process.log_tail()}")
        return await look()

    return look_alive
