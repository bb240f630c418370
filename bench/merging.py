"""Row: what merging an event costs Redis: of ever other devices, or of some that fail again and again."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import repeat
from typing import Final

from redis.asyncio import Redis

from bench import rig as rigs
from bench.results import AT_MOST, Result, Target
from bench.rig import Rig
from bench.scale import Scale
from bench.traffic import BEGIN_MS, HOUR_MS, windows
from pisync import clock, limits
from pisync.domain.device_state import DeviceState, project
from pisync.domain.events import ErrorDetail, SyncEvent

# Devices, and the most that an event may cost Redis in microseconds.
FLEETS: Final = ((10_000, 11.0), (100_000, 18.0))
DEVICE_BYTES_MAX: Final = 10_000.0
EVENTS: Final = 200_000
_BATCH: Final = 2_000
_DAYS: Final = 60
_FAILING_ONE_IN: Final = 10
_MANY_FAILURES: Final = 2_000
_DAY_MS: Final = 24 * HOUR_MS
_QUIET_S: Final = 1.0
_ERRORS: Final = [ErrorDetail(code="UPLOAD_TIMEOUT", message="")]
# About what is kept of a device in one value, for the bare SET.
_VALUE: Final = b"x" * 120

States = Mapping[str, DeviceState]


async def script(scale: Scale) -> list[Result]:
    """CPU time of Redis for each event, of fleets that are 60 days old, next to a bare SET."""
    events = scale.of(EVENTS, at_least=4_000)
    results = []
    for full, most_us in FLEETS:
        devices = scale.of(full, at_least=2_000)
        merged, bare = await _every_device_in_turn(devices, events)
        results.append(
            Result(
                name=f"Redis: merging, every event of another device, {full:,} devices",
                value=merged,
                unit="µs",
                against="the most that is right",
                against_value=most_us,
                target=Target(AT_MOST, 1.0),
                note=f"CPU of Redis an event; {devices:,} devices, {events:,} events, {_BATCH:,} a batch;"
                f" a bare SET of about as many bytes took {bare:.2f} µs",
            )
        )
    return [*results, *await _many_failures(scale)]


async def _every_device_in_turn(devices: int, events: int) -> tuple[float, float]:
    """CPU microseconds of Redis an event: merged, and as one SET each."""
    async with rigs.fresh() as rig, Redis.from_url(rig.redis.url) as client, rig.projection() as projection:
        await projection.begin_rebuild("bench", [])
        await projection.finish_rebuild("bench")
        for numbers in windows(devices, _BATCH):
            await projection.apply(_history(numbers))
        batches = [
            [number % devices * 7_919 % devices for number in numbers] for numbers in windows(events, _BATCH)
        ]
        states = [_live(turn, numbers) for turn, numbers in enumerate(batches)]

        async def merge() -> None:
            for each in states:
                await projection.apply(each)

        async def write() -> None:
            for numbers in batches:
                async with client.pipeline(transaction=False) as pipeline:
                    for number in numbers:
                        pipeline.set(f"bench:PB-{number:06d}", _VALUE)
                    await pipeline.execute()

        return await _cpu_us(rig, events, merge), await _cpu_us(rig, events, write)


async def _many_failures(scale: Scale) -> list[Result]:
    """A device that keeps failing, event by event, until as many failures are kept as may be."""
    failures = scale.of(_MANY_FAILURES, at_least=limits.FAILURES_KEPT_MAX + limits.FAILURES_SLACK)
    async with rigs.fresh() as rig, Redis.from_url(rig.redis.url) as client, rig.projection() as projection:
        await projection.begin_rebuild("bench", [])
        await projection.finish_rebuild("bench")
        await asyncio.sleep(_QUIET_S)
        before = (await client.info("memory"))["used_memory"]
        names = [f"PB-{number:06d}" for number in range(200)]
        batches = [
            project([_event(name, moment_ms, 1) for name in names], repeat(moment_ms))
            for moment_ms in range(BEGIN_MS, BEGIN_MS + HOUR_MS * failures, HOUR_MS)
        ]

        async def merge() -> None:
            for each in batches:
                await projection.apply(each)

        used_us = await _cpu_us(rig, failures * len(names), merge)
        await asyncio.sleep(_QUIET_S)
        used = (await client.info("memory"))["used_memory"] - before
    what = f"Redis: a device with {limits.FAILURES_KEPT_MAX:,} failures"
    note = f"{len(names)} devices that failed {failures:,} times each, one event after the other"
    return [
        Result(
            name=f"{what}, memory",
            value=used / len(names),
            unit="bytes",
            against="the most that is right",
            against_value=DEVICE_BYTES_MAX,
            target=Target(AT_MOST, 1.0),
            note=note,
        ),
        Result(name=f"{what}, merging", value=used_us, unit="µs", note=f"CPU of Redis an event; {note}"),
    ]


async def _cpu_us(rig: Rig, events: int, work: Callable[[], Awaitable[None]]) -> float:
    meter = rig.meter()
    await work()
    await asyncio.sleep(_QUIET_S)  # what is appended to the file every second is work as well
    return meter.usage().per_event_us(events)["redis"]


def _event(device_id: str, moment_ms: int, errors: int) -> SyncEvent:
    return SyncEvent(
        device_id=device_id,
        timestamp=clock.from_ms(moment_ms),
        total_files_synced=20,
        total_errors=errors,
        internet_speed=3.2,
        device_type="PiBook",
        sync_duration_ms=5_400,
        errors=_ERRORS if errors else None,
    )


def _history(numbers: Sequence[int]) -> States:
    """A success a day, every second day or every week, and one failure in ten syncs."""
    events = [
        _event(f"PB-{number:06d}", BEGIN_MS + day * _DAY_MS + number, (day + number) % _FAILING_ONE_IN == 0)
        for number in numbers
        for day in range(0, _DAYS, (1, 2, 7)[number % 3])
    ]
    return project(events, [clock.to_ms(event.timestamp) for event in events])


def _live(turn: int, numbers: Sequence[int]) -> States:
    """An event of each of these devices, received together; one in ten failed."""
    received_ms = BEGIN_MS + _DAYS * _DAY_MS + turn * 60_000
    events = [
        _event(f"PB-{number:06d}", received_ms + number % 1_000, (turn + number) % _FAILING_ONE_IN == 0)
        for number in numbers
    ]
    return project(events, [received_ms] * len(events))
