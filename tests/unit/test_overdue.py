"""Alerts about devices that are silent beyond their habit: opened and closed once, and never because of us.

Time is virtual: the loop's for what is polled, and a wall clock that days are added to.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.alerts.judge import Judge
from bridge.alerts.rules import all_rules
from fleet.feeding import Feeding
from fleet.overdue import SilentDevice, overdue_devices, silent_devices
from fleet.query import FleetFilter, FleetSort, page
from pisync import limits
from pisync.clock import to_ms
from pisync.domain.alerts import Alert, CloseReason, Rule, end_of_silence
from pisync.domain.device_state import project
from pisync.domain.device_status import Status
from pisync.domain.directory import DirectoryDevice, Entry, Site
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.alerts import AlertQuery
from pisync.stores.known_bridges import KnownBridges
from pisync.stores.memory.alerts import MemoryAlertStore
from pisync.stores.memory.bridges import MemoryBridgeRegistry
from pisync.stores.memory.events import MemoryEventStore
from pisync.stores.memory.listening import MemoryListeningRecord
from pisync.stores.memory.projection import MemoryProjection
from tests.support.samples import NOW, attach_anew, event_at
from tests.support.virtual_time import run
from tests.unit.test_fleet_feeding import Directory, Kept
from worker.overdue import OverdueAlerts
from worker.shared_fleet import SharedFleet

T = TypeVar("T")
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
# Longer than it takes until the fleet has read everything and found anew who is silent for too long.
FRESH_S = limits.FLEET_SILENCE_INTERVAL_S + 2
LISTENED = timedelta(seconds=limits.OVERDUE_LISTENED_S)


class Alerts(MemoryAlertStore):
    """Counts what is asked of it, and fails at the call that a test chooses, before or after doing it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.fails_at: int | None = None
        self.has_done = False

    async def open(self, rule: Rule, streaks: Mapping[str, int], now: datetime) -> set[str]:
        assert len(streaks) <= limits.ALERTS_BATCH
        return await self._call("open", partial(super().open, rule, streaks, now))

    async def resolve(
        self,
        rule: Rule,
        device_ids: Collection[str],
        now: datetime,
        reason: CloseReason = CloseReason.RECOVERED,
    ) -> set[str]:
        assert len(device_ids) <= limits.ALERTS_BATCH
        return await self._call("resolve", partial(super().resolve, rule, device_ids, now, reason))

    async def find(self, query: AlertQuery) -> list[Alert]:
        return await self._call("find", partial(super().find, query))

    async def _call(self, name: str, do: Callable[[], Awaitable[T]]) -> T:
        self.calls.append(name)
        is_chosen = self.fails_at == len(self.calls)
        if is_chosen and not self.has_done:
            raise MongodbUnavailable("gone")
        done = await do()
        await asyncio.sleep(0)
        if is_chosen:
            raise MongodbUnavailable("gone, and it is not known whether it was done")
        return done

    def open_ones(self) -> list[str]:
        return sorted(alert.device_id for alert in self.alerts if alert.closed_at is None)

    def reasons(self) -> dict[str, CloseReason | None]:
        return {alert.device_id: alert.close_reason for alert in self.alerts if alert.closed_at is not None}


def id_of(entry: Entry) -> str:
    return entry.site_id if isinstance(entry, Site) else entry.device_id


class World:
    """Bridges that listen or do not, devices, and a worker's duty."""

    def __init__(self) -> None:
        self.ahead = timedelta()
        self.registry = MemoryBridgeRegistry()
        known_bridges = KnownBridges(self.registry)
        self.projection = MemoryProjection(known_bridges)
        self.directory = Directory()
        self.listening = MemoryListeningRecord()
        self.shared = SharedFleet(
            projection=self.projection,
            directory=self.directory,
            listening=self.listening,
            known_bridges=known_bridges,
        )
        self.known_bridges = known_bridges
        self.alerts = Alerts()
        # When the present interval of each bridge that listens began.
        self.listen_since: dict[str, datetime] = {}
        self.fleet: Feeding
        self.duty: OverdueAlerts

    def now(self) -> datetime:
        return NOW + self.ahead + timedelta(seconds=asyncio.get_running_loop().time())

    def another_duty(self) -> OverdueAlerts:
        """Of another worker, or of another term."""
        return OverdueAlerts(
            alerts=self.alerts,
            fleet=self.fleet,
            known_bridges=self.known_bridges,
            listening=self.listening,
        )

    async def bridge(self, bridge_id: str = "bridge-0", *, since: timedelta = 60 * DAY) -> None:
        """One that has listened for so long, and goes on."""
        await self.registry.claim(bridge_id, "a", self.now())
        self.listen_since[bridge_id] = self.now() - since
        await self.projection.set_watermark(bridge_id, 1, catching_up=False, stopped="a")

    async def bridges(self) -> None:
        """What the bridges write down, every two seconds."""
        while True:
            await self.write()
            await asyncio.sleep(2)

    async def write(self) -> None:
        for bridge_id, since in self.listen_since.items():
            await self.listening.listened(bridge_id, to_ms(since), to_ms(self.now()))

    async def later(self, time: timedelta) -> None:
        """So much time passes; the fleet is as of then."""
        self.ahead += time
        await self.write()
        await asyncio.sleep(FRESH_S)

    async def away(self, time: timedelta, *bridge_ids: str) -> None:
        """So much time passes, in which these bridges do not listen; they have said that they stop."""
        gone = {bridge_id: self.listen_since.pop(bridge_id) for bridge_id in bridge_ids}
        await self.later(time)
        self.listen_since |= dict.fromkeys(gone, self.now())
        await asyncio.sleep(FRESH_S)

    async def heard(self, *device_ids: str, ago: timedelta = timedelta()) -> None:
        moment_ms = to_ms(self.now() - ago)
        events = [event_at(moment_ms, device_id) for device_id in device_ids]
        await self.projection.apply(project(events, [moment_ms] * len(events)))

    def says(self, *entries: Entry) -> None:
        """The directory says this from now on."""
        ids = {id_of(entry) for entry in entries}
        others = [kept for kept in self.directory.entries if id_of(kept.entry) not in ids]
        self.directory.entries = [*others, *(Kept(entry, self.now()) for entry in entries)]

    async def device(self, *device_ids: str, silent: timedelta, habit_days: int = 2, **members: Any) -> None:
        """Devices that were heard so long ago."""
        self.says(*(DirectoryDevice(device_id=each, habit_days=habit_days, **members) for each in device_ids))
        await self.heard(*device_ids, ago=silent)
        await asyncio.sleep(FRESH_S)

    async def look(self, times: int = 2) -> list[str]:
        """Look so often; returns who has an open alert."""
        assert self.fleet.freshness.complete
        for _ in range(times):
            await self.duty.look()
        return self.alerts.open_ones()


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ALERTS_BATCH", 3)
    monkeypatch.setattr(limits, "ALERTS_PAGE", 4)


Within = Callable[[Callable[[World], Coroutine[Any, Any, None]]], None]


@pytest.fixture
def within(monkeypatch: pytest.MonkeyPatch) -> Within:
    """Runs a test in a world of its own."""

    async def live(test: Callable[[World], Coroutine[Any, Any, None]]) -> None:
        world = World()
        for name in ("pisync.clock.now", "fleet.feeding.now", "fleet.freshness.now"):
            monkeypatch.setattr(name, world.now)
        await attach_anew(world.projection)
        with world.shared.used() as world.fleet:
            world.duty = world.another_duty()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(world.shared.run()), group.create_task(world.bridges())]
                await test(world)
                for task in tasks:
                    task.cancel()

    return lambda test: run(lambda: live(test))


def test_two_looks_open_it_once_and_being_heard_closes_it(within: Within) -> None:
    async def main(world: World) -> None:
        await world.bridge()
        await world.device("PB-1", silent=3 * DAY)
        await world.device("PB-2", silent=HOUR)
        assert await world.look(1) == []
        assert await world.look(1) == ["PB-1"]
        [alert] = world.alerts.alerts
        assert (alert.rule, alert.streak, alert.close_reason) == (Rule.OVERDUE, 0, None)
        assert await world.look(5) == ["PB-1"]
        assert len(world.alerts.alerts) == 1
        # It waits to be published by a bridge, and then for what becomes of it.
        assert await world.alerts.unpublished(10) == [alert]
        await world.alerts.published([alert])
        await world.heard("PB-1")
        await asyncio.sleep(FRESH_S)
        assert await world.look(1) == []
        assert world.alerts.reasons() == {"PB-1": CloseReason.HEARD}
        assert [each.closed_at is None for each in await world.alerts.unpublished(10)] == [False]
        assert (world.duty.opened, world.duty.closed, world.duty.looks_skipped) == (1, 1, 0)
        # Silent once more, it has another alert.
        await world.later(3 * DAY)
        assert await world.look() == ["PB-1", "PB-2"]
        assert len(world.alerts.alerts) == 3

    within(main)


def test_it_looks_every_half_minute(within: Within) -> None:
    async def main(world: World) -> None:
        await world.bridge()
        await world.device("PB-1", silent=3 * DAY)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(world.duty.run())
            await asyncio.sleep(limits.OVERDUE_INTERVAL_S - 1)
            assert world.alerts.open_ones() == []
            await asyncio.sleep(2)
            assert world.alerts.open_ones() == ["PB-1"]
            task.cancel()

    within(main)


def test_a_device_that_was_heard_between_two_looks_has_none(within: Within) -> None:
    async def main(world: World) -> None:
        await world.bridge()
        await world.device("PB-1", silent=3 * DAY)
        assert await world.look(1) == []
        await world.heard("PB-1")
        await asyncio.sleep(FRESH_S)
        assert await world.look() == []

    within(main)


def test_a_device_that_is_retired_has_none_and_a_muted_one_has_one(within: Within) -> None:
    async def main(world: World) -> None:
        await world.bridge()
        await world.device("PB-retired", silent=3 * DAY, retired=True)
        await world.device("PB-muted", silent=3 * DAY, muted_until=world.now() + 9 * DAY)
        assert await world.look() == ["PB-muted"]
        world.says(DirectoryDevice(device_id="PB-muted", habit_days=2, retired=True))
        await asyncio.sleep(FRESH_S)
        assert await world.look() == []
        assert world.alerts.reasons() == {"PB-muted": CloseReason.RETIRED}

    within(main)


def test_failing_devices_that_fall_silent_have_none_of_this_rule(within: Within) -> None:
    """The state is one word, the worst; what fails has an alert for that."""

    async def main(world: World) -> None:
        await world.bridge()
        await world.device("PB-1", silent=5 * DAY)
        moment_ms = to_ms(world.now() - 4 * DAY)
        await world.projection.apply(project([event_at(moment_ms, "PB-1", errors=1)], [moment_ms]))
        await asyncio.sleep(FRESH_S)
        assert await world.look() == []

    within(main)


def test_calendars_count_as_in_the_state_and_one_that_changes_closes_it(within: Within) -> None:
    async def main(world: World) -> None:
        await world.bridge()
        today = world.now().date()
        closed = f"{today - timedelta(days=9)}/{today}"
        world.says(Site(site_id="S-1", holidays=(closed,)), Site(site_id="S-2"))
        await world.device("PB-1", silent=5 * DAY, site="S-1")
        await world.device("PB-2", silent=5 * DAY, site="S-2")
        assert await world.look() == ["PB-2"]
        world.says(Site(site_id="S-2", holidays=(closed,)))
        await asyncio.sleep(FRESH_S)
        assert await world.look() == []
        assert world.alerts.reasons() == {"PB-2": CloseReason.USUAL}

    within(main)


def test_a_device_of_which_nothing_is_known_any_more_has_none(within: Within) -> None:
    async def main(world: World) -> None:
        await world.bridge()
        await world.device("PB-1", silent=3 * DAY)
        assert await world.look() == ["PB-1"]
        del world.projection.states["PB-1"]
        world.directory.entries.clear()
        await asyncio.sleep(limits.FLEET_REREAD_INTERVAL_S + FRESH_S)
        assert await world.look() == []
        assert world.alerts.reasons() == {"PB-1": CloseReason.GONE}

    within(main)


def test_of_a_fleet_that_was_listened_to_for_an_hour_nobody_is_overdue(within: Within) -> None:
    async def main(world: World) -> None:
        await world.bridge(since=HOUR)
        await world.device("PB-1", silent=30 * DAY, habit_days=1)
        await world.device("PB-2", silent=400 * DAY, habit_days=2)
        assert await world.look() == []
        await world.later(22 * HOUR)
        assert await world.look() == []
        await world.later(2 * HOUR)
        assert await world.look() == ["PB-1"]
        await world.later(22 * HOUR)
        assert await world.look() == ["PB-1"]
        await world.later(2 * HOUR)
        assert await world.look() == ["PB-1", "PB-2"]
        assert world.alerts.reasons() == {}

    within(main)


def test_after_all_bridges_were_away_for_two_days_only_what_counts_makes_a_device_overdue(
    within: Within,
) -> None:
    async def main(world: World) -> None:
        await world.bridge()
        # An hour before it is overdue all bridges go.
        await world.device("PB-1", silent=2 * DAY - HOUR)
        assert await world.look() == []
        await world.away(2 * DAY, "bridge-0")
        assert await world.look() == []
        await world.later(HOUR - timedelta(minutes=10))
        assert await world.look() == []
        await world.later(timedelta(minutes=11))
        assert await world.look() == ["PB-1"]

    within(main)


def test_what_the_broker_held_comes_in_before_anybody_is_called_overdue(within: Within) -> None:
    """A minute before it is overdue all bridges go; what it sent meanwhile may take minutes to come in."""

    async def main(world: World) -> None:
        await world.bridge()
        await world.device("PB-1", silent=2 * DAY - timedelta(minutes=1))
        await world.device("PB-2", silent=2 * DAY - timedelta(minutes=1))
        await world.away(DAY, "bridge-0")
        await world.later(timedelta(minutes=5))
        assert overdue_devices(world.fleet.fleet) == {"PB-1", "PB-2"}
        assert await world.look() == []
        assert world.duty.looks_skipped == 1
        await world.heard("PB-1", ago=timedelta(minutes=1))
        await world.later(LISTENED)
        assert await world.look() == ["PB-2"]
        assert world.duty.looks_skipped == 1

    within(main)


def test_while_one_of_two_bridges_is_away_the_broker_holds_its_share(within: Within) -> None:
    """It has stopped, so that the projection is complete without it, and the other one listens."""

    async def main(world: World) -> None:
        await world.bridge("bridge-0")
        await world.bridge("bridge-1")
        await world.device("PB-1", silent=DAY)
        del world.listen_since["bridge-1"]
        await world.later(2 * DAY)
        assert overdue_devices(world.fleet.fleet) == {"PB-1"}
        assert await world.look() == []
        # It is back, and what was held for it comes in.
        world.listen_since["bridge-1"] = world.now()
        await world.later(LISTENED - timedelta(minutes=1))
        assert await world.look() == []
        await world.heard("PB-1", ago=timedelta(minutes=1))
        await world.later(timedelta(minutes=2))
        assert await world.look() == []

        # One that does not come back is forgotten.
        del world.listen_since["bridge-1"]
        await world.later(3 * DAY)
        assert await world.look(5) == []
        await world.registry.forget("bridge-1")
        await world.projection.leave("bridge-1")
        await asyncio.sleep(FRESH_S)
        assert await world.look(1) == ["PB-1"]

    within(main)


def test_without_any_bridge_nobody_knows_who_is_silent(within: Within) -> None:
    async def main(world: World) -> None:
        await world.bridge()
        await world.device("PB-1", silent=3 * DAY)
        await world.registry.forget("bridge-0")
        await world.projection.leave("bridge-0")
        await asyncio.sleep(FRESH_S)
        assert await world.look() == []

    within(main)


def test_a_look_does_nothing_while_the_fleet_is_not_all_that_is_known(within: Within) -> None:
    async def main(world: World) -> None:
        await world.bridge()
        await world.device("PB-1", "PB-2", silent=3 * DAY)
        assert await world.look() == ["PB-1", "PB-2"]
        await world.device("PB-3", silent=3 * DAY)
        assert await world.look(1) == ["PB-1", "PB-2"]
        await world.heard("PB-1")
        world.alerts.calls.clear()

        await world.projection.set_watermark("bridge-0", 1, catching_up=True)
        await asyncio.sleep(FRESH_S)
        for _ in range(3):
            await world.duty.look()
        assert (world.duty.looks_skipped, world.alerts.calls) == (3, [])

        # Of two looks in a row none was skipped.
        await world.projection.set_watermark("bridge-0", 1, catching_up=False, stopped="a")
        await world.projection.finish_catch_up("bridge-0")
        await asyncio.sleep(FRESH_S)
        assert await world.look(1) == ["PB-2"]
        assert await world.look(1) == ["PB-2", "PB-3"]

    within(main)


def test_an_emptied_projection_closes_nothing_and_opens_nothing(within: Within) -> None:
    async def main(world: World) -> None:
        await world.bridge()
        await world.device("PB-1", silent=3 * DAY)
        assert await world.look() == ["PB-1"]
        kept = dict(world.projection.states)
        await world.projection.begin_rebuild("bridge-0", [], from_nothing=True)
        await asyncio.sleep(FRESH_S)
        for _ in range(3):
            await world.duty.look()
        assert world.alerts.open_ones() == ["PB-1"]
        await world.projection.apply(kept)
        await world.projection.finish_rebuild("bridge-0")
        await asyncio.sleep(FRESH_S)
        assert await world.look() == ["PB-1"]
        assert len(world.alerts.alerts) == 1

    within(main)


DEVICES = [f"PB-{number:02}" for number in range(10)]


async def until_nothing_changes(world: World) -> None:
    """A worker after another, each of which ends with its first failure, until one has nothing to do."""
    while True:
        duty = world.another_duty()
        before = list(world.alerts.alerts)
        try:
            for _ in range(3):
                await duty.look()
        except MongodbUnavailable:
            continue
        if world.alerts.alerts == before:
            return


@pytest.mark.parametrize("has_done", [False, True], ids=["before", "after"])
def test_a_worker_that_is_killed_anywhere_opens_none_twice_and_loses_none(
    within: Within, has_done: bool
) -> None:
    """With ten devices a worker reads once, opens in four writes, reads again and closes in four."""

    async def main(world: World) -> None:
        await world.bridge()
        await world.device(*DEVICES, "PB-well", silent=3 * DAY)
        await world.heard("PB-well")
        await asyncio.sleep(FRESH_S)
        world.alerts.has_done = has_done
        for fails_at in range(1, 9):
            world.alerts.alerts.clear()
            world.alerts.calls.clear()
            world.alerts.fails_at = fails_at
            await until_nothing_changes(world)
            assert world.alerts.open_ones() == DEVICES
            assert len(world.alerts.alerts) == len(DEVICES)

        opened = list(world.alerts.alerts)
        await world.heard(*DEVICES[:7])
        world.says(*(DirectoryDevice(device_id=each, habit_days=2, retired=True) for each in DEVICES[7:]))
        await asyncio.sleep(FRESH_S)
        due = dict.fromkeys(DEVICES[:7], CloseReason.HEARD) | dict.fromkeys(DEVICES[7:], CloseReason.RETIRED)
        for fails_at in range(1, 12):
            world.alerts.alerts[:] = opened
            world.alerts.calls.clear()
            world.alerts.fails_at = fails_at
            await until_nothing_changes(world)
            assert world.alerts.reasons() == due
            assert len(world.alerts.alerts) == len(DEVICES)

    within(main)


def test_two_workers_that_both_believe_to_have_the_duty_open_and_close_once(within: Within) -> None:
    async def main(world: World) -> None:
        await world.bridge()
        await world.device(*DEVICES, silent=3 * DAY)
        duties = [world.another_duty(), world.another_duty()]
        for _ in range(2):
            await asyncio.gather(*(duty.look() for duty in duties))
        assert world.alerts.open_ones() == DEVICES
        assert len(world.alerts.alerts) == len(DEVICES) == sum(duty.opened for duty in duties)
        await world.heard(*DEVICES)
        await asyncio.sleep(FRESH_S)
        await asyncio.gather(*(duty.look() for duty in duties))
        assert world.alerts.open_ones() == []
        assert sum(duty.closed for duty in duties) == len(DEVICES)

    within(main)


def test_what_another_wrote_late_is_put_right_within_minutes(within: Within) -> None:
    async def main(world: World) -> None:
        await world.bridge()
        await world.device("PB-1", silent=3 * DAY)
        await world.device("PB-2", silent=HOUR)
        assert await world.look() == ["PB-1"]
        await world.alerts.resolve(Rule.OVERDUE, ["PB-1"], world.now(), CloseReason.HEARD)
        await world.alerts.open(Rule.OVERDUE, {"PB-2": 0}, world.now())
        await asyncio.sleep(limits.OVERDUE_REREAD_S)
        assert await world.look() == ["PB-1"]

    within(main)


def test_a_look_asks_mongodb_nothing_and_writes_are_in_batches(
    within: Within, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(world: World) -> None:
        monkeypatch.setattr(limits, "ALERTS_BATCH", 100)
        monkeypatch.setattr(limits, "ALERTS_PAGE", 1000)
        many = [f"PB-{number:04}" for number in range(1050)]
        await world.bridge()
        await world.device(*many, silent=3 * DAY)
        reads = Counter[str]()
        intervals_since = world.listening.intervals_since

        async def counted(since_ms: int) -> Any:
            reads["listening"] += 1
            return await intervals_since(since_ms)

        world.duty._listened._listening.intervals_since = counted  # type: ignore[method-assign]
        for _ in range(2):
            await world.duty.look()
        assert Counter(world.alerts.calls) == {"find": 1, "open": 11}
        assert len(world.alerts.open_ones()) == len(many)
        world.alerts.calls.clear()
        before = reads["listening"]
        for _ in range(10):
            await world.duty.look()
        assert (world.alerts.calls, reads["listening"]) == ([], before)
        # Another worker reads them once.
        world.duty = world.another_duty()
        for _ in range(10):
            await world.duty.look()
        assert world.alerts.calls == ["find", "find"]
        world.alerts.calls.clear()
        await world.heard(*many)
        await asyncio.sleep(FRESH_S)
        await world.duty.look()
        assert world.alerts.calls == ["resolve"] * 11

    within(main)


def test_a_device_that_is_heard_while_others_are_written_has_none(within: Within) -> None:
    async def main(world: World) -> None:
        await world.bridge()
        await world.device(*DEVICES, silent=3 * DAY)
        assert await world.look(1) == []
        write = world.alerts.open

        async def slowly(rule: Rule, streaks: Mapping[str, int], now: datetime) -> set[str]:
            if not world.alerts.alerts:
                await world.heard(DEVICES[-1])
                await asyncio.sleep(FRESH_S)
            return await write(rule, streaks, now)

        world.alerts.open = slowly  # type: ignore[method-assign]
        assert await world.look(1) == DEVICES[:-1]

    within(main)


def test_what_bridges_do_leaves_these_alerts_alone(within: Within) -> None:
    """The judge knows its own rules, and so does a comparison of everything, and a rebuild."""

    async def main(world: World) -> None:
        await world.bridge()
        await world.device("PB-1", silent=3 * DAY)
        assert await world.look() == ["PB-1"]
        before = list(world.alerts.alerts)
        rules = all_rules(events=MemoryEventStore(), projection=world.projection)
        assert [rule.rule for rule in rules] == [Rule.STREAK]
        judge = Judge(store=world.alerts, rules=rules)
        assert await judge.compare() == []
        await world.projection.begin_rebuild("bridge-0", await judge.open_devices(Rule.STREAK))
        await world.projection.finish_rebuild("bridge-0")
        await judge.handle(await judge.compare())
        assert world.alerts.alerts == before

    within(main)


def test_who_is_overdue_is_who_the_list_says_but_for_the_retired(within: Within) -> None:
    async def main(world: World) -> None:
        await world.bridge()
        await world.device("PB-1", "PB-2", silent=3 * DAY)
        await world.device("PB-3", silent=DAY)
        await world.device("PB-4", silent=9 * DAY, retired=True)
        world.says(DirectoryDevice(device_id="PB-5"))
        await asyncio.sleep(FRESH_S)
        fleet = world.fleet.fleet
        which = FleetFilter(states=frozenset({Status.OVERDUE}))
        listed = page(fleet, which, sort=FleetSort.DEVICE_ID, limit=9, now_ms=to_ms(world.now()))
        assert overdue_devices(fleet) == {each.device_id for each in listed.devices} == {"PB-1", "PB-2"}
        found = silent_devices(fleet, ["PB-1", "PB-3", "PB-4", "PB-5", "PB-none", "PB-1"])
        assert [device.is_due for device in found] == [True, False, False, False, False, True]
        assert [device.is_retired for device in found] == [False, False, True, False, False, False]
        unknown = [device.received_ms is None for device in found]
        assert unknown == [False, False, False, True, True, False]

    within(main)


def test_of_an_empty_fleet_nothing_is_known(within: Within) -> None:
    async def main(world: World) -> None:
        await world.bridge()
        await asyncio.sleep(FRESH_S)
        fleet = world.fleet.fleet
        assert (overdue_devices(fleet), silent_devices(fleet, [])) == (frozenset(), [])
        unknown = SilentDevice(is_due=False, received_ms=None, is_retired=False)
        assert silent_devices(fleet, ["PB-1"]) == [unknown]

    within(main)


@given(
    habit=st.integers(1, limits.DIRECTORY_HABIT_DAYS_MAX),
    over_ms=st.integers(1, 10**10),
    back_ms=st.integers(-round(limits.CLOCK_DIFFERENCE_S_MAX * 1000), 10**10),
)
def test_what_was_received_since_ended_the_silence_and_what_it_began_with_did_not(
    habit: int, over_ms: int, back_ms: int
) -> None:
    """Whatever the clocks of who received it and of who opened the alert differ by, as far as they may."""

    def reason(received_ms: int | None, *, is_retired: bool = False) -> CloseReason:
        return end_of_silence(opened_at=NOW, received_ms=received_ms, is_retired=is_retired)

    began_ms = to_ms(NOW - habit * DAY) - over_ms + round(limits.CLOCK_DIFFERENCE_S_MAX * 1000)
    assert reason(began_ms) is CloseReason.USUAL
    assert reason(to_ms(NOW) + back_ms) is CloseReason.HEARD
    assert reason(None) is CloseReason.GONE
    assert reason(began_ms, is_retired=True) is CloseReason.RETIRED
