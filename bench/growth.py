"""Rows: whether what is stored already slows down what comes, or what is read of it."""

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from random import Random
from typing import Final

import msgspec
from bson.min_key import MinKey

from bench import http_load
from bench import rig as rigs
from bench.draining import Drain, drained_by_bridge
from bench.results import AT_LEAST, AT_MOST, Result, Target
from bench.rig import Rig, Stalled
from bench.scale import Scale
from bench.traffic import TOGETHER, Traffic, windows
from local_stack.process import running
from local_stack.servers import MONGOD_CACHE_GB, MongodbServer
from pisync import limits
from pisync.domain import topics
from pisync.stores.mongodb.events import MongoEventStore

EVENTS_EACH: Final = 50
DEVICES_FEW: Final = 1_000
DEVICES_MANY: Final = 100_000
NEW_EVENTS: Final = 60_000
# What MongoDB takes by itself on a machine with 7 GB; it holds all that is stored here.
CACHE_GB: Final = 3.0
REQUESTS: Final = 1_000
_WARM_UP_REQUESTS: Final = 100
_INSERT_EVENTS: Final = 5_000
_INSERTS_AT_ONCE: Final = 3
_REBUILD_TIMEOUT_S: Final = 900
# Coprime to the sizes of the fleets: devices come in an order that is not that of their ids.
_STRIDE: Final = 7919
# More than one pattern makes of any device: each pattern's events have numbers of their own, which all come
# out of `SPARE_NUMBERS`.
_NUMBERS: Final = 100


@dataclass(frozen=True, kw_only=True)
class _Pattern:
    """How new events come: so many devices at a time take turns until each has sent so many."""

    name: str
    together: int
    events_each: int


PATTERNS: Final = (
    _Pattern(name="devices that come back with 20 each", together=TOGETHER, events_each=20),
    _Pattern(name="every event of another device", together=limits.BATCH_MESSAGES_MAX, events_each=1),
)


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """What was measured with so many events stored and so much cache; a drain for each pattern."""

    cache_gb: float
    drains: Sequence[Drain]
    history_p95_ms: float


async def growth(scale: Scale) -> list[Result]:
    """Drain single events of existing devices, then read histories: with a young store and with two old ones.

    One has the young one's fleet, and a history a hundred times as long; the other a fleet a hundred times
    as large, with a history as long. The bridge has built the projection of it before anything is measured.
    All are measured twice: with a cache that holds everything, and with the small one of the local stack.
    """
    few = scale.of(DEVICES_FEW, at_least=200)
    many = scale.of(DEVICES_MANY, at_least=5 * DEVICES_FEW)
    new_events = scale.of(NEW_EVENTS, at_least=10_000)
    requests = scale.of(REQUESTS, at_least=200)
    longer = EVENTS_EACH * many // few
    young = await _grown(few, EVENTS_EACH, new_events, requests)
    results = []
    for devices, events_per_device in ((few, longer), (many, EVENTS_EACH)):
        old = await _grown(devices, events_per_device, new_events, requests)
        stored = f"{devices * events_per_device:,} events of {devices:,} devices"
        results += _compared(young, old, stored, f"{few * EVENTS_EACH:,} of {few:,}", requests)
    return results


def _compared(
    young: Sequence[_Measured], old: Sequence[_Measured], stored: str, against: str, requests: int
) -> list[Result]:
    results = []
    for before, after in zip(young, old, strict=True):
        cache = f"MongoDB's cache {after.cache_gb:g} GB"
        for pattern, drain, drain_before in zip(PATTERNS, after.drains, before.drains, strict=True):
            results.append(
                Result(
                    name=f"growth: ingest with {stored}, {pattern.name}, {cache}",
                    value=drain.per_second,
                    unit="events/s",
                    against=against,
                    against_value=drain_before.per_second,
                    target=Target(AT_LEAST, 0.8),
                    cpu_us_per_event=drain.cpu_us_per_event,
                    note=f"{drain.messages:,} messages, one event each; with {against}: {drain_before.cpu}"
                    " an event",
                )
            )
        results.append(
            Result(
                name=f"growth: history page, p95, with {stored}, {cache}",
                value=after.history_p95_ms,
                unit="ms",
                against=against,
                against_value=before.history_p95_ms,
                target=Target(AT_MOST, 1.5),
                note=f"{requests:,} requests one after the other, for the newest 50 of random devices",
            )
        )
    return results


async def _grown(devices: int, events_per_device: int, new_events: int, requests: int) -> list[_Measured]:
    """Store a fleet's history and measure: with the large cache, which then is full of it, and the small."""
    traffic = Traffic(devices=devices, events=devices * events_per_device)
    async with rigs.fresh(cache_gb=CACHE_GB) as rig:
        await _fill(rig, traffic)
        await _build_projection(rig)
        await rig.database.client.admin.command("fsync")  # what was filled in is not written in our time
        sizes = {"new_events": new_events, "requests": requests}
        roomy = await _measured(rig, traffic, cache_gb=CACHE_GB, first=events_per_device, **sizes)
        await rig.mongodb.terminate()
        async with running(MongodbServer(rig.mongodb.directory, port=rig.mongodb.port)) as mongodb:
            small = replace(rig, mongodb=mongodb)
            await rig.database.sync_events.count_documents({"_id": {"$gt": MinKey()}})  # fills the cache
            first = events_per_device + len(PATTERNS) * _NUMBERS
            tight = await _measured(small, traffic, cache_gb=MONGOD_CACHE_GB, first=first, **sizes)
    return [roomy, tight]


async def _measured(
    rig: Rig, traffic: Traffic, *, cache_gb: float, first: int, new_events: int, requests: int
) -> _Measured:
    """Measure with new events whose numbers begin with the first."""
    drains = []
    for at, pattern in enumerate(PATTERNS):
        messages = islice(_messages(traffic, pattern, first + at * _NUMBERS), new_events)
        drains.append(await drained_by_bridge(rig, messages))
    async with running(rig.api()) as api:
        drawn = Random(traffic.devices).choices(range(traffic.devices), k=_WARM_UP_REQUESTS + requests)
        pages = [http_load.get(f"/api/device/{traffic.device_id(device)}/sync-history") for device in drawn]
        await http_load.send(api.port, pages[:_WARM_UP_REQUESTS], connections=1)
        sent = await http_load.send(api.port, pages[_WARM_UP_REQUESTS:], connections=1)
    return _Measured(cache_gb=cache_gb, drains=drains, history_p95_ms=sent.percentile_ms(95))


async def _fill(rig: Rig, traffic: Traffic) -> None:
    """Store the fleet's history, interval after interval, as it would have come."""
    places = itertools.product(range(traffic.events_per_device), windows(traffic.devices, _INSERT_EVENTS))

    async def insert(store: MongoEventStore) -> None:
        for number, devices in places:
            events = [traffic.event(device * _STRIDE % traffic.devices, number) for device in devices]
            await store.insert(events, events[0].timestamp + timedelta(minutes=1))

    async with rig.event_store() as store, asyncio.TaskGroup() as group:
        for _ in range(_INSERTS_AT_ONCE):
            group.create_task(insert(store))


async def _build_projection(rig: Rig) -> None:
    """Let a bridge build the projection of all that is stored, raise the alerts that follow, and go."""
    try:
        async with (
            rig.projection() as projection,
            running(rig.bridge()),
            asyncio.timeout(_REBUILD_TIMEOUT_S),
        ):
            while not (await projection.status()).complete:
                await asyncio.sleep(0.1)
            open_alerts = -1
            while open_alerts != (open_alerts := await rig.database.alerts.estimated_document_count()):
                await asyncio.sleep(1)
    except TimeoutError:
        raise Stalled(f"the projection was not built within {_REBUILD_TIMEOUT_S} s") from None


def _messages(traffic: Traffic, pattern: _Pattern, first: int) -> Iterator[tuple[str, bytes]]:
    """New events without end, each a message of its own, of devices not in the order of their ids."""
    for wave in itertools.count(step=pattern.together):
        for number in range(pattern.events_each):
            for visit in range(wave, wave + pattern.together):
                before = visit // traffic.devices * pattern.events_each
                event = traffic.event(visit * _STRIDE % traffic.devices, first + before + number)
                yield topics.sync(event.device_id), msgspec.json.encode(event)
