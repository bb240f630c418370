"""Row: pages and lists of a large fleet as an api answers them over HTTP."""

import asyncio
import random
import statistics
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import product
from typing import Final

import httpx
import msgspec

from bench import devices as made
from bench import http_load
from bench.bare_app import BareApp
from bench.fleet import FLEETS
from bench.meter import resident_mb
from bench.results import AT_MOST, Result, Target
from bench.rig import Rig, Stalled, fresh
from bench.scale import Scale
from bench.traffic import windows
from fleet.query import FleetSort
from local_stack.process import running
from local_stack.services import Api
from pisync import clock, limits
from pisync.domain.directory import DirectoryDevice, Kind, Site, entry_id
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.directory import MongoDirectoryStore

PAGES: Final = 1_000
REQUESTS: Final = 100
ROUNDS: Final = 3
_BATCH: Final = 2_000
_LOAD_TIMEOUT_S: Final = 600
_LOOK_INTERVAL_S: Final = 0.25
_ORDERS: Final = ("asc", "desc")
_LIMIT: Final = f"limit={limits.PAGE_DEVICES}"
_LISTS: Final = ("/api/sites", "/api/causes", "/api/alerts")


async def pages(scale: Scale) -> list[Result]:
    """The overview, the page of devices, and the lists, of a fleet in the api's memory."""
    results = []
    for full, target_ms in FLEETS:
        results += await _of_fleet(scale.of(full, at_least=5_000), target_ms, scale.of(REQUESTS, at_least=50))
    return results


async def _of_fleet(devices: int, target_ms: float, requests: int) -> list[Result]:
    number = min(PAGES, devices // limits.PAGE_DEVICES)
    async with fresh() as rig, AsyncExitStack() as stack:
        await _fill(rig, devices)
        api = await stack.enter_async_context(_loaded(rig, devices))
        async with httpx.AsyncClient(base_url=api.url, trust_env=False, timeout=60) as client:
            deep = {
                f"sort={sort}&order={order}": await _deep(client, f"sort={sort}&order={order}", number)
                for sort, order in product(FleetSort, _ORDERS)
            }
            ready = (await client.get("/")).raise_for_status().content
        bare = await stack.enter_async_context(running(BareApp(rig.directory, ready)))
        state = f"sort={FleetSort.STATE}&order={_ORDERS[1]}"
        groups = {
            "overview": ["/"],
            "page of devices, the first": ["/devices"],
            f"page of devices, number {number:,}": [f"/devices?{deep[state]}"],
            "list of devices, the first, slowest": [f"/api/devices?{each}&{_LIMIT}" for each in deep],
            f"list of devices, number {number:,}, slowest": [
                f"/api/devices?{each}&{_LIMIT}" for each in deep.values()
            ],
            "sites, causes and alerts, slowest": list(_LISTS),
        }
        taken = {
            name: {path: await _p95_ms(api.port, path, requests) for path in paths}
            for name, paths in groups.items()
        }
        bare_ms = await _p95_ms(bare.port, "/ready", requests)
        used_mb = resident_mb(api.pid)
    return [
        Result(
            name=f"{devices:,} devices over HTTP: {name}, p95",
            value=max(found.values()),
            unit="ms",
            against="the target",
            against_value=target_ms,
            target=Target(AT_MOST, 1),
            note=_note(found, requests, bare_ms, len(ready), used_mb),
        )
        for name, found in taken.items()
    ]


def _note(found: dict[str, float], requests: int, bare_ms: float, size: int, used_mb: float) -> str:
    slowest = max(found, key=lambda path: found[path]).partition("&cursor")[0]
    many = "" if len(found) == 1 else f" of {len(found)}, the slowest {slowest};"
    return (
        f"{requests:,} requests one after the other, medians of {ROUNDS} rounds;{many} a bare FastAPI route"
        f" with the {size:,} bytes of the overview took {bare_ms:.1f} ms; the api {used_mb:,.0f} MB"
    )


async def _fill(rig: Rig, devices: int) -> None:
    """Write the projection and the directory, without a history."""
    chance, now_ms = random.Random(1), clock.to_ms(clock.now())
    connection = MongoConnection(rig.mongodb.url)
    try:
        await MongoDirectoryStore(connection).prepare()
    finally:
        await connection.close()
    for numbers in windows(devices // made.SITE_DEVICES, _BATCH):
        await _write(rig, Kind.SITES, list(map(made.site, numbers)))
    async with rig.projection() as projection:
        await projection.begin_rebuild("bench", [])
        for numbers in windows(devices, _BATCH):
            states = {made.device_id(each): made.state(each, chance, until_ms=now_ms) for each in numbers}
            await asyncio.gather(
                projection.apply(states), _write(rig, Kind.DEVICES, list(map(made.entry, numbers)))
            )
        await projection.finish_rebuild("bench")


async def _write(rig: Rig, kind: Kind, entries: Sequence[DirectoryDevice | Site]) -> None:
    """Insert entries as the store has them; one after the other it would take minutes."""
    beside = {"version": 1, "action_id": "bench", "is_deleted": False, "changed_at": clock.now()}
    documents = [
        {**msgspec.to_builtins(each, builtin_types=(type(clock.now()),)), "_id": entry_id(each), **beside}
        for each in entries
    ]
    for document in documents:
        del document[kind.id_member]
    await rig.database[f"directory_{kind.value}"].insert_many(documents, ordered=False)


@asynccontextmanager
async def _loaded(rig: Rig, devices: int) -> AsyncIterator[Api]:
    """An api that has read all of it.

    Raises:
        Stalled: it has not, after minutes.
    """
    site_devices = made.SITE_DEVICES
    async with running(rig.api()) as api, httpx.AsyncClient(base_url=api.url, trust_env=False) as client:
        try:
            async with asyncio.timeout(_LOAD_TIMEOUT_S):
                while [await _count(client), await _count(client, site="site-0")] != [devices, site_devices]:
                    await asyncio.sleep(_LOOK_INTERVAL_S)
        except TimeoutError:
            raise Stalled(f"the api did not read {devices:,} devices in {_LOAD_TIMEOUT_S} s") from None
        yield api


async def _count(client: httpx.AsyncClient, **filters: str) -> int:
    """How many devices the api knows; none before it has read them all."""
    answer = await client.get("/api/devices", params={"limit": 1, **filters})
    return sum(answer.json()["counts"].values()) if answer.is_success else 0


async def _deep(client: httpx.AsyncClient, query: str, number: int) -> str:
    """The query of the page with this number, found by way of longer ones."""
    left, cursor = (number - 1) * limits.PAGE_DEVICES, ""
    while left > 0:
        limit = min(left, limits.PAGE_MAX)
        answer = (await client.get(f"/api/devices?{query}&limit={limit}{cursor}")).raise_for_status().json()
        cursor = "&cursor=" + httpx.URL(answer["next"]).params["cursor"]
        left -= len(answer["devices"])
    return f"{query}{cursor}"


async def _p95_ms(port: int, path: str, requests: int) -> float:
    get = http_load.get(path, accept_encoding="gzip")
    rounds = [
        (await http_load.send(port, [get], connections=1, total=requests)).percentile_ms(95)
        for _ in range(ROUNDS)
    ]
    return statistics.median(rounds)
