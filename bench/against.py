"""Rows: PiSync's bridge against the bridges that people write, on the same backlog."""

import sys
from collections.abc import Iterable
from itertools import islice
from typing import Final

from bench import rig as rigs
from bench.draining import Drain, drained, drained_by_bridge, queue
from bench.results import AT_LEAST, Result, Target
from bench.rig import Rig
from bench.scale import Scale
from bench.traffic import TOGETHER, Traffic
from local_stack.process import ChildProcess

EVENTS: Final = 200_000
OBVIOUS_EVENTS: Final = 20_000
_CLIENT_ID: Final = "bridge-0"


async def rivals(scale: Scale) -> list[Result]:
    """Drain the same backlog with PiSync's bridge and with each rival.

    The obvious one gets the first part of it: it takes a message after the other, so that its rate does not
    depend on how many wait, and all of it would take minutes.
    """
    part = scale.of(OBVIOUS_EVENTS, at_least=500)
    traffic = Traffic.of_fleet(scale, EVENTS)
    obvious = await _drain("obvious", islice(traffic.single_messages(together=TOGETHER), part))
    pisync = await _drain(None, traffic.single_messages(together=TOGETHER))
    batched = await _drain("batched", traffic.single_messages(together=TOGETHER))
    queued = f"{traffic.events:,} queued messages over {traffic.devices:,} devices"
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


async def _drain(rival: str | None, messages: Iterable[tuple[str, bytes]]) -> Drain:
    """Drain single events on new servers with a rival, or with PiSync's bridge."""
    async with rigs.fresh() as rig:
        if rival is None:
            return await drained_by_bridge(rig, messages)
        count = await queue(rig, _CLIENT_ID, messages)
        return await drained(rig, _rival(rig, rival), count, count)


def _rival(rig: Rig, name: str) -> ChildProcess:
    module = f"bench.rivals.{name}"
    arguments = (_CLIENT_ID, str(rig.mosquitto.port), rig.mongodb.url, rig.redis.url)
    return ChildProcess(name, [sys.executable, "-m", module, *arguments], log=rig.directory / f"{name}.log")
