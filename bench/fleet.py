"""Row: the fleet in memory: what a device takes, how long its lists take, and what following it costs."""

import gc
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Final

from bench import devices as made
from bench import rig as rigs
from bench.meter import resident_mb
from bench.results import AT_MOST, Result, Target, percentile
from bench.rig import Rig
from bench.scale import Scale
from bench.traffic import BEGIN_MS, windows
from fleet import summaries
from fleet.index import Fleet
from fleet.query import FleetCursor, FleetFilter, FleetPage, FleetSort, page
from fleet.reading import Reading
from fleet.summaries import SiteSort
from pisync.domain.days import DAY_MS
from pisync.domain.device_status import Status
from pisync.stores.interfaces.feed import StateSummary
from pisync.stores.interfaces.projection import ProjectionReader

# How many devices, and in how many milliseconds a list of them should be there.
FLEETS: Final = ((100_000, 25.0), (1_000_000, 40.0))
_FOLLOWED: Final = 100_000
_BATCH: Final = 2_000
_PAGE: Final = 50
_PAGES: Final = 1_000
_TIMES: Final = 5
_NOW_MS: Final = BEGIN_MS + 60 * DAY_MS
_FILTERS: Final = (
    FleetFilter(),
    FleetFilter(states=frozenset({Status.GOOD})),
    FleetFilter(sites=frozenset({"site-7"})),
    FleetFilter(labels=frozenset({"north"})),
    FleetFilter(types=frozenset({"PiBook"})),
    FleetFilter(causes=frozenset({"E_NET"})),
    FleetFilter(prefix="school 1"),
    FleetFilter(heard_before_ms=_NOW_MS - DAY_MS),
    FleetFilter(heard_after_ms=_NOW_MS - DAY_MS),
    FleetFilter(muted=False),
)


async def fleet(scale: Scale) -> list[Result]:
    """CPU time of one process for lists of a fleet in its memory, and for following the projection."""
    results = []
    for full, target_ms in FLEETS:
        results += _lists(scale.of(full, at_least=5_000), target_ms)
    return [*results, *await _following(scale.of(_FOLLOWED, at_least=5_000))]


def _lists(devices: int, target_ms: float) -> list[Result]:
    gc.collect()
    before_mb = resident_mb(os.getpid())
    found = _filled(devices)
    used = (resident_mb(os.getpid()) - before_mb) * 1e6 / devices
    taken = {"page": list(_pages(found)), "summary": list(_summaries(found))}
    name = f"fleet of {devices:,}"
    note = f"CPU time; {len(_FILTERS)} filters and {len(FleetSort)}"
    return [
        Result(name=f"{name}: memory", value=used, unit="bytes", note="a device with a name, resident"),
        Result(
            name=f"{name}: a page of {_PAGE}, p95",
            value=percentile(taken["page"], 95),
            unit="ms",
            against="the target",
            against_value=target_ms,
            target=Target(AT_MOST, 1),
            note=f"{note} sorts either way, the first page and that after {_PAGES:,}; slowest"
            f" {max(taken['page']):.1f} ms",
        ),
        Result(
            name=f"{name}: counts, causes, sites, slowest",
            value=max(taken["summary"]),
            unit="ms",
            against="the target",
            against_value=target_ms,
            target=Target(AT_MOST, 1),
            note=f"of {devices // made.SITE_DEVICES:,} sites and {len(made.CODES)} codes",
        ),
    ]


def _filled(devices: int) -> Fleet:
    """A fleet whose devices have names and sites, of which one in twenty fails."""
    found = Fleet()
    found.set_sites(map(made.site, range(devices // made.SITE_DEVICES)))
    chance = random.Random(1)
    for numbers in windows(devices, _BATCH):
        found.apply(
            (made.device_id(number), StateSummary.of(made.state(number, chance, until_ms=_NOW_MS)))
            for number in numbers
        )
        found.set_devices([made.entry(number) for number in numbers])
        if found.has_many_unsettled:
            found.settle()
    found.settle()
    found.set_limits({(calendar, days): _NOW_MS - days * DAY_MS for calendar, days in found.habits()})
    return found


def _pages(found: Fleet) -> Iterator[float]:
    """What each page takes: the first ones, and of all devices that after a thousand others."""
    for which, sort, descending in product(_FILTERS, FleetSort, (False, True)):

        def take(limit: int = _PAGE, after: FleetCursor | None = None) -> FleetPage:
            return page(
                found,
                which,  # noqa: B023 - it is called at once
                sort=sort,  # noqa: B023
                descending=descending,  # noqa: B023
                limit=limit,
                after=after,
                now_ms=_NOW_MS,
            )

        yield _cpu_ms(take)
        if which == FleetFilter():
            end = take(_PAGE * _PAGES).next
            yield _cpu_ms(partial(take, after=end))


def _summaries(found: Fleet) -> Iterator[float]:
    for which in _FILTERS:
        yield _cpu_ms(partial(summaries.counts, found, which, now_ms=_NOW_MS, limit=100))
        yield _cpu_ms(partial(summaries.causes, found, which, now_ms=_NOW_MS, limit=200, sites_max=20))
        for sort in SiteSort:
            yield _cpu_ms(partial(summaries.sites, found, which, sort=sort, limit=_PAGE, now_ms=_NOW_MS))


def _cpu_ms(work: Callable[[], object]) -> float:
    """The median of some times: what others did to the caches meanwhile is not ours."""
    taken = []
    for _ in range(_TIMES):
        began = time.process_time()
        work()
        taken.append((time.process_time() - began) * 1000)
    return statistics.median(taken)


async def _following(devices: int) -> list[Result]:
    """What it costs to load the projection from Redis, and to follow it where every device changes."""
    async with rigs.fresh() as rig, rig.projection() as projection:
        await projection.begin_rebuild("bench", [])
        await projection.finish_rebuild("bench")
        chance = random.Random(1)
        for numbers in windows(devices, _BATCH):
            await projection.apply(
                {
                    made.device_id(number): made.state(number, chance, until_ms=_NOW_MS - DAY_MS)
                    for number in numbers
                }
            )
        reading = Reading(Fleet())
        loaded = await _read(rig, reading, projection, devices)
        for numbers in windows(devices, _BATCH):
            await projection.apply(
                {made.device_id(number): made.state(number, chance, until_ms=_NOW_MS) for number in numbers}
            )
        changed = await _read(rig, reading, projection, devices)
    name = f"fleet of {devices:,}, from Redis"
    return [
        Result(
            name=f"{name}: {what}",
            value=used["reader"],
            unit="µs",
            note=f"CPU a device of who reads; of Redis {used['redis']:.1f}",
        )
        for what, used in (("loaded", loaded), ("a change", changed))
    ]


async def _read(rig: Rig, reading: Reading, projection: ProjectionReader, devices: int) -> dict[str, float]:
    """CPU microseconds a device of this process and of Redis, until there is no more to read."""
    meter = rig.meter(reader=os.getpid())
    await reading.step(projection)
    while reading.has_more:
        await reading.step(projection)
    return meter.usage().per_event_us(devices)
