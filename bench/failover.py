"""Row: what several Redis processes cost a batch, and how long a bridge is detached when one is killed."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from statistics import median
from typing import Final

from redis import exceptions

from bench import rig as rigs
from bench.redis_topologies import ConfiguredRedis, running_cluster, running_watched
from bench.results import AT_MOST, Result, Target
from bench.rig import MeteredBridge, Rig, reached
from bench.scale import Scale
from bench.steady import SteadyClient
from bench.traffic import Traffic
from local_stack.process import running
from pisync import clock
from pisync.domain.device_state import project
from pisync.stores.redis.projection import RedisProjection

ATTACHED_S_MAX: Final = 2.0
REPLAYED_S_MAX: Final = 5.0
FAN_OUT_MAX: Final = 1.2
MESSAGES_PER_S: Final = 200
DEVICES: Final = 1_000
BATCH: Final = 500
PAIRS: Final = 300
_BEFORE_S: Final = 5
_LOOK_S: Final = 0.01
_LOAD_S: Final = 60

Promoted = Callable[[], Awaitable[bool]]


@dataclass(frozen=True, kw_only=True)
class _Detached:
    """Seconds from the kill until a new primary answered, and until the bridge was attached, and replayed."""

    promoted_s: float
    attached_s: float
    caught_up_s: float
    replayed: float

    def results(self, what: str) -> list[Result]:
        note = (
            f"a primary is killed at {MESSAGES_PER_S} messages/s; a new one answered after"
            f" {self.promoted_s:.2f} s, the bridge was attached after {self.attached_s:.2f} s and had caught"
            f" up after {self.caught_up_s:.2f} s"
        )
        return [
            Result(
                name=f"{what}: from the new primary's first answer to the bridge attached",
                value=max(self.attached_s - self.promoted_s, 0.001),
                unit="s",
                against="the longest that is right",
                against_value=ATTACHED_S_MAX,
                target=Target(AT_MOST, 1.0),
                note=note,
            ),
            Result(
                name=f"{what}: replayed of what was received before the kill",
                value=self.replayed / MESSAGES_PER_S - self.attached_s,
                unit="s",
                against="the most that is right",
                against_value=REPLAYED_S_MAX,
                target=Target(AT_MOST, 1.0),
                note=f"{self.replayed:,.0f} events in all, which are {self.replayed / MESSAGES_PER_S:.2f} s"
                " of them; those that came while the bridge was detached are among them",
            ),
        ]


async def failover(scale: Scale) -> list[Result]:
    """A fan-out next to one call, then a killed primary behind Sentinels and one of a cluster."""
    results = await _fan_out(scale)
    async with rigs.fresh() as rig, running_watched(rig.directory / "watched") as watched:
        primary = await watched.primary()
        [other] = [server for server in watched.servers if server is not primary]

        async def promoted() -> bool:
            return await watched.primary() is other and await _is_primary(other)

        results += (await _killed(rig, watched.url, primary, promoted)).results("Sentinels")
    async with rigs.fresh() as rig, running_cluster(rig.directory / "cluster", replicas=True) as cluster:
        replica = cluster.replicas[0]
        killed = _killed(rig, cluster.url, cluster.primaries[0], lambda: _is_primary(replica))
        results += (await killed).results("a cluster")
    return results


async def _is_primary(server: ConfiguredRedis) -> bool:
    with suppress(exceptions.RedisError, OSError):
        return bool((await server.ask("ROLE"))[0] == "master")
    return False


async def _killed(rig: Rig, url: str, primary: ConfiguredRedis, promoted: Promoted) -> _Detached:
    """Kill a primary beneath a bridge that has a steady load."""
    traffic = Traffic(devices=DEVICES, events=MESSAGES_PER_S * _LOAD_S)
    async with running(rig.bridge(redis_url=url)) as bridge:
        client = await SteadyClient.connect(rig.mosquitto.port)
        events = MESSAGES_PER_S * _LOAD_S
        load = asyncio.create_task(client.run(traffic.single_messages(), events, MESSAGES_PER_S))
        try:
            await reached(bridge.is_current, True)
            await asyncio.sleep(_BEFORE_S)
            before = await bridge.metric("pisync_bridge_events_replayed_total")
            began = time.perf_counter()
            await primary.kill()

            async def after(look: Callable[[], Awaitable[bool]]) -> float:
                await reached(look, True, interval_s=_LOOK_S)
                return time.perf_counter() - began

            async def attached() -> float:
                await after(lambda: _is_attached(bridge, False))
                return await after(lambda: _is_attached(bridge, True))

            promoted_s, attached_s = await asyncio.gather(after(promoted), attached())
            caught_up_s = await after(bridge.is_current)
            replayed = await bridge.metric("pisync_bridge_events_replayed_total") - before
        finally:
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
            client.close()
    return _Detached(promoted_s=promoted_s, attached_s=attached_s, caught_up_s=caught_up_s, replayed=replayed)


async def _is_attached(bridge: MeteredBridge, wanted: bool) -> bool:
    return bool(await bridge.metric("pisync_bridge_projection_attached")) is wanted


async def _fan_out(scale: Scale) -> list[Result]:
    """A batch merged by one Redis and by three, in turn: wall time and our CPU, medians."""
    pairs = scale.of(PAIRS, at_least=20)
    traffic = Traffic(devices=DEVICES, events=BATCH * 20)
    received_ms = clock.to_ms(clock.now())
    batches = [
        project(
            [
                traffic.event(number, turn)
                for number in range(turn * BATCH % DEVICES, turn * BATCH % DEVICES + BATCH)
            ],
            [received_ms] * BATCH,
        )
        for turn in range(20)
    ]
    wall_ms: dict[str, list[float]] = {"one": [], "three": []}
    cpu_ms: dict[str, list[float]] = {"one": [], "three": []}
    async with AsyncExitStack() as stack:
        rig = await stack.enter_async_context(rigs.fresh())
        cluster = await stack.enter_async_context(running_cluster(rig.directory / "cluster"))
        stores = {
            name: await stack.enter_async_context(_attached(url))
            for name, url in (("one", rig.redis.url), ("three", cluster.url))
        }
        for turn in range(pairs):
            for name in ("one", "three") if turn % 2 else ("three", "one"):
                began, used = time.perf_counter(), time.process_time()
                await stores[name].apply(batches[turn % len(batches)])
                wall_ms[name].append((time.perf_counter() - began) * 1000)
                cpu_ms[name].append((time.process_time() - used) * 1000)
    return [
        Result(
            name=f"three Redis processes: a batch of {BATCH} events, {what}",
            value=median(spent["three"]),
            unit="ms",
            against="one Redis",
            against_value=median(spent["one"]),
            target=Target(AT_MOST, FAN_OUT_MAX),
            note=f"medians of {pairs} pairs, in turn",
        )
        for what, spent in (("wall time", wall_ms), ("the caller's CPU", cpu_ms))
    ]


@asynccontextmanager
async def _attached(url: str) -> AsyncIterator[RedisProjection]:
    store = RedisProjection.connect(url)
    try:
        await store.attach(())
        await store.begin_rebuild("bench", [])
        await store.finish_rebuild("bench")
        yield store
    finally:
        await store.close()
