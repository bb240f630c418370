"""Alerts beside the hot path: what is reported is judged, and what is opened or closed is published."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.alerts.judge import Judge
from bridge.alerts.outbox import Outbox
from bridge.alerts.rules import all_rules
from bridge.alerts.sinks.mqtt import MqttSink
from bridge.alerts.sinks.retained import Retained, digest
from pisync import clock, limits
from pisync.domain import topics
from pisync.domain.alerts import Alert, AlertChange, Rule, encode_retained, new_alert_id
from pisync.domain.device_state import project
from pisync.errors import PublishRefused, RedisUnavailable
from pisync.stores.memory.alerts import MemoryAlertStore
from pisync.stores.memory.events import MemoryEventStore
from pisync.stores.memory.projection import MemoryProjection
from tests.support.intake_rig import Rig
from tests.support.intake_rig import running as running_bridge
from tests.support.rules import NamedDevices, another_rule
from tests.support.samples import NOW, event
from tests.support.waiting import until


class Confirming(MemoryProjection):
    """A projection that can be away when alerts are to be confirmed."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.batches: list[int] = []

    async def confirm(self, changes: Sequence[AlertChange]) -> list[AlertChange]:
        self.batches.append(len(changes))
        if self.away:
            raise RedisUnavailable("away")
        return await super().confirm(changes)


class AlertsRig:
    """Alerts over stores in memory."""

    def __init__(self, *more_rules: NamedDevices) -> None:
        self.events = MemoryEventStore()
        self.streaks = Confirming()
        self.store = MemoryAlertStore()
        self.outbox = Outbox(store=self.store)
        self.judge = Judge(
            store=self.store,
            rules=[*all_rules(events=self.events, projection=self.streaks), *more_rules],
            on_change=self.outbox.wake,
        )

    async def sync(self, *device_ids: str, minutes: Sequence[int] = (0, 1, 2), errors: int = 1) -> None:
        batch = [event(device_id, minute, errors=errors) for device_id in device_ids for minute in minutes]
        await self.events.insert(batch, NOW)
        self.judge.report(await self.streaks.apply(project(batch)))

    async def compare(self) -> None:
        await self.judge.handle(await self.judge.compare())

    async def open(self) -> set[tuple[str, str]]:
        return {(alert.device_id, alert.rule) for alert in self.store.alerts if alert.closed_at is None}


@asynccontextmanager
async def running(rig: AlertsRig) -> AsyncIterator[AlertsRig]:
    task = asyncio.create_task(rig.judge.run())
    try:
        yield rig
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_is_reported_is_opened_and_confirmed() -> None:
    async with running(AlertsRig()) as rig:
        await rig.sync("PB-1", "PB-2")
        assert not rig.judge.is_idle
        await until(lambda: rig.judge.is_idle)
        assert sorted(await rig.store.open_devices(Rule.STREAK)) == ["PB-1", "PB-2"]
        assert rig.streaks.alerting == {"PB-1", "PB-2"}
        assert (rig.judge.opened, rig.judge.closed) == (2, 0)


async def test_the_newest_word_on_a_device_counts() -> None:
    rig = AlertsRig()
    await rig.sync("PB-1")
    await rig.sync("PB-1", minutes=[3], errors=0)
    async with running(rig):
        await until(lambda: rig.judge.is_idle)
        assert rig.store.alerts == []


async def test_what_could_not_be_confirmed_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BACKOFF_BASE_S", 0.001)
    async with running(AlertsRig()) as rig:
        rig.streaks.away = True
        await rig.sync("PB-1")
        await until(lambda: len(rig.streaks.batches) >= 2)
        assert not rig.judge.is_idle
        rig.streaks.away = False
        await until(lambda: rig.judge.is_idle)
        assert rig.streaks.alerting == {"PB-1"}
        assert len(rig.store.alerts) == rig.judge.opened == 1


async def test_however_many_are_handled_at_once_it_is_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a projection was rebuilt: a look at a hundred thousand devices would not end in time."""
    monkeypatch.setattr(limits, "ALERTS_BATCH", 10)
    rig = AlertsRig()
    await rig.sync(*(f"PB-{number:02}" for number in range(25)))
    await rig.compare()
    assert rig.streaks.batches == [10, 10, 5]
    assert len(await rig.open()) == 25


async def test_what_is_reported_right_after_a_round_waits_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ALERTS_PAUSE_S", 3600)
    rig = AlertsRig()
    async with running(rig):
        await rig.sync("PB-0")  # nobody else failed: at once
        await until(lambda: rig.judge.is_idle)
        for number in range(1, 6):
            await rig.sync(f"PB-{number}")
            await turns()
        assert not rig.judge.is_idle
        assert len(await rig.open()) == 1
    async with running(rig):  # as when the pause is over
        await until(lambda: rig.judge.is_idle)
    assert rig.streaks.batches == [1, 5]
    assert len(await rig.open()) == 6


async def turns() -> None:
    """Let all other tasks go on until they wait for something that does not come from here."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_storm_is_handled_in_batches_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ALERTS_BATCH", 10)
    monkeypatch.setattr(limits, "ALERTS_WAITING_MAX", 25)
    monkeypatch.setattr(limits, "ALERTS_PAUSE_S", 0)
    rig = AlertsRig()
    await rig.sync(*(f"PB-{number:02}" for number in range(30)))
    async with running(rig):
        await until(lambda: rig.judge.is_idle)
        assert rig.streaks.batches == [10, 10, 5]
        # What was dropped is out of step, and so reported by the next comparison.
        rig.judge.report(await rig.judge.compare())
        await until(lambda: rig.judge.is_idle)
        assert len(await rig.open()) == 30


async def test_a_second_rule_opens_and_closes_beside_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    second = NamedDevices(another_rule(monkeypatch), set())
    rig = AlertsRig(second)
    await rig.sync("PB-1")
    await rig.compare()
    assert await rig.open() == {("PB-1", "streak")}

    second.devices |= {"PB-1", "PB-2"}
    await rig.compare()
    assert await rig.open() == {("PB-1", "streak"), ("PB-1", "test-only"), ("PB-2", "test-only")}
    assert [(change.device_id, change.opens) for change in second.confirmed] == [
        ("PB-1", True),
        ("PB-2", True),
    ]
    # Neither rule hears of the other's changes, and a success ends the streak alone.
    assert (rig.streaks.alerting, rig.streaks.batches) == ({"PB-1"}, [1])
    await rig.sync("PB-1", minutes=[9], errors=0)
    await rig.compare()
    assert await rig.open() == {("PB-1", "test-only"), ("PB-2", "test-only")}
    assert len(second.confirmed) == 2

    await rig.sync("PB-1", minutes=[10, 11, 12])
    await rig.compare()
    second.devices.clear()
    await rig.compare()
    assert await rig.open() == {("PB-1", "streak")}
    assert rig.streaks.alerting == {"PB-1"}


async def test_changes_of_two_rules_wait_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    second = NamedDevices(another_rule(monkeypatch), {"PB-1"})
    rig = AlertsRig(second)
    await rig.sync("PB-1")
    rig.judge.report(await second.compare([]))
    async with running(rig):
        await until(lambda: rig.judge.is_idle)
        assert await rig.open() == {("PB-1", "streak"), ("PB-1", "test-only")}


async def test_a_rule_that_does_not_agree_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    second = NamedDevices(another_rule(monkeypatch), set())
    rig = AlertsRig(second)
    await rig.judge.handle([AlertChange(device_id="PB-1", rule=second.rule, streak=0, opens=True)])
    assert (rig.store.alerts, second.confirmed) == ([], [])


async def test_a_bridge_that_has_caught_up_compares_what_it_found() -> None:
    """What is merged in a catch-up is not reported, and no event need come after it."""
    rig = Rig()
    await rig.store.insert([event("PB-1", minute, errors=1) for minute in range(3)], NOW)
    async with running_bridge(rig):
        await until(lambda: rig.judge.opened == 1)
        await until(lambda: rig.judge.is_idle)
        assert await rig.alerts.open_devices(Rule.STREAK) == ["PB-1"]
        assert rig.streaks.alerting == {"PB-1"}


class Session:
    """A publisher that remembers what a broker would retain, and all that was published."""

    def __init__(self) -> None:
        self.connected = True
        self.times_asked = 0
        self.retained: dict[str, bytes] = {}
        self.published: list[tuple[str, bytes]] = []
        self.refused: set[str] = set()
        self.elsewhere: dict[str, bytes] = {}

    @property
    def is_ready(self) -> bool:
        self.times_asked += 1
        return self.connected

    async def publish_acknowledged(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        assert retain
        if topic in self.refused:
            raise PublishRefused(0x87)
        self.published.append((topic, payload))
        await self.arrival()
        self.retained[topic] = payload

    async def retain_elsewhere(self, topic: str, payload: bytes) -> None:
        self.elsewhere[topic] = payload

    async def arrival(self) -> None:
        """How long the message takes to the broker."""
        await asyncio.sleep(0)

    async def read(self) -> Retained:
        return Retained(
            digests={topic: digest(payload) for topic, payload in self.retained.items() if payload},
            whole=True,
        )


@asynccontextmanager
async def publishing(outbox: Outbox, session: Session) -> AsyncIterator[None]:
    task = asyncio.create_task(outbox.run(MqttSink(session, session.read, session.retain_elsewhere)))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def topic(device_id: str, rule: str = "streak") -> str:
    return topics.alerts(device_id, rule)


async def test_an_alert_is_retained_while_it_is_open() -> None:
    rig, session = AlertsRig(), Session()
    await rig.sync("PB-1")
    await rig.compare()
    async with publishing(rig.outbox, session):
        await until(lambda: session.retained)
        (alert,) = rig.store.alerts
        assert session.retained == {topic("PB-1"): encode_retained(alert)}
        await until(lambda: not rig.store.silent)
        await rig.sync("PB-1", minutes=[9], errors=0)
        await rig.compare()  # and so wakes the outbox
        await until(lambda: session.retained == session.elsewhere == {topic("PB-1"): b""})


async def test_each_rule_has_a_retained_message_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    second = NamedDevices(another_rule(monkeypatch), {"PB-1"})
    rig, session = AlertsRig(second), Session()
    await rig.sync("PB-1")
    await rig.compare()
    async with publishing(rig.outbox, session):
        await until(lambda: len(session.retained) == 2)
        assert json.loads(session.retained[topic("PB-1", "test-only")])["rule"] == "test-only"
        streak = session.retained[topic("PB-1")]
        second.devices.clear()
        await rig.compare()
        await until(lambda: session.retained[topic("PB-1", "test-only")] == b"")
        assert session.retained[topic("PB-1")] == streak


async def test_an_alert_waits_until_it_can_be_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ALERTS_PUBLISH_INTERVAL_S", 0.001)
    rig, session = AlertsRig(), Session()
    session.connected = False
    await rig.sync("PB-1")
    await rig.compare()
    async with publishing(rig.outbox, session):
        await until(lambda: session.times_asked > 2)
        assert session.published == []
    # Another life, or another bridge, which nobody woke.
    session.connected = True
    async with publishing(Outbox(store=rig.store), session):
        await until(lambda: session.retained)
        await until(lambda: not rig.store.silent)
        assert len(session.published) == 1


async def test_all_is_published_again_to_a_broker_that_may_have_lost_it() -> None:
    rig, session = AlertsRig(), Session()
    await rig.sync("PB-1", "PB-2")
    await rig.compare()
    await rig.sync("PB-2", minutes=[9], errors=0)
    await rig.compare()
    async with publishing(rig.outbox, session):
        await until(lambda: session.retained.keys() == {topic("PB-1"), topic("PB-2")})
        await until(lambda: not rig.store.silent)
        before = dict(session.retained)
        session.retained.clear()
        rig.outbox.publish_again()
        await until(lambda: session.retained == before)


class Overtaken(MemoryAlertStore):
    """Closes an alert, as another bridge may, just after it was read that it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.overtakes = True

    async def unpublished(self, limit: int) -> list[Alert]:
        found = await super().unpublished(limit)
        if self.overtakes:
            self.overtakes = False
            await self.resolve(Rule.STREAK, ["PB-1"], NOW)
            await self.published(self.alerts)
        return found


async def test_an_older_state_does_not_outlast_one_that_another_bridge_published() -> None:
    store, session = Overtaken(), Session()
    await store.open(Rule.STREAK, {"PB-1": 3}, NOW)
    async with publishing(Outbox(store=store), session):
        await until(lambda: len(session.published) > 1)
        await until(lambda: session.retained == {topic("PB-1"): b""})


class Between(MemoryAlertStore):
    """A store of which a bridge asks something, and others act before it is answered, and after."""

    def __init__(self, act: Callable[[], Awaitable[None]], shared: MemoryAlertStore) -> None:
        super().__init__()
        self.alerts, self.silent = shared.alerts, shared.silent
        self.act = act

    async def open_alerts(self, device_ids: Collection[str]) -> dict[tuple[str, Rule], Alert]:
        await self.act()
        found = await super().open_alerts(device_ids)
        await self.act()
        return found

    async def unpublished(self, limit: int) -> list[Alert]:
        await self.act()
        found = await super().unpublished(limit)
        await self.act()
        return found

    async def published(self, alerts: Sequence[Alert]) -> bool:
        await self.act()
        each_is_so = await super().published(alerts)
        await self.act()
        return each_is_so


class BetweenSession(Session):
    """A session whose messages arrive while others act."""

    def __init__(self, act: Callable[[], Awaitable[None]], broker: Session) -> None:
        super().__init__()
        self.retained, self.act = broker.retained, act

    async def arrival(self) -> None:
        await self.act()
        await self.act()


CLOSED_AND_OPENED_ANEW: Final = ["close", *["nothing"] * 7, "open", "publish"]
"""What is closed is published; before that arrives, others open one anew and say so."""


@example(deeds=CLOSED_AND_OPENED_ANEW)
@given(deeds=st.lists(st.sampled_from(["nothing", "open", "close", "publish"]), max_size=16))
def test_whatever_others_do_meanwhile_the_broker_retains_what_is_open(deeds: list[str]) -> None:
    store, broker = MemoryAlertStore(), Session()
    theirs = Outbox(store=store)
    waiting = iter(deeds)

    async def act() -> None:
        deed = next(waiting, "nothing")
        if deed == "open":
            await store.open(Rule.STREAK, {"PB-1": 3}, NOW)
        elif deed == "close":
            await store.resolve(Rule.STREAK, ["PB-1"], NOW)
        elif deed == "publish":
            await theirs._publish_batch(MqttSink(broker, broker.read, broker.retain_elsewhere))

    async def publish() -> None:
        await store.open(Rule.STREAK, {"PB-1": 3, "PB-2": 3}, NOW)
        ours, link = Outbox(store=Between(act, store)), BetweenSession(act, broker)
        while store.silent:
            await ours._publish_batch(MqttSink(link, link.read, link.retain_elsewhere))

    asyncio.run(publish())
    open_now = {
        topic(alert.device_id): encode_retained(alert) for alert in store.alerts if not alert.closed_at
    }
    assert {name: payload for name, payload in broker.retained.items() if payload} == open_now


class SlowLink(Session):
    """A session whose messages wait on their way until the test lets them go."""

    def __init__(self, broker: Session) -> None:
        super().__init__()
        self.retained = broker.retained
        self.go = asyncio.Event()

    async def retain_elsewhere(self, topic: str, payload: bytes) -> None:
        self.elsewhere[topic] = payload

    async def arrival(self) -> None:
        await self.go.wait()


async def test_a_slower_bridge_does_not_leave_an_older_state() -> None:
    """It publishes that the alert is open; before that arrives, another one closes it and says so."""
    store, quick = MemoryAlertStore(), Session()
    slow = SlowLink(quick)
    await store.open(Rule.STREAK, {"PB-1": 3}, NOW)
    async with publishing(Outbox(store=store), slow):
        await until(lambda: slow.published)
        await store.resolve(Rule.STREAK, ["PB-1"], NOW)
        async with publishing(Outbox(store=store), quick):
            await until(lambda: quick.retained == {topic("PB-1"): b""})
            await until(lambda: not store.silent)
        slow.go.set()
        await until(lambda: len(slow.published) > 1)
        await until(lambda: quick.retained == {topic("PB-1"): b""})


async def test_one_alert_that_is_refused_does_not_hold_up_the_others() -> None:
    rig, session = AlertsRig(), Session()
    session.refused.add(topic("PB-1"))
    await rig.sync("PB-1", "PB-2", "PB-3")
    await rig.compare()
    async with publishing(rig.outbox, session):
        await until(lambda: session.retained.keys() == {topic("PB-2"), topic("PB-3")})
        await until(lambda: len(rig.store.silent) == 1)
        session.refused.clear()
        rig.outbox.wake()
        await until(lambda: topic("PB-1") in session.retained)


async def test_what_others_published_or_cleared_is_put_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ALERTS_PUBLISH_INTERVAL_S", 0.001)
    monkeypatch.setattr(limits, "ALERTS_CHECK_INTERVAL_S", 0.001)
    monkeypatch.setattr(limits, "ALERTS_PAGE", 2)
    rig, session = AlertsRig(), Session()
    await rig.sync("PB-1", "PB-2", "PB-3", "PB-4", "PB-5")
    await rig.compare()
    async with publishing(rig.outbox, session):
        await until(lambda: len(session.retained) == 5 and not rig.store.silent)
        right = dict(session.retained)
        session.retained[topic("PB-1")] = b"forged"
        session.retained[topic("PB-9")] = right[topic("PB-2")]
        session.retained[topic("PB-9", "no-rule")] = b"x"
        session.retained["pisync/v1/alerts/a b/streak"] = b"x"
        del session.retained[topic("PB-3")]
        session.retained[topic("PB-5")] = b""
        await until(lambda: {name: kept for name, kept in session.retained.items() if kept} == right)
        published = len(session.published)
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert len(session.published) == published  # and then it is quiet


def test_what_is_retained_says_why_and_since_when() -> None:
    alert = Alert(alert_id="7", device_id="PB-1", rule=Rule.STREAK, streak=3, opened_at=NOW, closed_at=None)
    assert json.loads(encode_retained(alert)) == {
        "device_id": "PB-1",
        "rule": "streak",
        "streak": 3,
        "opened_at": "2026-06-01T00:00:00.000Z",
    }
    assert encode_retained(None) == b""


def test_ids_sort_by_the_time_of_opening_whoever_makes_them() -> None:
    moments = [0, 9, 10, 1_780_000_000_000, 1_780_000_000_001, 253_402_300_799_999]
    ids = [new_alert_id(clock.from_ms(moment), nonce) for moment in moments for nonce in ("00", "ff")]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
