"""How fast operators' pages are, and whether a larger fleet makes them slower.

Pages are asked for one after the other over one connection, the two fleets and the bare app by turns.
"""

import statistics
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Final

import httpx

from bench import http_load
from bench.bare_app import BareApp
from bench.http_load import Sent
from bench.results import AT_LEAST, AT_MOST, Result, Target
from bench.rig import Rig, fresh
from bench.scale import Scale
from bench.sides import Sides
from bench.traffic import BEGIN_MS, HOUR_MS, Traffic, windows
from local_stack.process import running
from local_stack.services import Api
from pisync import clock
from pisync.domain.device_state import DeviceState, LastEvent
from pisync.stores.interfaces.ranking import RankedBy

FLEETS: Final = (1_000, 100_000)
FAILING_ONE_IN: Final = 10
FAILURES: Final = 20
PAGE: Final = 50
DEEP_PAGE: Final = 150
P95_MS_MAX: Final = 25.0
REQUESTS: Final = 250
ROUNDS: Final = 4

HISTORY_DEVICES: Final = 1_000
HISTORY_EVENTS: Final = 100
HISTORY_CONNECTIONS: Final = 16
HISTORY_REQUESTS: Final = 6_000
HISTORY_ROUNDS: Final = 5

_FILL_BATCH: Final = 1_000
_PATH: Final = "/api/devices/repeated-failures"


async def reads(scale: Scale) -> list[Result]:
    """`repeated-failures` of a small and of a large fleet: each order, the first page and a deep one."""
    fleets = (FLEETS[0], scale.of(FLEETS[1], at_least=2 * FLEETS[0]))
    requests = scale.of(REQUESTS, at_least=100)
    async with fresh() as rig, AsyncExitStack() as stack:
        apis = [
            await stack.enter_async_context(_fleet_api(rig, database, devices))
            for database, devices in enumerate(fleets)
        ]
        ready = await _body(apis[1], _PATH)
        bare = await stack.enter_async_context(running(BareApp(rig.directory, ready)))
        results, worst_ms, bare_ms = [], 0.0, []
        for ranked_by in RankedBy:
            first = f"{_PATH}?sort={ranked_by}&limit={PAGE}"
            for name, numbers in (("first page", (1, 1)), ("deep page", tuple(map(_deep_page, fleets)))):
                paths = [await _page(api, first, number) for api, number in zip(apis, numbers, strict=True)]
                small_ms, large_ms, plain_ms = await _p95s_ms(
                    [(apis[0].port, paths[0]), (apis[1].port, paths[1]), (bare.port, "/ready")], requests
                )
                worst_ms = max(worst_ms, large_ms)
                bare_ms.append(plain_ms)
                results.append(
                    Result(
                        name=f"repeated failures by {ranked_by}, {name}, p95",
                        value=large_ms,
                        unit="ms",
                        against=f"a fleet of {fleets[0]:,}",
                        against_value=small_ms,
                        target=Target(AT_MOST, 2.0),
                        note=f"{fleets[1]:,} devices, page {numbers[1]}; a bare route took {plain_ms:.2f} ms",
                    )
                )
    bound = Result(
        name="repeated failures, the slowest of these pages, p95",
        value=worst_ms,
        unit="ms",
        against=f"the bound of {P95_MS_MAX:g} ms",
        against_value=P95_MS_MAX,
        target=Target(AT_MOST, 1.0),
        note=f"a bare FastAPI route with the same bytes took {statistics.median(bare_ms):.2f} ms",
    )
    return [*results, bound]


async def history(scale: Scale) -> list[Result]:
    """`sync-history` of 50 events against a bare route that answers with the same bytes."""
    traffic = Traffic(devices=scale.of(HISTORY_DEVICES, at_least=100), events=0)
    requests = scale.of(HISTORY_REQUESTS, at_least=1_000)
    async with fresh() as rig, AsyncExitStack() as stack:
        await _fill_history(rig, traffic)
        api = await stack.enter_async_context(running(rig.api()))
        paths = [f"/api/device/{traffic.device_id(n)}/sync-history" for n in range(traffic.devices)]
        ready = await _body(api, paths[1])
        bare = await stack.enter_async_context(running(BareApp(rig.directory, ready)))
        gets = [http_load.get(path) for path in paths]
        sides = Sides(meter=rig.meter(api=api.pid), requests=requests)
        for _ in range(HISTORY_ROUNDS):
            await sides.measure(
                bare=lambda: _send(bare.port, [http_load.get("/ready")], requests),
                ours=lambda: _send(api.port, gets, requests),
            )
    return [
        Result(
            name="sync-history of 50 events",
            value=sides.per_second,
            unit="requests/s",
            against="a bare FastAPI route with the same bytes",
            against_value=sides.bare_per_second,
            target=Target(AT_LEAST, 0.25),
            cpu_us_per_event=sides.cpu_us,
            note=f"{HISTORY_CONNECTIONS} keep-alive connections; {len(ready):,} bytes an"
            f" answer; p95 {sides.percentile_ms(95):.1f} ms against {sides.bare_percentile_ms(95):.1f} ms;"
            " CPU is a request's",
        )
    ]


async def _send(port: int, requests: list[bytes], total: int) -> Sent:
    return await http_load.send(port, requests, connections=HISTORY_CONNECTIONS, total=total)


async def _p95s_ms(targets: list[tuple[int, str]], requests: int) -> list[float]:
    """The 95th percentile of each target, the median over rounds in which they take turns."""
    measured: list[list[float]] = [[] for _ in targets]
    for _ in range(ROUNDS):
        for p95s_ms, (port, path) in zip(measured, targets, strict=True):
            sent = await http_load.send(port, [http_load.get(path)], connections=1, total=requests)
            p95s_ms.append(sent.percentile_ms(95))
    return [statistics.median(p95s_ms) for p95s_ms in measured]


@asynccontextmanager
async def _fleet_api(rig: Rig, database: int, devices: int) -> AsyncIterator[Api]:
    """An api over a projection of such a fleet, in a Redis database of its own."""
    async with rig.projection(database=database) as projection:
        await projection.begin_rebuild("bench", [])
        for numbers in windows(devices, _FILL_BATCH):
            await projection.apply(dict(map(_state, numbers)))
        await projection.finish_rebuild("bench")
    async with running(rig.api(redis_url=rig.redis_url(database))) as api:
        yield api


def _state(device: int) -> tuple[str, DeviceState]:
    """A device's state: one in ten failed 20 times, with a success somewhere among the failures."""
    fails = device % FAILING_ONE_IN == 0
    seen_ms = BEGIN_MS + FAILURES * HOUR_MS + device * 7_919 % HOUR_MS
    failures_ms = tuple(seen_ms - back * HOUR_MS for back in range(FAILURES - 1, -1, -1)) if fails else ()
    success_ms = seen_ms - device // FAILING_ONE_IN % FAILURES * HOUR_MS - 1 if fails else seen_ms
    return f"PB-{device:06d}", DeviceState(
        last_success_ms=success_ms,
        failures_ms=failures_ms,
        last_event=LastEvent(seen_ms, 0 if fails else 20, int(fails), 3.2, "PiBook", 5_400),
        received_ms=seen_ms,
    )


async def _fill_history(rig: Rig, traffic: Traffic) -> None:
    received_at = clock.now()
    async with rig.event_store() as store:
        for devices in windows(traffic.devices, 10):
            events = [traffic.event(device, number) for device in devices for number in range(HISTORY_EVENTS)]
            await store.insert(events, received_at + timedelta(milliseconds=devices[0]))


def _deep_page(devices: int) -> int:
    """The number of a page far down that is full."""
    return min(DEEP_PAGE, devices // FAILING_ONE_IN // PAGE)


async def _page(api: Api, path: str, number: int) -> str:
    """The path of the page with this number, found by following the links."""
    async with httpx.AsyncClient(base_url=api.url, trust_env=False) as client:
        for _ in range(number - 1):
            answer: Mapping[str, str] = (await client.get(path)).raise_for_status().json()
            path = answer["next"]
    return path


async def _body(api: Api, path: str) -> bytes:
    async with httpx.AsyncClient(base_url=api.url, trust_env=False) as client:
        return (await client.get(path)).raise_for_status().content
