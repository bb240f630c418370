"""Alerts about silent devices with everything behind them, and what they cost MongoDB."""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from fleet.index import Fleet
from local_stack import ports
from local_stack.process import ChildProcess, running
from local_stack.servers import MosquittoServer
from pisync import clock, settings
from pisync.clock import from_ms, rfc3339, to_ms
from pisync.domain import topics
from pisync.domain.alerts import Rule
from pisync.domain.directory import DirectoryDevice, Kind
from pisync.stores.interfaces.directory import EntryWrite
from pisync.stores.memory.listening import MemoryListeningRecord
from pisync.stores.mongodb.alerts import MongoAlertStore
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.directory import MongoDirectoryStore
from pisync.stores.mongodb.events import MongoEventStore
from pisync.stores.mongodb.listening import MongoListeningRecord
from tests.support.counting import Commands, commands_of_stores
from tests.support.programs import Truth, truth
from tests.support.samples import event_at, members
from tests.support.waiting import until
from tests.unit.test_fleet import summary
from tests.unit.test_fleet_failing import Served
from worker.overdue import OverdueAlerts

# The programs as they are, but for their patience.
CODE = """
from pisync import limits
limits.OVERDUE_INTERVAL_S = limits.ALERTS_PUBLISH_INTERVAL_S = 0.2
from cli.main import main
main()
"""
DEVICES = [f"PB-{number}" for number in range(3)]


@asynccontextmanager
async def closing(connection: MongoConnection) -> AsyncIterator[MongoConnection]:
    try:
        yield connection
    finally:
        await connection.close()


def quick(name: str, log: Path, **environment: str) -> ChildProcess:
    command = [sys.executable, "-c", CODE, name]
    return ChildProcess(name, command, log=log, environment=settings.child_environment(environment))


async def silent_for_three_days(mongodb_url: str) -> None:
    """Devices that should be heard daily, while a bridge has listened all the time, and goes on."""
    heard = clock.now() - timedelta(days=3)
    async with closing(MongoConnection(mongodb_url)) as connection:
        events, directory = MongoEventStore(connection), MongoDirectoryStore(connection)
        await events.prepare()
        await events.insert([event_at(to_ms(heard), each) for each in DEVICES], heard)
        entries = [DirectoryDevice(device_id=each, habit_days=1) for each in DEVICES]
        await directory.write(Kind.DEVICES, [EntryWrite(entry=each, version=0) for each in entries], "action")
        now_ms = to_ms(clock.now())
        listening = MongoListeningRecord(connection)
        await listening.listened("bridge-0", now_ms - 60 * 86_400_000, now_ms + 60_000)


async def alerts(seen: Truth) -> dict[str, tuple[str, bool, str | None]]:
    found = [alert async for alert in seen.database.alerts.find()]
    assert len({alert["device_id"] for alert in found}) == len(found), "none is opened twice"
    return {each["device_id"]: (each["rule"], each["is_open"], each.get("close_reason")) for each in found}


async def test_it_is_opened_published_and_closed_whichever_worker_is_killed(
    mosquitto_server: MosquittoServer, mongodb_url: str, redis_url: str, tmp_path: Path
) -> None:
    servers = {"mqtt_url": mosquitto_server.url, "mongodb_url": mongodb_url, "redis_url": redis_url}
    await silent_for_three_days(mongodb_url)
    first, second = (quick("worker", tmp_path / name, **servers) for name in ("first", "second"))
    retained: dict[str, dict[str, Any]] = {}
    async with (
        running(first),
        running(quick("bridge", tmp_path / "bridge.log", bridge_id="bridge-0", **servers)),
        truth(mongodb_url) as seen,
        aiomqtt.Client(ports.HOST, mosquitto_server.port, protocol=aiomqtt.ProtocolVersion.V5) as client,
    ):
        await client.subscribe(f"pisync/v1/alerts/+/{Rule.OVERDUE}", qos=1)

        async def published(*device_ids: str) -> bool:
            """What the broker retains of this rule by now; it is read as it comes."""
            while len(client.messages):
                message = await anext(client.messages)
                device_id = message.topic.value.split("/")[-2]
                assert isinstance(message.payload, bytes)
                retained.pop(device_id, None)
                if message.payload:
                    retained[device_id] = json.loads(message.payload)
            return retained.keys() == set(device_ids)

        await until(lambda: published(*DEVICES))
        assert await alerts(seen) == dict.fromkeys(DEVICES, ("overdue", True, None))
        assert retained["PB-0"].keys() == {"device_id", "rule", "streak", "opened_at"}
        assert (retained["PB-0"]["rule"], retained["PB-0"]["streak"]) == ("overdue", 0)
        await first.kill()
        # As if its lease had ended, which takes 15 seconds.
        await seen.database.leases.update_many({}, {"$set": {"until": from_ms(0)}})
        async with running(second):
            event = members(device_id="PB-1", timestamp=rfc3339(clock.now()))
            await client.publish(topics.sync("PB-1"), json.dumps(event), qos=1)
            await until(lambda: published("PB-0", "PB-2"))
            found = await alerts(seen)
            assert found["PB-1"] == ("overdue", False, "heard")
            assert {found[each] for each in ("PB-0", "PB-2")} == {("overdue", True, None)}


async def test_a_look_costs_mongodb_nothing_and_what_is_open_is_read_by_the_index(
    mongodb_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = commands_of_stores(monkeypatch)
    async with closing(MongoConnection(mongodb_url)) as connection:
        await look_for_silent_devices(connection, commands)


async def look_for_silent_devices(connection: MongoConnection, commands: Commands) -> None:
    store, listening = MongoAlertStore(connection), MemoryListeningRecord()
    await store.prepare()
    others = {f"PB-x{number}": 3 for number in range(1000)}
    await store.open(Rule.STREAK, others, clock.now())
    await store.open(Rule.OVERDUE, others, clock.now())
    await store.resolve(Rule.OVERDUE, others, clock.now())
    now_ms = to_ms(clock.now())
    await listening.listened("bridge-0", now_ms - 86_400_000, now_ms)

    def duty() -> OverdueAlerts:
        return OverdueAlerts(
            alerts=store, fleet=served, known_bridges=lambda: {"bridge-0": "a"}, listening=listening
        )

    served = Served()
    ids = [f"PB-{number:03}" for number in range(450)]
    make_overdue(served.fleet, ids)
    first = duty()
    commands.sent.clear()
    for _ in range(2):
        await first.look()
    assert commands.names == ["find", "insert", "insert", "insert"]
    assert first.opened == len(ids)
    commands.sent.clear()
    for _ in range(5):
        await first.look()
    assert commands.sent == []

    second = duty()
    for _ in range(5):
        await second.look()
    [read] = commands.sent
    find = {name: read[name] for name in ("find", "filter", "sort", "limit")}
    explained = await connection.database.command("explain", find, verbosity="executionStats")
    stats = explained["executionStats"]
    # MongoDB may go by what is open of all rules; what was closed, which only grows, is not looked at.
    assert max(stats["totalKeysExamined"], stats["totalDocsExamined"]) <= len(ids) + len(others) + 1

    served.fleet.set_devices([DirectoryDevice(device_id=each, retired=True) for each in ids])
    commands.sent.clear()
    await second.look()
    assert commands.names == ["find", "update"] * 3
    assert (second.closed, await store.open_devices(Rule.OVERDUE)) == (len(ids), [])


def make_overdue(fleet: Fleet, device_ids: list[str]) -> None:
    """Devices that were heard months ago."""
    fleet.apply((each, summary(1000, 1, 0, 0, "", 1, None)) for each in device_ids)
    fleet.set_devices([DirectoryDevice(device_id=each, habit_days=1) for each in device_ids])
    fleet.set_limits(dict.fromkeys(fleet.habits(), to_ms(clock.now())))
    fleet.settle()
