"""What every store of incidents does."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from pisync import clock, limits
from pisync.domain.incidents import Evidence, Incident, IncidentKey, IncidentKind
from pisync.stores.interfaces.events import EventStore
from pisync.stores.interfaces.incidents import IncidentQuery, IncidentStore
from pisync.stores.memory.incidents import MemoryIncidentStore
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.incidents import MongoIncidentStore
from tests.support.samples import NOW
from tests.unit.test_incidents import EIGHT, World, morning

HOUR = timedelta(hours=1)
FAILING, SILENT, SPREADING = IncidentKind


@pytest_asyncio.fixture
async def store(event_store_url: str | None) -> AsyncIterator[IncidentStore]:
    """An empty store of incidents."""
    if event_store_url is None:
        yield MemoryIncidentStore()
        return
    connection = MongoConnection(event_store_url)
    mongodb = MongoIncidentStore(connection)
    await mongodb.prepare()
    await mongodb.prepare()
    yield mongodb
    await connection.close()


def one(name: str, site: str | None = "S-1", code: str | None = "E_1", **changes: Any) -> Incident:
    made = Incident(
        incident_id=name,
        key=IncidentKey(FAILING, site, code),
        since=NOW - HOUR,
        opened_at=NOW,
        evidence=Evidence(38, 40),
        peak=38,
        sentence="38 of the 40 that tried: $x.y \u0000",
        updated_at=NOW,
    )
    return replace(made, **changes)


def closed(incident: Incident, hours: float = 1) -> Incident:
    return replace(incident, closed_at=NOW + hours * HOUR)


async def test_what_is_kept_comes_back_whole(store: IncidentStore) -> None:
    kept = [
        one("1", code="$a.b/c ä"),
        one("2", code=""),
        one("3", key=IncidentKey(SILENT, "S-1", None), evidence=Evidence(3, 4)),
        one("4", key=IncidentKey(SPREADING, None, "E_1"), evidence=Evidence(57, 60, 12, 8)),
        one("5", "S-2", resumed_at=NOW, reopened=3),
    ]
    for each in kept:
        assert await store.open(each)
    assert await store.find(IncidentQuery(limit=10)) == kept[::-1]
    assert await store.get_many(["2", "5", "9"]) == {"2": kept[1], "5": kept[4]}
    assert await store.get_many([]) == {}


async def test_of_many_at_once_one_is_opened_for_a_key(store: IncidentStore) -> None:
    opened = await asyncio.gather(*(store.open(one(str(number))) for number in range(8)))
    assert sum(opened) == 1
    assert await store.open(one("A", "S-2"))
    assert await store.open(one("B", key=IncidentKey(SILENT, "S-1", None)))
    assert not await store.open(one("C", key=IncidentKey(SILENT, "S-1", None)))
    assert not await store.open(one("A", "S-3"))


async def test_an_open_one_is_written_and_keeps_its_greatest_peak(store: IncidentStore) -> None:
    first = one("1")
    await store.open(first)
    assert await store.write(replace(first, peak=39, evidence=Evidence(39, 40)))
    assert await store.write(replace(first, peak=38, evidence=Evidence(12, 40), sentence="less"))
    assert await store.get_many(["1"]) == {
        "1": replace(first, peak=39, evidence=Evidence(12, 40), sentence="less")
    }
    assert await store.write(closed(first))
    assert not await store.write(first)
    assert not await store.write(one("9"))
    assert await store.find(IncidentQuery(limit=9, is_open=True)) == []


async def test_one_is_opened_again_once_and_never_beside_another(store: IncidentStore) -> None:
    first = one("1")
    again = replace(first, reopened=1, resumed_at=NOW + 2 * HOUR)
    await store.open(first)
    assert not await store.reopen(again)
    await store.write(closed(first))
    assert sum(await asyncio.gather(*(store.reopen(again) for _ in range(5)))) == 1
    assert await store.get_many(["1"]) == {"1": again}
    assert not await store.write(closed(first))  # by who read it before
    await store.write(closed(again, 3))
    await store.open(one("2"))
    assert not await store.reopen(replace(again, reopened=2))


async def test_the_one_that_was_closed_last_is_found(store: IncidentStore) -> None:
    key = one("1").key
    for name, hours in (("1", 3), ("2", 5), ("3", 4)):
        await store.open(one(name))
        await store.write(closed(one(name), hours))
    await store.open(one("4", "S-2"))
    await store.write(closed(one("4", "S-2"), 9))
    found = await store.newest_closed(key, NOW)
    assert found == closed(one("2"), 5)
    assert await store.newest_closed(key, NOW + 5 * HOUR) == found
    assert await store.newest_closed(key, NOW + 6 * HOUR) is None
    assert await store.newest_closed(key._replace(code=None), NOW) is None


@pytest.mark.parametrize("limit", [1, 2, 5])
async def test_pages_give_each_once(store: IncidentStore, limit: int) -> None:
    for number in range(5):
        kind = SILENT if number == 1 else FAILING
        code = None if kind is SILENT else f"E_{number % 2}"
        await store.open(one(str(number), key=IncidentKey(kind, f"S-{number // 2}", code)))
    await store.write(closed((await store.get_many(["3"]))["3"]))

    async def ids(**which: Any) -> str:
        names, before = "", None
        while page := await store.find(IncidentQuery(limit=limit, before=before, **which)):
            assert len(page) <= limit
            before = page[-1].incident_id
            names += "".join(each.incident_id for each in page)
        return names

    assert await ids() == "43210"
    assert await ids(is_open=True) == "4210"
    assert await ids(is_open=False) == "3"
    assert await ids(kind=SILENT) == "1"
    assert await ids(site="S-0") == "10"
    assert await ids(code="E_0") == "420"
    assert await ids(site="S-1", code="E_0", is_open=True, kind=FAILING) == "2"


async def test_when_it_began_is_read_from_the_events_of_each_store(
    event_store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of which the newest failures alone are known without that."""
    monkeypatch.setattr(limits, "INCIDENT_OPENS_AFTER_S", 0)
    world = World()
    monkeypatch.setattr(clock, "now", world.now)
    world.events = event_store
    world.duty = world.another()
    ids = await world.school(devices=6, days=3)
    await world.take(morning(ids)[::-1])
    await world.duty.look()
    found = await world.only()
    assert (found.since, found.evidence) == (EIGHT, Evidence(6, 6))


async def test_it_survives_a_restart(mongodb_url: str) -> None:
    for life in range(2):
        connection = MongoConnection(mongodb_url)
        store = MongoIncidentStore(connection)
        await store.prepare()
        assert await store.open(one("1")) is (life == 0)
        assert await store.find(IncidentQuery(limit=10)) == [one("1")]
        await connection.close()
