"""What causes, sites, stats and health cost the stores: commands and round trips, counted, not timed."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from api.publisher import MqttSyncPublisher
from pisync import clock
from pisync.clock import to_ms
from pisync.domain.device_state import project
from pisync.domain.directory import DirectoryDevice, Kind
from pisync.domain.events import ErrorDetail
from pisync.domain.rollups import Figures, Progress, Span, Unit
from pisync.settings import ApiSettings
from pisync.stores.interfaces.directory import EntryWrite
from pisync.stores.interfaces.rollups import Part
from pisync.stores.mongodb.directory import MongoDirectoryStore
from pisync.stores.mongodb.leases import MongoLeaseStore
from pisync.stores.mongodb.listening import MongoListeningRecord
from pisync.stores.mongodb.rollups import MongoRollupStore
from tests.integration.test_read_costs import Costs, costs
from tests.support import counting
from tests.support.counting import Commands
from tests.support.samples import NOW, event, event_at

CODES = 40
DEVICES = 250


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    """The commands of every client that a store makes in the test."""
    return counting.commands_of_stores(monkeypatch)


@pytest.fixture
async def api(
    mongodb_url: str, redis_url: str, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Costs]:
    """An api over a fleet in which many fail for many causes at many sites, and rollups of all its time."""
    publisher = MqttSyncPublisher(ApiSettings())  # nobody connects it
    # A minute that begins during the test would be one of which nothing is counted yet.
    at = clock.now()
    monkeypatch.setattr("pisync.clock.now", lambda: at)
    async with costs(mongodb_url, redis_url, commands, monkeypatch, publisher) as counted:
        await filled(counted)
        await counted.feed()
        yield counted


async def filled(api: Costs) -> None:
    """Many of each, so that an answer that is read in parts would show."""
    failures = [
        msgspec.structs.replace(
            event(f"PB-{number}", minute, 1),
            errors=[ErrorDetail(code=f"E_{number % CODES}", message="x" * 999)],
        )
        for number in range(DEVICES)
        for minute in range(3)
    ]
    await api.events.insert(failures, NOW)
    await api.projection.apply(project(failures))
    now_ms = to_ms(clock.now())
    recent = [event_at(now_ms - day * Unit.DAY.ms, "PB-new") for day in range(20)]
    await api.events.insert(recent, NOW)
    await api.projection.apply(project(recent))
    directory = MongoDirectoryStore(api.connection)
    entries = [DirectoryDevice(device_id=f"PB-{number}", site=f"S-{number}") for number in range(DEVICES)]
    entries.append(DirectoryDevice(device_id="PB-new", site="S-new"))
    await directory.write(Kind.DEVICES, [EntryWrite(entry=entry, version=0) for entry in entries], "action")
    rollups = MongoRollupStore(api.connection)
    await rollups.begin(1)
    figures = Figures(events=9, failures=9, codes={f"E_{number}": 1 for number in range(CODES)})
    for unit, count in ((Unit.MINUTE, 1500), (Unit.HOUR, 250), (Unit.DAY, 30)):
        starts = range(unit.floor(now_ms) - count * unit.ms, now_ms, unit.ms)
        await rollups.replace([Part(unit, Span(0, now_ms), dict.fromkeys(starts, figures))], 1)
    await rollups.add_codes({code: Span(0, now_ms) for code in figures.codes})
    await rollups.save(Progress(covered=(Span(0, now_ms),), closed_ms=now_ms), 1)
    await MongoLeaseStore(api.connection).take("rollups", "worker", 600)
    listening = MongoListeningRecord(api.connection)
    await asyncio.gather(
        *(listening.listened("bridge", now_ms - n * 600_000, now_ms - n * 600_000) for n in range(150))
    )


async def test_each_summary_is_a_few_commands_and_round_trips(api: Costs) -> None:
    """A command less is no fault, a `getMore` is one: what is asked for comes in one reply."""
    await api.client.get("/api/health")  # it asks all at once, and so needs more connections
    for path, asked, packets in (
        ("causes?limit=1000", ["aggregate", "find"], 0),
        ("causes?limit=1&state=failing", ["aggregate", "find"], 0),
        ("causes.ndjson", ["aggregate", "find"], 0),
        ("cause/E_7", ["aggregate", "find", "find"], 0),
        ("sites?limit=1000", [], 0),
        ("sites?sort=failing&limit=10", [], 0),
        ("sites.csv", [], 0),
        ("site/S-7", [], 0),
        # What was counted is taken again, for any number of days that it has.
        ("site/S-new/activity?days=40", ["aggregate", "find"], 0),
        ("site/S-new/activity?days=40", ["find"], 0),
        ("site/S-new/activity", ["find"], 0),
        ("stats", ["aggregate", "find", "find"], 0),
        ("stats?unit=hour", ["aggregate", "find", "find"], 0),
        ("health", [*["aggregate"] * 8, *["find"] * 6], 2),
    ):
        answer = await api.of("GET", f"/api/{path}")
        assert (sorted(api.commands.names), len(api.packets)) == (asked, packets), path
        assert answer.content


async def test_what_is_told_of_a_cause_is_what_the_real_stores_have(api: Costs) -> None:
    answer = (await api.of("GET", "/api/cause/E_7")).json()
    assert (answer["devices"], answer["sites"], len(answer["by_site"])) == (7, 7, 7)
    assert {day["failures"] for day in answer["days"]} == {1}
    assert answer["samples"] == ["x" * 300]
    assert (answer["trend"], answer["first_seen"]) == ("steady", "1970-01-01T00:00:00.000Z")
    rows = (await api.of("GET", "/api/stats")).json()["received"]
    assert [row["events"] for row in rows] == [9] * 1440
