"""What every alert store does."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio

from pisync.domain.alerts import Alert, CloseReason, Rule
from pisync.stores.interfaces.alerts import AlertQuery, AlertStore
from pisync.stores.memory.alerts import MemoryAlertStore
from pisync.stores.mongodb.alerts import MongoAlertStore
from pisync.stores.mongodb.connection import MongoConnection
from tests.support.rules import another_rule
from tests.support.samples import NOW

LATER = NOW + timedelta(hours=1)
STREAK = Rule.STREAK


@pytest_asyncio.fixture
async def store(event_store_url: str | None) -> AsyncIterator[AlertStore]:
    """An empty alert store."""
    if event_store_url is None:
        yield MemoryAlertStore()
        return
    connection = MongoConnection(event_store_url)
    mongodb = MongoAlertStore(connection)
    await mongodb.prepare()
    await mongodb.prepare()
    yield mongodb
    await connection.close()


async def only(store: AlertStore) -> Alert:
    [alert] = await store.find(AlertQuery(limit=10))
    return alert


async def test_a_device_has_at_most_one_open_alert(store: AlertStore) -> None:
    assert await store.open(STREAK, {"PB-1": 3}, NOW) == {"PB-1"}
    assert await store.open(STREAK, {"PB-1": 4}, LATER) == set()
    alert = await only(store)
    assert (alert.device_id, alert.streak, alert.opened_at, alert.closed_at) == ("PB-1", 3, NOW, None)
    assert await store.open(STREAK, {"PB-1": 4, "PB-2": 3}, NOW) == {"PB-2"}
    assert await store.open(STREAK, {}, NOW) == set()
    assert sorted(await store.open_devices(STREAK)) == ["PB-1", "PB-2"]


async def test_racing_bridges_open_and_close_it_once(store: AlertStore) -> None:
    opened = await asyncio.gather(*(store.open(STREAK, {"PB-1": 3, "PB-2": 3}, NOW) for _ in range(8)))
    assert sorted(device_id for each in opened for device_id in each) == ["PB-1", "PB-2"]
    closed = await asyncio.gather(*(store.resolve(STREAK, ["PB-1"], LATER) for _ in range(8)))
    assert sorted(device_id for each in closed for device_id in each) == ["PB-1"]
    assert (await store.open_alerts(["PB-1", "PB-2", "PB-3"])).keys() == {("PB-2", STREAK)}
    closed_ones = await store.find(AlertQuery(limit=10, is_open=False))
    assert [(alert.device_id, alert.closed_at) for alert in closed_ones] == [("PB-1", LATER)]


async def test_an_alert_is_closed_and_another_opened(store: AlertStore) -> None:
    assert not await store.resolve(STREAK, ["PB-1"], NOW)
    await store.open(STREAK, {"PB-1": 3}, NOW)
    assert await store.resolve(STREAK, ["PB-1"], LATER)
    assert not await store.resolve(STREAK, ["PB-1"], LATER + timedelta(hours=1))
    assert await store.open_devices(STREAK) == []
    assert await store.open(STREAK, {"PB-1": 5}, LATER)
    newest, oldest = await store.find(AlertQuery(limit=10))
    assert (newest.streak, newest.closed_at) == (5, None)
    assert (oldest.streak, oldest.closed_at) == (3, LATER)


async def test_why_it_was_closed_is_kept_and_who_is_later_changes_nothing(store: AlertStore) -> None:
    assert await store.open(Rule.OVERDUE, {"PB-1": 0, "PB-2": 0}, NOW) == {"PB-1", "PB-2"}
    assert [alert.close_reason for alert in await store.find(AlertQuery(limit=10))] == [None, None]
    assert await store.resolve(Rule.OVERDUE, ["PB-1"], LATER, CloseReason.RETIRED) == {"PB-1"}
    assert await store.resolve(Rule.OVERDUE, ["PB-1"], LATER, CloseReason.HEARD) == set()
    [closed] = await store.find(AlertQuery(limit=10, is_open=False))
    assert (closed.device_id, closed.close_reason) == ("PB-1", CloseReason.RETIRED)
    assert closed in await store.unpublished(10)
    [still_open] = await store.find(AlertQuery(limit=10, rule=Rule.OVERDUE, is_open=True))
    assert (still_open.device_id, still_open.close_reason) == ("PB-2", None)
    await store.open(STREAK, {"PB-3": 3}, NOW)
    assert await store.resolve(STREAK, ["PB-3"], LATER) == {"PB-3"}
    [recovered] = await store.find(AlertQuery(limit=10, rule=STREAK))
    assert recovered.close_reason is CloseReason.RECOVERED


async def test_open_alerts_are_counted(store: AlertStore) -> None:
    assert await store.count_open() == dict.fromkeys(Rule, 0)
    await store.open(STREAK, {"PB-1": 3, "PB-2": 3, "PB-3": 3}, NOW)
    await store.resolve(STREAK, ["PB-2"], LATER)
    assert await store.count_open() == dict.fromkeys(Rule, 0) | {STREAK: 2}


async def test_each_state_is_published(store: AlertStore) -> None:
    await store.open(STREAK, {"PB-1": 3}, NOW)
    [opened] = await store.unpublished(10)
    assert opened == await only(store)
    assert await store.published([opened])
    assert await store.unpublished(10) == []
    await store.resolve(STREAK, ["PB-1"], LATER)
    [closed] = await store.unpublished(10)
    assert closed == await only(store)
    assert closed.closed_at == LATER
    assert await store.published([closed])
    assert await store.unpublished(10) == []


async def test_publishing_an_outdated_state_changes_nothing(store: AlertStore) -> None:
    await store.open(STREAK, {"PB-1": 3}, NOW)
    await store.open(STREAK, {"PB-2": 3}, LATER)
    opened, other = await store.unpublished(10)
    await store.resolve(STREAK, ["PB-1"], LATER)
    assert not await store.published([opened, other])
    assert await store.published([other])  # again, as after an answer that was lost
    assert [alert.closed_at for alert in await store.unpublished(10)] == [LATER]


async def test_unpublished_ones_up_to_a_limit(store: AlertStore) -> None:
    for number in range(5):
        await store.open(STREAK, {f"PB-{number}": 3}, NOW)
    found = await store.unpublished(2)
    assert len(found) == 2
    for alert in found:
        await store.published([alert])
    assert len(await store.unpublished(10)) == 3


async def test_which_alerts_are_found(store: AlertStore) -> None:
    for number in (1, 2, 3):
        await store.open(STREAK, {f"PB-{number}": 3}, NOW + timedelta(minutes=number))
    await store.resolve(STREAK, ["PB-2"], LATER)
    await store.open(STREAK, {"PB-2": 3}, LATER)

    async def found(**filters: str | bool) -> list[tuple[str, bool]]:
        alerts = await store.find(AlertQuery(limit=10, **filters))  # type: ignore[arg-type]
        return [(alert.device_id, alert.closed_at is None) for alert in alerts]

    closed = ("PB-2", False)
    assert await found() == [("PB-2", True), ("PB-3", True), closed, ("PB-1", True)]
    assert await found(is_open=True) == [("PB-2", True), ("PB-3", True), ("PB-1", True)]
    assert await found(is_open=False) == [closed]
    assert await found(device_id="PB-2") == [("PB-2", True), closed]
    assert await found(device_id="PB-2", is_open=False) == [closed]
    assert await found(device_id="PB-9") == []

    newest, *_, oldest = await store.find(AlertQuery(limit=10))
    ids = [oldest.alert_id, newest.alert_id, "another"]
    assert await store.find(AlertQuery(limit=10, alert_ids=ids)) == [newest, oldest]
    assert await store.find(AlertQuery(limit=1, alert_ids=ids)) == [newest]
    assert await store.find(AlertQuery(limit=10, alert_ids=ids, before=newest.alert_id)) == [oldest]
    assert await store.find(AlertQuery(limit=10, alert_ids=ids, is_open=False)) == []
    assert await store.find(AlertQuery(limit=10, alert_ids=[])) == []


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
async def test_pages_give_each_alert_once_newest_first(store: AlertStore, limit: int) -> None:
    for number in range(7):
        await store.open(STREAK, {f"PB-{number}": 3}, NOW + timedelta(minutes=number))
    rows: list[Alert] = []
    before: str | None = None
    while page := await store.find(AlertQuery(limit=limit, before=before)):
        assert len(page) <= limit
        rows += page
        before = page[-1].alert_id
        # What is opened between two pages is newer, and moves nothing.
        await store.open(STREAK, {f"PB-later-{len(rows)}": 3}, LATER)
    assert [row.device_id for row in rows] == [f"PB-{number}" for number in range(6, -1, -1)]


async def test_a_broker_that_lost_all_is_told_again(store: AlertStore) -> None:
    for device_id in ("PB-1", "PB-2", "PB-3"):
        await store.open(STREAK, {device_id: 3}, NOW)
    await store.resolve(STREAK, ["PB-1"], NOW)
    await store.resolve(STREAK, ["PB-2"], LATER)
    for alert in await store.unpublished(10):
        await store.published([alert])
    await store.publish_again(LATER)
    assert sorted(alert.device_id for alert in await store.unpublished(10)) == ["PB-2", "PB-3"]


async def test_two_rules_are_open_for_one_device_side_by_side(
    store: AlertStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = another_rule(monkeypatch)
    assert await store.open(STREAK, {"PB-1": 3}, NOW) == {"PB-1"}
    assert await store.open(other, {"PB-1": 0, "PB-2": 1}, LATER) == {"PB-1", "PB-2"}
    assert await store.open(other, {"PB-1": 0}, LATER) == set()
    assert await store.open_devices(STREAK) == ["PB-1"]
    assert sorted(await store.open_devices(other)) == ["PB-1", "PB-2"]
    found = await store.open_alerts(["PB-1"])
    assert {key: (alert.rule, alert.streak) for key, alert in found.items()} == {
        ("PB-1", STREAK): (STREAK, 3),
        ("PB-1", other): (other, 0),
    }
    assert [alert.device_id for alert in await store.find(AlertQuery(limit=10, rule=STREAK))] == ["PB-1"]
    assert len(await store.find(AlertQuery(limit=10, rule=other))) == 2

    assert await store.resolve(other, ["PB-1"], LATER) == {"PB-1"}
    assert await store.open_devices(STREAK) == ["PB-1"]
    assert await store.open_devices(other) == ["PB-2"]
    assert await store.resolve(STREAK, ["PB-1", "PB-2"], LATER) == {"PB-1"}
    assert await store.open_devices(other) == ["PB-2"]


async def test_newest_first_is_by_when_they_were_opened_whoever_opened_them(store: AlertStore) -> None:
    """Bridges write in any order, and the clock of one may be behind another's."""
    for number in (3, 0, 4, 1, 2):
        await store.open(STREAK, {f"PB-{number}": 3}, NOW + timedelta(minutes=number))
    newest_first = await store.find(AlertQuery(limit=10))
    assert [alert.device_id for alert in newest_first] == [f"PB-{number}" for number in (4, 3, 2, 1, 0)]
    assert [alert.device_id for alert in await store.unpublished(10)] == [f"PB-{n}" for n in range(5)]
    ids = [alert.alert_id for alert in newest_first]
    assert ids == sorted(ids, reverse=True)


async def test_pages_of_alerts_opened_at_once_give_each_once(store: AlertStore) -> None:
    streaks = {f"PB-{number}": 3 for number in range(20)}
    await store.open(STREAK, streaks, NOW)
    rows: list[Alert] = []
    while page := await store.find(AlertQuery(limit=3, before=rows[-1].alert_id if rows else None)):
        rows += page
    assert sorted(row.device_id for row in rows) == sorted(streaks)
