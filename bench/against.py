"""Rows: PiSync's bridge against the bridges that people write, on the same backlog."""

import sys
from collections.abc import Iterable
from itertools import islice
from typing import Final

from bench import rig as rigs
from bench.drain import TOGETHER
from bench.draining import Drain, drained, queue, queue_for_returning
from bench.results import AT_LEAST, Result, Target
from bench.rig import Rig
from bench.scale import Scale
from bench.traffic import Traffic
from local_stack.process import ChildProcess

DEVICES: Final = 10_000
EVENTS: Final = 200_000
OBVIOUS_EVENTS: Final = 20_000
_CLIENT_ID: Final = "bridge-0"


async def rivals(scale: Scale) -> list[Result]:
    """Drain the same backlog with PiSync's bridge and with each rival.

    The obvious one gets the first part of it: it takes a message after the other, so that its rate does not
    depend on how many wait, and all of it would take minutes.
    """
    devices = scale.of(DEVICES, at_least=TOGETHER)
    events = devices * (EVENTS // DEVICES)
    part = scale.of(OBVIOUS_EVENTS, at_least=500)
    traffic = Traffic(devices=devices, events=events)
    obvious = await _drain("obvious", islice(traffic.single_messages(together=TOGETHER), part))
    pisync = await _drain("bridge", traffic.single_messages(together=TOGETHER))
    batched = await _drain("batched", traffic.single_messages(together=TOGETHER))
    queued = f"{events:,} queued messages over {devices:,} devices"
    return [
        Result(
            name="drain, against the obvious bridge",
            value=pisync.per_second,
            unit="events/s",
            against="paho-mqtt with an insert and an INCR for each message",
            against_value=obvious.per_second,
            target=Target(AT_LEAST, 12),
            cpu_us_per_event=pisync.cpu_us_per_event,
            note=f"{queued}, one event each; the obvious bridge got the first {part:,} and used"
            f" {obvious.cpu} an event",
        ),
        Result(
            name="drain, against the batched bridge",
            value=pisync.per_second,
            unit="events/s",
            against="paho-mqtt with a queue, insert_many and a Redis pipeline",
            against_value=batched.per_second,
            target=Target(AT_LEAST, 2),
            cpu_us_per_event=pisync.cpu_us_per_event,
            note=f"{queued}, one event each; the batched bridge used {batched.cpu} an event",
        ),
    ]


async def _drain(name: str, messages: Iterable[tuple[str, bytes]]) -> Drain:
    """Drain single events on new servers with PiSync's bridge (`bridge`) or a rival."""
    async with rigs.fresh() as rig:
        process: ChildProcess
        if name == "bridge":
            process = bridge = rig.bridge(_CLIENT_ID)
            count = await queue_for_returning(rig, bridge, messages)
        else:
            process = _rival(rig, name)
            count = await queue(rig, _CLIENT_ID, messages)
        try:
            return await drained(rig, process, count, count)
        finally:
            await process.terminate()


def _rival(rig: Rig, name: str) -> ChildProcess:
    module = f"bench.rivals.{name}"
    arguments = (_CLIENT_ID, str(rig.mosquitto.port), rig.mongodb.url, rig.redis.url)
    return ChildProcess(name, [sys.executable, "-m", module, *arguments], log=rig.directory / f"{name}.log")
