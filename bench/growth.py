"""Row: whether what is stored already slows down what comes, or what is read of it.

An old store, filled once, stands beside young ones, and both are measured in turn.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from random import Random
from statistics import median
from typing import Any, Final

from bench import broker, http_load, progress
from bench import rig as rigs
from bench.draining import Drain, drained_by_bridge
from bench.filling import build_projection, fill, to_disk
from bench.footprint import KEYS_CACHED, STORED
from bench.hourly import Backlog, Fleet
from bench.meter import Meter
from bench.progress import Parts
from bench.results import AT_LEAST, AT_MOST, Result, Target
from bench.rig import Rig
from bench.scale import Scale
from local_stack import ports
from local_stack.process import running
from local_stack.servers import MONGOD_CACHE_GB
from local_stack.services import Api
from pisync import limits

DEVICES_OLD: Final = 100_000
HOURS_OLD: Final = 250
# Devices and hours of the young stores: of the one that the targets are stated for, and of one with so many
# devices that no batch holds one twice, so that the projection has as much to do as with the old store.
YOUNG: Final = (1_000, 50)
YOUNG_FULL_BATCHES: Final = (limits.BATCH_MESSAGES_MAX, 25)
SINGLE_MESSAGES: Final = 200_000
ARRAY_MESSAGES: Final = 6_000
EVENTS_AN_ARRAY: Final = 50
ROUNDS: Final = 3
HISTORY_ROUNDS: Final = 5
REQUESTS: Final = 500
_WARM_UP_REQUESTS: Final = 100
_DRAIN_TIMEOUT_S: Final = 600
# The targets of a page's p95, by whether Redis is away.
_HISTORY_AT_MOST: Final = {False: 1.5, True: 3.0}
# By the day of the event; at the ends of the other indexes MongoDB appends.
_INDEXES_BY_DAY: Final = ("_id_", "failures_by_day")


@dataclass(frozen=True, kw_only=True)
class _Store:
    """Servers, and the fleet whose history they hold."""

    rig: Rig
    fleet: Fleet


@dataclass(frozen=True, kw_only=True)
class _Drained:
    """A drain; `mongod_us` is mongod's CPU an event with the checkpoint that writes what it changed."""

    drain: Drain
    mongod_us: float


async def growth(scale: Scale) -> list[Result]:
    """Sizes, histories and drains of an old store, the latter two next to those of young ones.

    Raises:
        PartsFailed: the others' results are there.
    """
    single, arrays = _backlogs(scale)
    devices = scale.of(DEVICES_OLD, at_least=2 * limits.BATCH_MESSAGES_MAX)
    old_fleet = Fleet(devices=devices, hours=HOURS_OLD, backlogs=(single, arrays), rounds=ROUNDS)
    young_fleet, full_batches = (
        Fleet(devices=devices, hours=hours, backlogs=(single, arrays))
        for devices, hours in (YOUNG, YOUNG_FULL_BATCHES)
    )
    results, parts = progress.found(), Parts()
    with parts.one("keys in the cache"):
        results += await _keys_in_the_cache(young_fleet)
    async with rigs.fresh() as rig:
        old = _Store(rig=rig, fleet=old_fleet)
        await fill(rig, old_fleet.traffic)
        with parts.one("size"):
            results += await _size(old)
        with parts.one("projection"):
            results += await _projection(old)
        with parts.one("history"):
            results += await _histories(old, young_fleet, scale.of(REQUESTS, at_least=100))
        for backlog, young in ((single, [young_fleet, full_batches]), (arrays, [young_fleet])):
            with parts.one(backlog.name):
                results += _compared(backlog, await _rounds(old, young, backlog, parts), old_fleet)
    parts.raise_failed()
    return results


def _backlogs(scale: Scale) -> tuple[Backlog, Backlog]:
    return (
        Backlog(
            name="every event of another device",
            messages=scale.of(SINGLE_MESSAGES, at_least=20_000),
            events_each=1,
        ),
        Backlog(
            name=f"arrays of {EVENTS_AN_ARRAY} hourly events, devices in turn",
            messages=scale.of(ARRAY_MESSAGES, at_least=600),
            events_each=EVENTS_AN_ARRAY,
        ),
    )


def _of(fleet: Fleet) -> str:
    return f"{fleet.stored:,} events of {fleet.devices:,} devices"


@asynccontextmanager
async def _young(fleet: Fleet) -> AsyncIterator[_Store]:
    """A young store, with its projection."""
    async with rigs.fresh() as rig:
        await fill(rig, fleet.traffic)
        await build_projection(rig, fleet.traffic)
        yield _Store(rig=rig, fleet=fleet)


async def _keys_in_the_cache(fleet: Fleet) -> list[Result]:
    """What the keys of an event take in MongoDB's cache, where all of them are in it."""
    async with rigs.fresh() as rig:
        await fill(rig, fleet.traffic)
        indexes = (await _statistics(rig))["indexDetails"]
    kept = [indexes[name]["cache"]["bytes currently in the cache"] for name in _INDEXES_BY_DAY]
    return [
        Result(
            name=KEYS_CACHED,
            value=sum(kept) / fleet.stored,
            unit="bytes",
            note=f"{_of(fleet)}, all in the cache; indexes {' and '.join(_INDEXES_BY_DAY)}",
        )
    ]


async def _size(old: _Store) -> list[Result]:
    """What an event takes on disk, with its keys."""
    statistics = await _statistics(old.rig)
    count = statistics["count"]
    parts = {"document": statistics["storageSize"], **statistics["indexSizes"]}
    said = ", ".join(f"{name} {size / count:.1f}" for name, size in parts.items())
    free = statistics["freeStorageSize"] / statistics["storageSize"]
    return [
        Result(
            name=STORED,
            value=sum(parts.values()) / count,
            unit="bytes",
            note=f"{_of(old.fleet)}, one an hour, in the order of the hours; compressed, {said};"
            f" {free:.0%} of the documents' file is free for others",
        )
    ]


async def _projection(old: _Store) -> list[Result]:
    """How fast a bridge builds the projection, and how often MongoDB reads a page for it."""
    count, meter, before = old.fleet.stored, old.rig.meter(), await _pages_read(old.rig)
    await build_projection(old.rig, old.fleet.traffic)
    usage, pages = meter.usage(), await _pages_read(old.rig) - before
    return [
        Result(
            name=f"growth: the projection of {_of(old.fleet)} built",
            value=count / usage.seconds,
            unit="events/s",
            cpu_us_per_event=usage.per_event_us(count),
            note=f"in {usage.seconds:,.0f} s; MongoDB read {pages:,} pages into a cache of {MONGOD_CACHE_GB}"
            f" GB, {pages / count:.4f} an event",
        )
    ]


async def _pages_read(rig: Rig) -> int:
    status = await rig.database.command("serverStatus")
    found: int = status["wiredTiger"]["cache"]["pages read into cache"]
    return found


async def _statistics(rig: Rig) -> dict[str, Any]:
    found: dict[str, Any] = await rig.database.command("collStats", "sync_events")
    return found


async def _histories(old: _Store, young_fleet: Fleet, requests: int) -> list[Result]:
    """Pages of random devices, of the old store and of a young one in turn, with Redis and without."""
    async with _young(young_fleet) as young, AsyncExitStack() as stack:
        histories = [
            _History(store, is_away, await stack.enter_async_context(running(_api(store, is_away=is_away))))
            for is_away in _HISTORY_AT_MOST
            for store in (young, old)
        ]
        for history in histories:
            await history.measure(_WARM_UP_REQUESTS)
            history.p95s_ms.clear()
        for _ in range(HISTORY_ROUNDS):
            for history in histories:
                await history.measure(requests)
    p95_ms = {(history.store.fleet, history.is_away): median(history.p95s_ms) for history in histories}
    return [
        Result(
            name=f"growth: history page, p95, with {_of(old.fleet)}"
            + (", Redis away" if is_away else ", Redis there"),
            value=p95_ms[old.fleet, is_away],
            unit="ms",
            against=_of(young_fleet),
            against_value=p95_ms[young_fleet, is_away],
            target=Target(AT_MOST, at_most),
            note=f"the newest 50 of random devices, {requests:,} requests one after the other, medians of"
            f" {HISTORY_ROUNDS} rounds, the stores in turn",
        )
        for is_away, at_most in _HISTORY_AT_MOST.items()
    ]


def _api(store: _Store, *, is_away: bool) -> Api:
    """An api; where Redis is away, nobody listens at its address."""
    if is_away:
        return store.rig.api(redis_url=f"redis://{ports.HOST}:{ports.any_free()}/0")
    return store.rig.api()


class _History:
    """Pages of a store's devices, and the 95th percentile of each round of them."""

    def __init__(self, store: _Store, is_away: bool, api: Api) -> None:
        self.store = store
        self.is_away = is_away
        self.p95s_ms: list[float] = []
        self._api = api
        self._random = Random(store.fleet.devices)

    async def measure(self, requests: int) -> None:
        """Ask for so many, one after the other."""
        drawn = self._random.choices(range(self.store.fleet.devices), k=requests)
        device_ids = map(self.store.fleet.traffic.device_id, drawn)
        gets = [http_load.get(f"/api/device/{device_id}/sync-history") for device_id in device_ids]
        sent = await http_load.send(self._api.port, gets, connections=1)
        self.p95s_ms.append(sent.percentile_ms(95))


async def _rounds(
    old: _Store, young: Sequence[Fleet], backlog: Backlog, parts: Parts
) -> list[dict[Fleet, _Drained]]:
    """The rounds in which the old store and young ones drained the backlog, now these first and now that."""
    rounds = []
    turns = [*young, old.fleet]
    for at in range(ROUNDS):
        with parts.one(f"{backlog.name}, round {at + 1} of {ROUNDS}"):
            rounds.append({fleet: await _turn(old, fleet, backlog, at) for fleet in turns})
        turns.reverse()
    return rounds


async def _turn(old: _Store, fleet: Fleet, backlog: Backlog, at: int) -> _Drained:
    if fleet == old.fleet:
        return await _drained(old, backlog, at)
    async with _young(fleet) as young:
        return await _drained(young, backlog, 0)


async def _drained(store: _Store, backlog: Backlog, at: int) -> _Drained:
    try:
        async with asyncio.timeout(_DRAIN_TIMEOUT_S):
            drain = await drained_by_bridge(store.rig, store.fleet.queue(backlog, at), events=backlog.events)
    except Exception:
        # What is left in the broker is no part of the next round.
        await asyncio.to_thread(broker.forget, store.rig.mosquitto.port, store.rig.bridge().name)
        raise
    meter = Meter({"mongod": store.rig.mongodb.pid})
    await to_disk(store.rig)
    checkpoint_us = meter.usage().per_event_us(backlog.events)["mongod"]
    return _Drained(drain=drain, mongod_us=drain.cpu_us_per_event["mongod"] + checkpoint_us)


def _compared(backlog: Backlog, rounds: Sequence[dict[Fleet, _Drained]], old: Fleet) -> list[Result]:
    """The medians of the old store next to those of each young one; nothing where no round was measured."""
    fleets = rounds[0] if rounds else ()
    rates = {fleet: [drains[fleet].drain.per_second for drains in rounds] for fleet in fleets}
    mongod_us = {fleet: median(drains[fleet].mongod_us for drains in rounds) for fleet in rates}
    cpu = {fleet: _cpu_us([drains[fleet].drain for drains in rounds]) for fleet in rates}
    what = f"growth: ingest with {_of(old)}, {backlog.name}"
    results = []
    for young in (fleet for fleet in rates if fleet != old):
        ratios = ", ".join(
            f"{ours / theirs:.2f}" for ours, theirs in zip(rates[old], rates[young], strict=True)
        )
        results += [
            Result(
                name=what,
                value=median(rates[old]),
                unit="events/s",
                against=_of(young),
                against_value=median(rates[young]),
                target=Target(AT_LEAST, 0.8) if young.devices == YOUNG[0] else None,
                cpu_us_per_event=cpu[old],
                note=f"{backlog.events:,} events a round, the stores in turn, MongoDB's cache"
                f" {MONGOD_CACHE_GB:g} GB; ratios of the rounds: {ratios}; with {_of(young)}: "
                + ", ".join(f"{name} {used:.1f} µs" for name, used in cpu[young].items()),
            ),
            Result(
                name=f"{what}: mongod's CPU",
                value=mongod_us[old],
                unit="us/event",
                against=_of(young),
                against_value=mongod_us[young],
                note="with the checkpoint after the drain, which writes the pages that it changed",
            ),
        ]
    return results


def _cpu_us(drains: Sequence[Drain]) -> dict[str, float]:
    return {
        name: median(drain.cpu_us_per_event[name] for drain in drains) for name in drains[0].cpu_us_per_event
    }
