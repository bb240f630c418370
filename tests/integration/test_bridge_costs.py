"""What a batch and an alert cost the stores: round trips and keys examined, counted, not timed."""

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import pytest
import pytest_asyncio

from bridge.alerts.judge import Judge
from bridge.alerts.outbox import Outbox
from bridge.alerts.rules import all_rules
from bridge.metrics import Metrics
from bridge.projection.catch_up import CatchUp
from bridge.projection.projector import Projector
from bridge.projection.replay import Replay
from pisync import clock, limits
from pisync.clock import to_ms
from pisync.domain.alerts import Alert, AlertChange, Rule
from pisync.domain.device_state import project
from pisync.settings import BridgeSettings
from pisync.stores.interfaces.bridges import Claim
from pisync.stores.mongodb.alerts import MongoAlertStore
from pisync.stores.mongodb.bridges import MongoBridgeRegistry
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.events import MongoEventStore
from pisync.stores.mongodb.retention import MongoRetentionStore
from pisync.stores.redis.projection import RedisProjection
from tests.support import counting
from tests.support.counting import Commands
from tests.support.reception import reception_clock
from tests.support.samples import NOW, START, attach_anew, event

pytestmark = pytest.mark.usefixtures("bucket_watch")

NOW_MS: Final = clock.to_ms(NOW)

DEVICES: Final = (1, 10, 200)


def streak_change(device_id: str, *, opens: bool) -> AlertChange:
    return AlertChange(device_id=device_id, rule=Rule.STREAK, streak=3 if opens else 0, opens=opens)


@dataclass(frozen=True, kw_only=True)
class Costs:
    """A bridge's stores, and what was asked of them."""

    connection: MongoConnection
    events: MongoEventStore
    projection: RedisProjection
    alert_store: MongoAlertStore
    judge: Judge
    projector: Projector
    commands: Commands
    packets: list[object]

    def forget(self) -> None:
        self.commands.sent.clear()
        self.packets.clear()


@pytest_asyncio.fixture
async def costs(mongodb_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Costs]:
    """Real stores that count, with connections that are there already."""
    async with AsyncExitStack() as stack:
        commands = counting.commands_of_stores(monkeypatch)
        connection = MongoConnection(mongodb_url)
        stack.push_async_callback(connection.close)
        events, alert_store = MongoEventStore(connection), MongoAlertStore(connection)
        await events.prepare()
        await alert_store.prepare()
        projection = RedisProjection.connect(redis_url)
        stack.push_async_callback(projection.close)
        await attach_anew(projection)
        metrics = Metrics(BridgeSettings())
        judge = Judge(
            store=alert_store, rules=all_rules(events=events, projection=projection), retries=metrics
        )
        registry, claim = MongoBridgeRegistry(connection), Claim(known_before=False, floor=NOW)
        projector = Projector(
            projection=projection,
            alerts=judge,
            metrics=metrics,
            reception_clock=reception_clock(registry, claim),
        )
        catch_up = CatchUp(
            bridge_id="bridge-0",
            events=events,
            projection=projection,
            projector=projector,
            alerts=judge,
            registry=registry,
            claim=claim,
            metrics=metrics,
        )
        await catch_up._catch_up()
        await projector.merge([event("PB-warm")], NOW_MS)  # loads the script
        await judge.handle([streak_change("PB-warm", opens=True)])
        await projection.confirm([streak_change("PB-warm", opens=False)])
        costs = Costs(
            connection=connection,
            events=events,
            projection=projection,
            alert_store=alert_store,
            judge=judge,
            projector=projector,
            commands=commands,
            packets=counting.packets_to_redis(monkeypatch),
        )
        costs.forget()
        yield costs


@pytest.mark.parametrize("devices", DEVICES)
async def test_a_batch_is_one_round_trip_to_each_store(costs: Costs, devices: int) -> None:
    batch = [event(f"PB-{number}", minute) for number in range(devices) for minute in range(5)]
    with costs.projector.receive() as reception:
        await costs.events.insert(batch, reception.received_at)
        await reception.merge(batch)
    assert costs.commands.names == ["insert"]
    assert len(costs.packets) == 1


async def test_a_batch_that_came_before_is_one_more(costs: Costs) -> None:
    batch = [event(f"PB-{number}") for number in range(200)]
    await costs.events.insert(batch, NOW)
    costs.forget()
    await costs.events.insert(batch, NOW)
    assert costs.commands.names[:2] == ["insert", "find"]
    assert set(costs.commands.names[2:]) <= {"getMore"}


@pytest.fixture
def next_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """The events have just come in."""
    monkeypatch.setattr("pisync.clock.now", lambda: START + timedelta(days=1))


class Broker:
    """A sink that has published at once."""

    is_ready = True

    async def publish(self, device_id: str, rule: Rule, alert: Alert | None) -> None:
        """It is there."""

    async def differing(self, open_alerts: Iterable[Alert]) -> set[tuple[str, Rule]]:
        """Nothing is."""
        return set()


@pytest.mark.usefixtures("next_day")
@pytest.mark.parametrize("devices", DEVICES)
async def test_alerts_cost_the_same_however_many_there_are(costs: Costs, devices: int) -> None:
    ids = [f"PB-{number}" for number in range(devices)]
    batch = [event(device_id, minute, errors=1) for device_id in ids for minute in range(3)]
    await costs.events.insert(batch, NOW)
    await costs.projector.merge(batch, NOW_MS)
    costs.forget()
    await costs.judge.handle([streak_change(each, opens=True) for each in ids])
    assert costs.commands.names == ["aggregate", "find", "insert"]
    assert len(costs.packets) == 1
    assert sorted(await costs.alert_store.open_devices(Rule.STREAK)) == sorted(ids)
    outbox = Outbox(store=costs.alert_store)
    costs.forget()
    while await outbox._publish_batch(Broker()):
        pass
    full, rest = divmod(devices, limits.ALERTS_PUBLISH_BATCH)
    # Where the last page is full, one more look says that no more wait.
    assert costs.commands.names == ["find", "update"] * full + (["find", "update"] if rest else ["find"])
    assert await costs.alert_store.unpublished(1) == []
    costs.forget()
    recovered = [event(device_id, 10) for device_id in ids]
    await costs.events.insert(recovered, NOW)
    await costs.projector.merge(recovered, NOW_MS)
    costs.forget()
    await costs.judge.handle([streak_change(each, opens=False) for each in ids])
    assert costs.commands.names == ["aggregate", "find", "find", "update"]
    assert await costs.alert_store.open_devices(Rule.STREAK) == []


@pytest.mark.usefixtures("next_day")
async def test_a_verdict_looks_at_the_newest_events_alone(costs: Costs) -> None:
    """However long the histories are, and however many devices are beside it."""
    devices, history = 5 * limits.BUCKETS, 60
    ids = [f"PB-{number}" for number in range(devices)]
    batch = [
        event(device_id, -60 * hour, errors=int(device_id == "PB-3"))
        for device_id in ids
        for hour in range(history)
    ]
    await costs.events.insert(batch, NOW)
    # Of all of them, and of as many others, events were deleted, too.
    deleted = [event(f"PB-{number}", -60 * (history + 1)) for number in range(2 * devices)]
    await MongoRetentionStore(costs.connection).keep(project(deleted, [to_ms(NOW)] * len(deleted)))
    costs.forget()
    assert await costs.events.failing(["PB-3", "PB-4"], limits.STREAK_ALERT) == {"PB-3"}
    asked, successes = costs.commands.sent
    found: dict[str, Any] = await costs.connection.database.command(
        "explain",
        {"aggregate": asked["aggregate"], "pipeline": asked["pipeline"], "cursor": {}},
        verbosity="executionStats",
    )
    joined, based = [stage for stage in found["stages"] if "$lookup" in stage]
    assert (based["indexesUsed"], based["totalKeysExamined"]) == (["_id_"], 2)
    assert joined["indexesUsed"] == ["failures_by_day"]
    assert joined["totalKeysExamined"] <= 2 * (limits.STREAK_ALERT + 3)
    find = {name: successes[name] for name in ("find", "filter", "hint")}
    found = await costs.connection.database.command("explain", find, verbosity="executionStats")
    assert found["executionStats"]["totalKeysExamined"] <= limits.STREAK_ALERT


async def test_a_replay_does_not_run_after_what_comes_in_meanwhile(
    costs: Costs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a drain it would read every event that is stored, and join all of it twice."""
    monkeypatch.setattr(limits, "REPLAY_BATCH_EVENTS", 5)  # so that it asks again and again
    await costs.events.insert([event("PB-1", minute) for minute in range(10)], clock.from_ms(1_000))
    for since in (None, clock.from_ms(500)):
        replayed = 0
        async for batch in costs.events.replay(since):
            replayed += len(batch)
            later = [event(f"PB-later-{replayed}-{since}", minute) for minute in range(10)]
            await costs.events.insert(later, clock.from_ms(2_000))
        assert replayed == 10
        await costs.connection.database.sync_events.delete_many({"received_at": clock.from_ms(2_000)})


async def test_a_rebuild_reads_each_event_once_and_merges_each_device_once(
    costs: Costs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many days the events of a device are of."""
    monkeypatch.setattr(limits, "REPLAY_BATCH_EVENTS", 250)
    devices, days = 300, 10
    for day in range(days):
        batch = [event(f"PB-{number}", 1440 * day, errors=number % 2) for number in range(devices)]
        await costs.events.insert(batch, NOW)
    await costs.projection.begin_rebuild("bridge-0", [])
    costs.forget()
    replay = Replay(events=costs.events, projection=costs.projection, start_ms=0)
    assert sum([count async for count in replay.run()]) == devices * days
    # A read that a primary which was replaced cannot answer; some to learn in which order the documents lie,
    # one how far it goes; the read ends with a reply that is not full; the last is for what deleted events
    # came to.
    looks = ["find", "listIndexes", "aggregate", *["find"] * limits.REPLAY_PLACES_LOOKED_AT]
    assert costs.commands.names == [*looks, "find", "find", *["getMore"] * (devices * days // 250), "find"]
    # The devices of a bucket are all of one shard: one call of the script for up to `limits.MERGED_AT_ONCE`.
    assert len(costs.packets) <= limits.BUCKETS
    assert sum(str(packet).count("EVALSHA") for packet in costs.packets) <= limits.BUCKETS
    # Live traffic, beside it, has its turn after so many.
    monkeypatch.setattr(limits, "REPLAY_EVENTS_AT_ONCE", 30)
    assert max([len(batch) async for batch in costs.events.replay(None)]) <= 30
