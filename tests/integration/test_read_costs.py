"""What a request costs the stores: round trips and documents examined, counted, not timed."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any, Final

import httpx
import pytest
from redis.asyncio import Redis

from api.app import create_app
from api.auth.signing_in import signing_in_with
from api.publisher import SyncPublisher
from api.state import State
from fleet.failing import FailingDevices
from fleet.feeding import Feeding
from pisync import clock, limits
from pisync.domain.acknowledgements import Acknowledgement, Subject, SubjectKind, Until
from pisync.domain.alerts import Rule
from pisync.domain.device_state import project
from pisync.domain.identity import bucket_of
from pisync.settings import ApiSettings
from pisync.stores.interfaces.alerts import AlertQuery
from pisync.stores.interfaces.ranking import RankedBy
from pisync.stores.known_bridges import KnownBridges
from pisync.stores.memory.keys import MemoryKeyStore
from pisync.stores.memory.sessions import MemorySessionStore
from pisync.stores.memory.users import MemoryUserStore
from pisync.stores.mongodb.acknowledgements import MongoAcknowledgementStore
from pisync.stores.mongodb.actions import MongoActionStore
from pisync.stores.mongodb.alerts import MongoAlertStore
from pisync.stores.mongodb.bridges import MongoBridgeRegistry
from pisync.stores.mongodb.broker import MongoBrokerFigures
from pisync.stores.mongodb.commands import MongoCommandStore
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.credentials import MongoCredentialStore
from pisync.stores.mongodb.dead_letters import MongoDeadLetterStore
from pisync.stores.mongodb.device_notes import MongoDeviceNotes
from pisync.stores.mongodb.directory import MongoDirectoryStore
from pisync.stores.mongodb.events import MongoEventStore
from pisync.stores.mongodb.incidents import MongoIncidentStore
from pisync.stores.mongodb.keys import MongoKeyStore
from pisync.stores.mongodb.leases import MongoLeaseStore
from pisync.stores.mongodb.listening import MongoListeningRecord
from pisync.stores.mongodb.notifications import MongoNotificationStore
from pisync.stores.mongodb.recipients import MongoRecipientStore
from pisync.stores.mongodb.retention import MongoRetentionStore
from pisync.stores.mongodb.rollups import MongoRollupStore
from pisync.stores.mongodb.sessions import MongoSessionStore
from pisync.stores.mongodb.users import MongoUserStore
from pisync.stores.open_incidents import OpenIncidents
from pisync.stores.redis.projection import RedisProjection
from tests.integration import test_api_publisher as broker
from tests.support import counting
from tests.support.api_client import START_MS, feed
from tests.support.counting import Commands
from tests.support.samples import JSON, NOW, START, attach_anew, event, event_at, payload

pytestmark = pytest.mark.usefixtures("bucket_watch")

FAILURES: Final = "/api/devices/repeated-failures"
# What an answer asks of Redis may grow with the logarithm of the fleet, by a search in each shard: in a fleet
# that is ten times as large, it looks at four devices more.
SEARCHES_MORE_MAX: Final = 4 * limits.SHARDS


@dataclass(kw_only=True)
class Costs:
    """An api over real stores, and what its requests cost since they were counted last."""

    client: httpx.AsyncClient
    events: MongoEventStore
    projection: RedisProjection
    connection: MongoConnection
    fleet: Feeding
    commands: Commands
    packets: list[object] = field(default_factory=list)

    async def feed(self) -> None:
        """Have the fleet in memory read all that there is now."""
        await feed(self.fleet)

    async def of(self, method: str, path: str, status: int = 200, **options: Any) -> httpx.Response:
        """The answer to one request, which is alone counted; connections are there already."""
        for part in (self.events, self.projection):
            await part.ping()
        await self.client.get(FAILURES)  # the drivers load the scripts
        await self.projection.state("PB-3")
        self.commands.sent.clear()
        self.packets.clear()
        answer = await self.client.request(method, path, **options)
        assert answer.status_code == status, answer.text
        return answer


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    """The commands of every client that a store makes in the test."""
    return counting.commands_of_stores(monkeypatch)


@asynccontextmanager
async def costs(
    mongodb_url: str,
    redis_url: str,
    commands: Commands,
    monkeypatch: pytest.MonkeyPatch,
    publisher: SyncPublisher,
) -> AsyncIterator[Costs]:
    """An api over these servers that counts."""
    async with AsyncExitStack() as stack:
        connection = MongoConnection(mongodb_url)
        stack.push_async_callback(connection.close)
        events = MongoEventStore(connection)
        await events.prepare()
        projection = RedisProjection.connect(redis_url)
        stack.push_async_callback(projection.close)
        await attach_anew(projection)
        bridges = MongoBridgeRegistry(connection)
        directory, listening = MongoDirectoryStore(connection), MongoListeningRecord(connection)
        fleet = Feeding(projection=projection, directory=directory, listening=listening)
        state = State(
            events=events,
            projection=projection,
            dead_letters=MongoDeadLetterStore(connection),
            alerts=MongoAlertStore(connection),
            bridges=bridges,
            directory=directory,
            device_notes=MongoDeviceNotes(connection),
            incidents=(incidents := MongoIncidentStore(connection)),
            open_incidents=OpenIncidents(incidents),
            recipients=MongoRecipientStore(connection),
            notifications=MongoNotificationStore(connection),
            actions=MongoActionStore(connection),
            acknowledgements=MongoAcknowledgementStore(connection),
            listening=listening,
            rollups=MongoRollupStore(connection),
            retention=MongoRetentionStore(connection),
            leases=MongoLeaseStore(connection),
            broker=MongoBrokerFigures(connection),
            known_bridges=KnownBridges(bridges),
            keys=MongoKeyStore(connection),
            users=MongoUserStore(connection),
            sessions=MongoSessionStore(connection),
            # What is asked of its stores goes by the time, not by requests.
            signing_in=(
                signing_in := signing_in_with(
                    ApiSettings(), MemoryKeyStore(), MemoryUserStore(), MemorySessionStore()
                )
            ),
            access=signing_in.access,
            commands=MongoCommandStore(connection),
            credentials=MongoCredentialStore(connection),
            fleet=fleet,
            failing=FailingDevices(fleet),
            publisher=publisher,
        )
        app = create_app(ApiSettings(), state)
        client = await stack.enter_async_context(
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")
        )
        counted = Costs(
            client=client,
            events=events,
            projection=projection,
            connection=connection,
            fleet=state.fleet,
            commands=commands,
        )
        counted.packets = counting.packets_to_redis(monkeypatch)
        yield counted


@pytest.fixture
async def api(
    mongodb_url: str, redis_url: str, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Costs]:
    """An api that counts, without a broker."""
    nobody: Any = None
    async with costs(mongodb_url, redis_url, commands, monkeypatch, nobody) as counted:
        yield counted


async def keep(api: Costs, devices: range, failures: int) -> None:
    """As if a bridge had taken in so many failures of each of these devices."""
    kept = [event(f"PB-{device}", minute, 1) for device in devices for minute in range(failures)]
    await api.events.insert(kept, NOW)
    await api.projection.apply(project(kept))


async def examined(api: Costs, command: Mapping[str, Any]) -> tuple[int, int]:
    """Index keys and documents that MongoDB looks at for a command that it was sent."""
    find = {name: command[name] for name in ("find", "filter", "sort", "limit", "hint") if name in command}
    explained = await api.connection.database.command("explain", find, verbosity="executionStats")
    stats = explained["executionStats"]
    return stats["totalKeysExamined"], stats["totalDocsExamined"]


@pytest.fixture
def next_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """The events have just come in."""
    monkeypatch.setattr("pisync.clock.now", lambda: START + timedelta(days=1))


@pytest.mark.usefixtures("next_day")
async def test_a_page_of_history_is_one_command_that_examines_the_page(api: Costs) -> None:
    for devices in (range(5), range(5, 60)):  # the same page, with many more events around it
        await keep(api, devices, 200)
        for query in ("limit=150", "limit=50&before=2026-05-08T13:00:00Z&after=2026-05-08T12:01:00Z"):
            answer = await api.of("GET", f"/api/device/PB-3/sync-history?{query}")
            looked_for = len(answer.json()["events"])
            assert f"limit={looked_for}" in query
            assert (api.commands.names, api.packets) == (["find"], [])
            keys, documents = await examined(api, api.commands.sent[0])
            assert documents == looked_for + 1  # which tells whether there is a next page
            assert keys <= documents + 1


@pytest.mark.usefixtures("next_day")
async def test_a_page_over_some_days_examines_a_key_more_for_each_of_them(api: Costs) -> None:
    batch = [event(f"PB-{device}", -60 * hour) for device in range(3 * limits.BUCKETS) for hour in range(160)]
    await api.events.insert(batch, NOW)
    for query in ("limit=100", "limit=60&outcome=success"):
        answer = await api.of("GET", f"/api/device/PB-3/sync-history?{query}")
        assert (api.commands.names, len(answer.json()["events"])) == (["find"], int(query[6:9].strip("&")))
        keys, documents = await examined(api, api.commands.sent[0])
        assert documents == len(answer.json()["events"]) + 1
        assert keys <= documents + limits.DAYS_AT_FIRST + 1


async def daily(api: Costs, device_id: str, days: int, *, is_projected: bool) -> None:
    """As if a bridge had taken in a sync a day, up to today."""
    kept = [event_at(clock.to_ms(clock.now()) - 86_400_000 * back, device_id) for back in range(days)]
    await api.events.insert(kept, NOW)
    if is_projected:
        await api.projection.apply(project(kept))


async def test_a_device_that_syncs_daily_is_two_commands_and_then_one(api: Costs) -> None:
    """The newest days do not fill the page: the projection says how many do, and then pages before do."""
    await daily(api, "PB-3", 130, is_projected=True)
    path = "/api/device/PB-3/sync-history"
    following = (await api.of("GET", path)).json()["next"]
    assert (api.commands.names, len(api.packets)) == (["find", "find"], 1)
    today_is_over_soon = 1
    assert 0 <= len(api.commands.sent[1]["filter"]["$or"]) - 51 + limits.DAYS_AT_FIRST <= today_is_over_soon
    for page in (path, following):
        assert len((await api.of("GET", page)).json()["events"]) == 50
        assert (api.commands.names, api.packets) == (["find"], [])
        keys, documents = await examined(api, api.commands.sent[0])
        assert documents == 51
        assert keys <= documents + 55


async def test_a_device_that_syncs_daily_is_three_commands_without_the_projection(api: Costs) -> None:
    """The newest days, the bucket's own newest and oldest, and the page."""
    await daily(api, "PB-3", 60, is_projected=False)
    assert len((await api.of("GET", "/api/device/PB-3/sync-history")).json()["events"]) == 50
    assert (api.commands.names, len(api.packets)) == (["find", "aggregate", "find"], 1)


async def test_a_page_that_begins_months_ago_is_two_commands(api: Costs) -> None:
    """The newest days, and the page; where nothing tells of it, also the bucket's newest and oldest day."""
    await keep(api, range(4), 100)
    await api.events.insert([event("PB-4", minute) for minute in range(100)], NOW)
    for device_id, commands in (("PB-3", ["find", "find"]), ("PB-4", ["find", "aggregate", "find"])):
        await api.of("GET", f"/api/device/{device_id}/sync-history?limit=49")
        assert (api.commands.names, len(api.packets)) == (commands, 1)
        assert (await examined(api, api.commands.sent[-1]))[1] == 50
    for outcome in ("failure", "partial"):
        await api.of("GET", f"/api/device/PB-3/sync-history?limit=50&outcome={outcome}")
        assert (api.commands.names, api.packets) == (["find"], [])
        assert (await examined(api, api.commands.sent[0]))[1] == 51


@pytest.mark.parametrize(("is_projected", "looks"), [(False, 4), (True, 3)])
async def test_a_device_heard_twice_a_year_is_a_few_commands(
    api: Costs, is_projected: bool, looks: int
) -> None:
    """Beside it, in its bucket, one that syncs daily, and one whose clock was wrong once.

    The projection spares a look at the bucket where it knows a sync that the first days do not have.
    """
    twice = [event("PB-3", -1440 * days) for days in (10, 190, 370, 560, 730)]
    same_bucket = (f"PB-x{number}" for number in count() if bucket_of(f"PB-x{number}") == bucket_of("PB-3"))
    daily = [event(next(same_bucket), 0)]
    daily += [event(daily[0].device_id, -1440 * day) for day in range(1, 731)]
    await api.events.insert([*twice, *daily, event(next(same_bucket), -1440 * 4000)], NOW)
    if is_projected:
        await api.projection.apply(project(twice))
    answer = await api.of("GET", "/api/device/PB-3/sync-history")
    assert len(answer.json()["events"]) == len(twice)
    assert len(api.packets) == 1
    finds = [command for command in api.commands.sent if "find" in command]
    assert api.commands.names == (["find"] if is_projected else []) + ["find", "aggregate"] * looks + ["find"]
    examined_keys = [await examined(api, command) for command in finds]
    assert sum(documents for _, documents in examined_keys) == len(twice)
    assert sum(keys for keys, _ in examined_keys) <= 740


async def test_a_device_never_seen_is_a_few_commands(api: Costs) -> None:
    await api.of("GET", "/api/device/PB-3/sync-history", 404)
    # The last one looks whether all its events were deleted.
    assert (api.commands.names, len(api.packets)) == (["find", "aggregate", "find"], 1)
    await keep(api, range(4, 3 * limits.BUCKETS), 1)
    await api.of("GET", "/api/device/PB-3/sync-history", 404)
    assert (api.commands.names, len(api.packets)) == (["find", "aggregate", "find", "find"], 1)


@pytest.mark.parametrize("ranked_by", RankedBy)
async def test_a_page_of_failing_devices_is_one_round_trip_to_redis(api: Costs, ranked_by: RankedBy) -> None:
    await keep(api, range(120), 4)
    path = f"{FAILURES}?sort={ranked_by}"
    sizes = []
    while path is not None:
        body = (await api.of("GET", path)).json()
        assert (api.commands.names, len(api.packets)) == ([], 1)
        sizes.append(len(body["devices"]))
        path = body["next"]
    assert sizes == [50, 50, 20]


@pytest.mark.parametrize("ranked_by", RankedBy)
async def test_what_redis_does_for_a_page_hardly_grows_with_the_fleet(
    api: Costs, redis_url: str, ranked_by: RankedBy
) -> None:
    done = []
    async with Redis.from_url(redis_url) as redis:
        for devices in (range(600), range(600, 6000)):
            await keep(api, devices, 4)
            path = f"{FAILURES}?sort={ranked_by}"
            for _ in range(2):
                await redis.config_resetstat()
                body = (await api.client.get(path)).json()
                stats = await redis.info("commandstats")
                done.append(sum(command["calls"] for command in stats.values()))
                path = body["next"]
    (small_first, small_next), (large_first, large_next) = done[:2], done[2:]
    assert large_first <= small_first + 2, done
    assert large_next <= small_next + SEARCHES_MORE_MAX, done
    # The epoch, whether a rebuild is pending, bridges, time, a rank and the heads, in each shard.
    assert large_first <= 8 * limits.SHARDS, done


async def test_a_page_of_the_fleet_asks_no_store(api: Costs) -> None:
    await keep(api, range(120), 4)
    await api.feed()
    for path in (
        "/api/devices",
        "/api/devices?sort=name&limit=1000&state=failing&q=PB",
        "/api/devices.csv",
        "/api/devices.ndjson?heard_after=1d",
    ):
        await api.of("GET", path)
        assert (api.commands.names, api.packets) == ([], [])


async def test_a_device_is_three_commands_at_most(api: Costs) -> None:
    """What is said of it, its open alerts, and, where Redis keeps too few, all counts of its failures."""
    kept = [event_at(START_MS + at, "PB-3", errors=int(at > 0)) for at in range(limits.FAILURES_KEPT_MAX + 5)]
    await api.events.insert(kept, NOW)
    await api.projection.apply(project(kept))
    await keep(api, range(4, 6), 4)
    await api.feed()
    body = (await api.of("GET", "/api/device/PB-3")).json()
    assert (body["streak"], body["failures"]) == (limits.FAILURES_KEPT_MAX + 4,) * 2
    assert (sorted(api.commands.names), api.packets) == (["aggregate", "aggregate", "find"], [])
    await api.of("GET", "/api/device/PB-4")
    assert (sorted(api.commands.names), api.packets) == (["aggregate", "find"], [])
    await api.of("GET", "/api/device/PB-9", 404)
    assert (sorted(api.commands.names), len(api.packets)) == (["aggregate", "find"], 1)


async def test_a_history_file_is_a_command_a_page(api: Costs, monkeypatch: pytest.MonkeyPatch) -> None:
    """And, at its end, a look whether there are older days."""
    monkeypatch.setattr(limits, "PAGE_MAX", 50)
    await daily(api, "PB-3", 130, is_projected=False)
    answer = await api.of("GET", "/api/device/PB-3/sync-history.ndjson")
    assert len(answer.content.splitlines()) == 130
    assert api.packets == []
    assert len(api.commands.names) <= 8


async def test_a_page_of_alerts_is_two_commands_whatever_is_acknowledged(api: Costs) -> None:
    alerts, kept = MongoAlertStore(api.connection), MongoAcknowledgementStore(api.connection)
    await asyncio.gather(alerts.prepare(), kept.prepare())
    await alerts.open(Rule.STREAK, {f"PB-{number}": 3 for number in range(600)}, NOW)
    ids = [alert.alert_id for alert in await alerts.find(AlertQuery(limit=600))]
    for number, alert_id in enumerate(ids[::9]):
        acknowledgement = Acknowledgement(
            acknowledgement_id=f"{number:04}",
            subject=Subject(kind=SubjectKind.ALERTS, target=alert_id),
            who="ada",
            at=NOW,
            reason="",
            until=Until(),
        )
        assert await kept.add(acknowledgement)
    for path, rows in (
        ("/api/alerts?limit=200", 200),
        ("/api/alerts?limit=50&acknowledged=true", 50),
        ("/api/acknowledgements?limit=50", 50),
    ):
        body = (await api.of("GET", path)).json()
        assert len(body["alerts" if "alerts" in path else "acknowledgements"]) == rows
        assert api.commands.names == ["find", "find"], path
        for command in list(api.commands.sent):
            keys, documents = await examined(api, command)
            assert documents <= rows + 1
            assert keys <= 2 * (rows + 1) + 1
    # Among those that are not, the ones that are acknowledged are skipped.
    body = (await api.of("GET", "/api/alerts?limit=50&acknowledged=false")).json()
    assert [row["id"] for row in body["alerts"]] == [each for place, each in enumerate(ids) if place % 9][:50]
    assert api.commands.names == ["find"] * 4


async def test_a_post_is_one_publish_and_asks_no_store(
    mongodb_url: str, redis_url: str, mqtt_url: str, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def reply(client: Any, message: Any) -> None:
        topic, correlation = (
            broker.property_of(message, name) for name in ("ResponseTopic", "CorrelationData")
        )
        await broker.send(client, topic, broker.stored(1), correlation)

    async with (
        broker.bridge(mqtt_url, reply) as published,
        broker.connected(ApiSettings(mqtt_url=mqtt_url)) as publisher,
        costs(mongodb_url, redis_url, commands, monkeypatch, publisher) as api,
    ):
        for count in range(1, 4):
            await api.of("POST", "/api/sync-event", 201, content=payload(), headers=JSON)
            assert (api.commands.names, api.packets, len(published)) == ([], [], count)
