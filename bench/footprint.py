"""Row: what a device costs in Redis; and the tables of capacity that follow from what was measured."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

from redis.asyncio import Redis

from bench import rig as rigs
from bench.results import Result, figure_text
from bench.scale import Scale
from bench.traffic import BEGIN_MS, HOUR_MS, windows
from pisync.domain.days import DAY_MS, Days
from pisync.domain.device_state import DeviceState, LastEvent

DEVICES: Final = 100_000
FAILURES: Final = 20
WITHOUT: Final = "Redis: a device without failures"
WITH: Final = f"Redis: a device with {FAILURES} failures"
# Measured by the row `growth`: an event on disk with its keys, and the keys in MongoDB's cache.
STORED: Final = "MongoDB: an event on disk, with all indexes"
KEYS_CACHED: Final = "MongoDB: the keys of an event, in the cache"
_FLEETS: Final = (100_000, 1_000_000)
# Devices, and syncs of each a day.
_SYNCING: Final = ((10_000, 24), (100_000, 1), (100_000, 24), (1_000_000, 1), (1_000_000, 24))
_RETENTION_DAYS: Final = (90, 365)
_CACHE_DAYS: Final = 3
# MongoDB takes no less.
_CACHE_MIN_BYTES: Final = 0.25e9
_BATCH: Final = 1_000
_QUIET_S: Final = 2.0
_MEGABYTE: Final = 1e6


async def redis(scale: Scale) -> list[Result]:
    """The memory that Redis allocates for a fleet, divided by its devices: without failures and with.

    It is the difference of `used_memory` (INFO) between a projection of nobody and one of the whole fleet:
    keys, values, rankings and Redis's own tables. What the allocator wastes beyond it is in the note.
    """
    devices = scale.of(DEVICES, at_least=5_000)
    without, _ = await _bytes_per_device(devices, 0)
    with_failures, waste = await _bytes_per_device(devices, FAILURES)
    return [
        Result(name=WITHOUT, value=without, unit="bytes", note=f"{devices:,} devices, used_memory"),
        Result(
            name=WITH,
            value=with_failures,
            unit="bytes",
            against="without failures",
            against_value=without,
            note=f"{devices:,} devices, each with an open alert; resident memory was {waste:.2f} times"
            " used_memory",
        ),
    ]


def table(results: Iterable[Result]) -> list[tuple[str, ...]]:
    """What fleets need in Redis, from the row's results: a head and lines; empty without them."""
    found = {result.name: result.value for result in results}
    if WITHOUT not in found or WITH not in found:
        return []
    costs = (found[WITHOUT], _tenth_failing(found), found[WITH])
    head = ("devices", "none fails", f"a tenth has {FAILURES} failures", f"each has {FAILURES} failures")
    return [
        head,
        *(
            (f"{devices:,}", *(f"{devices * cost / _MEGABYTE:,.0f} MB" for cost in costs))
            for devices in _FLEETS
        ),
    ]


def servers(results: Iterable[Result]) -> list[tuple[str, ...]]:
    """What fleets need of disk, MongoDB's cache and Redis: a head and lines; empty without the costs."""
    found = {result.name: result.value for result in results}
    if not {STORED, KEYS_CACHED, WITHOUT, WITH} <= found.keys():
        return []
    disks = (f"disk, {days} days" for days in _RETENTION_DAYS)
    lines = [("devices", "syncs a day", "events a day", *disks, "MongoDB's cache", "Redis")]
    for devices, syncs in _SYNCING:
        events = devices * syncs
        cache = max(_CACHE_MIN_BYTES, events * _CACHE_DAYS * found[KEYS_CACHED])
        lines.append(
            (
                *(f"{devices:,}", f"{syncs}", f"{events:,}"),
                *(_gigabytes(events * days * found[STORED]) for days in _RETENTION_DAYS),
                _gigabytes(cache),
                _gigabytes(devices * _tenth_failing(found)),
            )
        )
    return lines


def _tenth_failing(found: Mapping[str, float]) -> float:
    """Bytes in Redis of a device, on average, where a tenth has failures."""
    return found[WITHOUT] + (found[WITH] - found[WITHOUT]) / 10


def _gigabytes(size: float) -> str:
    return f"{figure_text(size / 1e9)} GB"


async def _bytes_per_device(devices: int, failures: int) -> tuple[float, float]:
    """Bytes a device with so many failures, and resident over allocated memory."""
    async with (
        rigs.fresh() as rig,
        Redis.from_url(rig.redis.url) as client,
        rig.projection() as projection,
    ):
        await projection.begin_rebuild("bench", [])
        await projection.finish_rebuild("bench")
        await asyncio.sleep(_QUIET_S)
        before = await client.info("memory")
        for numbers in windows(devices, _BATCH):
            states = {f"PB-{number:06d}": _state(number, failures) for number in numbers}
            await projection.confirm(await projection.apply(states))
        # The buffers of the append-only file come and go; here they have gone.
        await asyncio.sleep(_QUIET_S)
        after = await client.info("memory")
    used = after["used_memory"] - before["used_memory"]
    return used / devices, after["used_memory_rss"] / after["used_memory"]


def _state(device: int, failures: int) -> DeviceState:
    """A device that had a success and then so many failures, an hour or so apart."""
    begin_ms = BEGIN_MS + device % 1000
    moments_ms = tuple(
        begin_ms + HOUR_MS * number + device * number % 1000 for number in range(1, failures + 1)
    )
    return DeviceState(
        last_success_ms=begin_ms,
        failures_ms=moments_ms,
        last_event=LastEvent(
            timestamp_ms=max(moments_ms, default=begin_ms),
            total_files_synced=0 if failures else 20,
            total_errors=int(failures > 0),
            internet_speed=(device % 4000) / 100,
            device_type="PiBook",
            sync_duration_ms=800 + device % 60_000,
        ),
        received_ms=max(moments_ms, default=begin_ms),
        code="UPLOAD_TIMEOUT" if failures else "",
        ok=Days.of([begin_ms // DAY_MS]),
        bad=Days.of({moment_ms // DAY_MS for moment_ms in moments_ms}),
        heard=Days.of({moment_ms // DAY_MS for moment_ms in (begin_ms, *moments_ms)}),
    )
