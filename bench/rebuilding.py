"""Row: how fast the projection is built again and caught up, and what that does to receipts beside it."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import msgspec
from bson import CodecOptions
from redis.asyncio import Redis

from bench import rig as rigs
from bench.meter import Peaks, Usage, resident_mb
from bench.results import AT_MOST, Result, Target, percentile
from bench.rig import MeteredBridge, Rig, reached
from bench.scale import Scale
from bench.steady import SteadyClient
from bench.traffic import Traffic, windows
from local_stack.process import running
from pisync import clock, limits
from pisync.domain.events import SyncEvent
from pisync.stores.mongodb.events import MongoEventStore
from pisync.stores.mongodb.replaying import PROJECTION

DEVICES: Final = 20_000
DAYS: Final = 100
DEVICES_LEAST: Final = 3_000
LIVE_PER_S: Final = 500
LIVE_S: Final = 10
_BRIDGE_ID: Final = "bridge-0"
_REPLAYED: Final = "pisync_bridge_events_replayed_total"
_INSERT_EVENTS: Final = 5_000
_INSERTS_AT_ONCE: Final = 3
_LOOK_INTERVAL_S: Final = 0.05
_STRIDE: Final = 7919
_BARE: Final[CodecOptions[dict[str, Any]]] = CodecOptions()


@dataclass(frozen=True, kw_only=True)
class _Replay:
    """So many events that were replayed, or read by a bare cursor, between two looks."""

    events: int
    usage: Usage
    resident_mb: tuple[float, float] = (0.0, 0.0)

    @property
    def per_second(self) -> float:
        return self.events / self.usage.seconds


async def rebuild(scale: Scale) -> list[Result]:
    """Build the projection of a fleet that synced daily, and half of it again; also beside live traffic."""
    devices = scale.of(DEVICES, at_least=DEVICES_LEAST)
    traffic = Traffic(devices=devices, events=devices * DAYS)
    async with rigs.fresh() as rig:
        await _fill(rig, traffic)
        await rig.database.client.admin.command("fsync")
        since_ms = clock.to_ms(_event(traffic, 0, DAYS // 2).timestamp)
        results: list[Result] = []
        for name, start_ms in (("rebuild", 0), ("catch-up of half of it", since_ms)):
            before = await _bare_cursor(rig, start_ms)
            replay = await _replayed(rig, start_ms, before.events)
            after = await _bare_cursor(rig, start_ms)
            bare = _Replay(events=before.events + after.events, usage=_sum(before.usage, after.usage))
            results += _compared(name, traffic, replay, bare)
        results += await _beside_live_traffic(rig, scale)
    return results


def _compared(name: str, traffic: Traffic, replay: _Replay, bare: _Replay) -> Iterator[Result]:
    used = bare.usage.per_event_us(bare.events)
    early_mb, late_mb = replay.resident_mb
    yield Result(
        name=f"{name}: events",
        value=replay.per_second,
        unit="events/s",
        against="a bare cursor over the same documents, decoded and dropped",
        against_value=bare.per_second,
        cpu_us_per_event=replay.usage.per_event_us(replay.events),
        note=f"{replay.events:,} events of {traffic.devices:,} devices, one a day; the cursor and its"
        f" process: {used['bare']:.1f} µs, mongod {used['mongod']:.1f} µs an event",
    )
    yield Result(
        name=f"{name}: the bridge's memory at its end",
        value=late_mb,
        unit="MB",
        against="after a tenth of it",
        against_value=early_mb,
        target=Target(AT_MOST, 1.2),
        note=f"resident; a replay holds {limits.REPLAY_GROUPED_BYTES_MAX / 2**20:.0f} MiB of events,"
        f" compressed, and {limits.REPLAY_HELD_BYTES_MAX / 2**20:.0f} MiB of states at the most",
    )


async def _bare_cursor(rig: Rig, start_ms: int) -> _Replay:
    """Read the same documents in the same order with the driver alone."""
    bounds = {"received_at": {"$gte": clock.from_ms(start_ms)}} if start_ms else {}
    collection = rig.database.sync_events.with_options(codec_options=_BARE)
    cursor = collection.find(bounds, PROJECTION).sort("received_at", 1).batch_size(limits.REPLAY_BATCH_EVENTS)
    meter = rig.meter(bare=os.getpid())
    events = 0
    while found := await cursor.to_list(limits.REPLAY_BATCH_EVENTS):
        events += len(found)
    return _Replay(events=events, usage=meter.usage())


async def _replayed(rig: Rig, start_ms: int, events: int) -> _Replay:
    """Let a bridge replay these events, and go."""
    if start_ms:
        async with rig.projection() as projection:
            await projection.attach([])
            await projection.set_watermark(_BRIDGE_ID, start_ms, catching_up=False)
    bridge = rig.bridge(_BRIDGE_ID)
    async with running(bridge):
        meter = rig.meter(bridge=bridge.pid)
        began_at = await bridge.metric(_REPLAYED)

        async def replayed() -> float:
            return await bridge.metric(_REPLAYED)

        await reached(replayed, events / 10, interval_s=_LOOK_INTERVAL_S)
        early_mb = resident_mb(bridge.pid)
        peaks = Peaks({_BRIDGE_ID: bridge.pid})
        async with asyncio.TaskGroup() as group:
            ended = group.create_task(reached(bridge.is_current, 1, interval_s=_LOOK_INTERVAL_S))
            group.create_task(peaks.watch_until(ended))
        usage, ended_at = meter.usage(), await replayed()
    late_mb = peaks.resident_mb[_BRIDGE_ID]
    return _Replay(events=round(ended_at - began_at), usage=usage, resident_mb=(early_mb, late_mb))


async def _beside_live_traffic(rig: Rig, scale: Scale) -> list[Result]:
    """How long devices wait for receipts while the bridge rebuilds again and again, and while it does not."""
    events = LIVE_PER_S * scale.of(LIVE_S, at_least=3)
    bridge = rig.bridge(_BRIDGE_ID)
    waits: dict[str, list[float]] = {}
    async with running(bridge):
        await reached(bridge.is_current, 1, interval_s=_LOOK_INTERVAL_S)
        for prefix in ("BARE", "BESIDE"):
            traffic = Traffic(devices=LIVE_PER_S, events=events, prefix=prefix)
            client = await SteadyClient.connect(rig.mosquitto.port)
            if prefix == "BARE":
                waits[prefix] = await client.run(traffic.single_messages(), events, LIVE_PER_S)
            else:
                async with _rebuilding(rig, bridge):
                    waits[prefix] = await client.run(traffic.single_messages(), events, LIVE_PER_S)
            client.close()
    return [
        Result(
            name=f"live beside a rebuild, publish to receipt, p{percent}",
            value=percentile(waits["BESIDE"], percent),
            unit="ms",
            against="no rebuild",
            against_value=percentile(waits["BARE"], percent),
            note=f"{events:,} messages, {LIVE_PER_S} a second, to the bridge that rebuilds",
        )
        for percent in (50, 99)
    ]


@asynccontextmanager
async def _rebuilding(rig: Rig, bridge: MeteredBridge) -> AsyncIterator[None]:
    """Empty Redis whenever the bridge has built its projection."""

    async def empty() -> None:
        async with Redis.from_url(rig.redis.url) as client:
            while True:
                if await bridge.is_current():
                    await client.flushall()
                await asyncio.sleep(_LOOK_INTERVAL_S)

    emptying = asyncio.create_task(empty())
    await reached(lambda: _not(bridge), 1, interval_s=_LOOK_INTERVAL_S)
    try:
        yield
    finally:
        emptying.cancel()


async def _not(bridge: MeteredBridge) -> bool:
    return not await bridge.is_current()


async def _fill(rig: Rig, traffic: Traffic) -> None:
    """Store the fleet's history, day after day."""
    places = [(day, window) for day in range(DAYS) for window in windows(traffic.devices, _INSERT_EVENTS)]
    rest = iter(places)

    async def insert(store: MongoEventStore) -> None:
        for day, devices in rest:
            events = [_event(traffic, device * _STRIDE % traffic.devices, day) for device in devices]
            await store.insert(events, events[0].timestamp + timedelta(minutes=1))

    async with rig.event_store() as store, asyncio.TaskGroup() as group:
        for _ in range(_INSERTS_AT_ONCE):
            group.create_task(insert(store))


def _event(traffic: Traffic, device: int, day: int) -> SyncEvent:
    """A device's event of a day; the newest day is yesterday."""
    today = clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
    event = traffic.event(device, day)
    moment = today - timedelta(days=DAYS - day) + timedelta(milliseconds=device * 1_000)
    return msgspec.structs.replace(event, timestamp=moment)


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(
        seconds=one.seconds + other.seconds,
        cpu_s={name: used + other.cpu_s[name] for name, used in one.cpu_s.items()},
    )
