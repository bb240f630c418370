"""What operators are told: once for each transition, whoever looks, and whenever they are killed."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace as replaced
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from fleet.index import Fleet
from pisync import limits
from pisync.clock import to_ms
from pisync.domain.acknowledgements import Acknowledgement, Ended, Until, Why
from pisync.domain.acknowledgements import Subject as Acknowledged
from pisync.domain.acknowledgements import SubjectKind as AcknowledgedKind
from pisync.domain.alerts import Rule
from pisync.domain.directory import DirectoryDevice, Kind, Site
from pisync.domain.incidents import Evidence, Incident, IncidentKey, IncidentKind
from pisync.domain.notifications import Notification, Subject
from pisync.domain.recipients import Attempt, Mode, Topic
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.directory import EntryWrite
from pisync.stores.memory.acknowledgements import MemoryAcknowledgementStore
from pisync.stores.memory.alerts import MemoryAlertStore
from pisync.stores.memory.directory import MemoryDirectoryStore
from pisync.stores.memory.incidents import MemoryIncidentStore
from pisync.stores.memory.notifications import MemoryNotificationStore
from pisync.stores.memory.recipients import MemoryRecipientStore
from tests.support.notifications import recipient
from worker.notifications import Notifying
from worker.subjects import Subjects

START = datetime(2026, 6, 1, 12, tzinfo=UTC)
RECOVERY = Until()
FOLD = limits.NOTIFICATION_FOLD_S / 60
PAGES = "https://pisync.example.org"


class Notifications(MemoryNotificationStore):
    """Fails at the call that a test chooses, before or after doing it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.fails_at: int | None = None
        self.has_done = False

    async def add(self, notifications: Sequence[Notification]) -> int:
        return int(await self._call(partial(super().add, notifications)))

    async def tell(self, subjects: Sequence[Subject]) -> None:
        await self._call(partial(super().tell, subjects))

    async def end(self, subject_ids: Collection[str]) -> None:
        await self._call(partial(super().end, subject_ids))

    async def _call(self, do: Callable[[], Awaitable[Any]]) -> Any:
        self.calls += 1
        is_chosen = self.fails_at == self.calls
        if is_chosen and not self.has_done:
            raise MongodbUnavailable("gone")
        done = await do()
        await asyncio.sleep(0)
        if is_chosen:
            raise MongodbUnavailable("gone, and it is not known whether it was done")
        return done


class World:
    """Stores, a fleet, a clock, and a worker's duty."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.minute = 0.0
        monkeypatch.setattr("pisync.clock.now", self.now)
        self.store = Notifications()
        self.recipients = MemoryRecipientStore()
        self.incidents = MemoryIncidentStore()
        self.alerts = MemoryAlertStore()
        self.acknowledgements = MemoryAcknowledgementStore()
        self.directory = MemoryDirectoryStore()
        self.failing: dict[str, int] = {}
        self.served: Any = SimpleNamespace(fleet=Fleet(), freshness=SimpleNamespace(complete=True))
        self.duty = self.worker()

    def now(self) -> datetime:
        return START + timedelta(minutes=self.minute)

    def worker(self) -> Notifying:
        return Notifying(
            store=self.store,
            recipients=self.recipients,
            incidents=self.incidents,
            alerts=self.alerts,
            subjects=Subjects(
                directory=self.directory,
                acknowledgements=self.acknowledgements,
                failing=SimpleNamespace(devices=self.failing.get),
                served=self.served,
            ),
            served=self.served,
            public_url=PAGES,
        )

    async def tells(self, *recipients: Any) -> None:
        for each in recipients or (recipient(),):
            kept = await self.recipients.get(each.recipient_id)
            await self.recipients.write(each, 0 if kept is None else kept.version, self.now())

    async def say(self, *entries: DirectoryDevice | Site) -> None:
        for each in entries:
            kind = Kind.SITES if isinstance(each, Site) else Kind.DEVICES
            name = each.site_id if isinstance(each, Site) else each.device_id
            kept = (await self.directory.get(kind, [name])).get(name)
            version = 0 if kept is None else kept.version
            assert await self.directory.write(kind, [EntryWrite(entry=each, version=version)], "a")

    def devices(self, site: str, *device_ids: str, code: str = "E_TIMEOUT") -> None:
        """Have these devices fail, at this site."""
        fleet, first = self.served.fleet, self.served.fleet.size
        rows = np.arange(first, first + len(device_ids), dtype=np.int32)
        fleet.columns.make_room(first + len(device_ids))
        fleet.ids.add(rows, np.array([name.encode() for name in device_ids], "S16"))
        fleet.columns.site[rows] = fleet.sites.number(site)
        fleet.columns.code[rows] = fleet.codes.of(code)
        fleet.columns.streak[rows] = 3
        fleet.columns.received_ms[rows] = to_ms(self.now())

    def incident(self, number: int = 1, *, devices: int = 38, code: str = "E_TIMEOUT") -> Incident:
        return Incident(
            incident_id=f"{number:03}",
            key=IncidentKey(IncidentKind.SITE_FAILING, f"S-{number}", code),
            since=self.now() - timedelta(minutes=30),
            opened_at=self.now(),
            evidence=Evidence(devices, 40),
            peak=devices,
            sentence="",
            updated_at=self.now(),
        )

    async def acknowledge(self, kind: AcknowledgedKind, target: str, until: Until = RECOVERY) -> None:
        each = Acknowledgement(
            acknowledgement_id=f"ack-{target}-{self.minute}",
            subject=Acknowledged(kind=kind, target=target),
            who="a",
            at=self.now(),
            reason="",
            until=until,
            devices=38,
        )
        assert await self.acknowledgements.add(each)

    async def look(self, minute: float) -> list[str]:
        """What is new after a look then, as recipient, topic and text."""
        self.minute = minute
        before = set(self.store.notifications)
        await self.duty.look()
        return self.told(before)

    def told(self, before: Collection[str] = ()) -> list[str]:
        made = [each for name, each in self.store.notifications.items() if name not in before]
        return sorted(f"{each.recipient_id} {each.topic}: {each.text}" for each in made)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(monkeypatch)
    await made.tells()
    await made.say(Site(site_id="S-1", name="Kampala Primary", time_zone="Africa/Kampala", labels=("pilot",)))
    return made


LIBRARY = "PB-1 (Library) at Kampala Primary"
LINE = "Kampala Primary: 38 of the 40 devices that tried fail with E_TIMEOUT since 14:30 (UTC+3)"


async def test_an_incident_is_told_when_it_opens_closes_and_opens_again(world: World) -> None:
    assert await world.look(-1) == []
    world.minute = 0
    incident = world.incident()
    await world.incidents.open(incident)
    assert await world.look(0) == [f"office incident_opened: {LINE}"]
    assert await world.look(1) == []
    [made] = world.store.notifications.values()
    assert (made.url, made.site, made.code) == (f"{PAGES}/site/S-1", "S-1", "E_TIMEOUT")
    await world.incidents.write(replaced(incident, evidence=Evidence(2, 40), closed_at=world.now()))
    assert await world.look(2) == [f"office incident_closed: Over since 15:01 (UTC+3): {LINE}"]
    assert await world.look(3) == []
    again = replaced(incident, reopened=1, resumed_at=world.now())
    assert await world.incidents.reopen(again)
    assert await world.look(4) == [
        f"office incident_reopened: Again: {LINE.replace('14:30', '15:03')}",
    ]
    # Closed and opened again between two looks.
    await world.incidents.write(replaced(again, closed_at=world.now()))
    await world.incidents.reopen(replaced(again, reopened=2))
    assert [each.split(":")[0] for each in await world.look(5)] == [
        "office incident_closed",
        "office incident_reopened",
    ]
    assert await world.look(6) == []


async def test_each_recipient_is_told_what_its_filter_takes(world: World) -> None:
    await world.tells(
        recipient("by-site", sites=("S-2",)),
        recipient("by-label", labels=("pilot",)),
        recipient("by-topic", topics=(Topic.INCIDENT_CLOSED,)),
        recipient("disabled", disabled=True),
    )
    await world.incidents.open(world.incident())
    assert [each.split()[0] for each in await world.look(0)] == ["by-label", "office"]
    # Of what was told before, a new recipient is told no more.
    await world.tells(recipient("new"))
    assert await world.look(1) == []
    kept = world.incidents.incidents["001"]
    await world.incidents.write(replaced(kept, closed_at=world.now()))
    assert [each.split()[0] for each in await world.look(2)] == ["by-label", "by-topic", "new", "office"]


async def test_a_lone_alert_is_told_after_it_has_waited_for_an_incident(world: World) -> None:
    await world.say(DirectoryDevice(device_id="PB-1", name="Library", site="S-1"))
    world.devices("S-1", "PB-1")
    await world.alerts.open(Rule.STREAK, {"PB-1": 3}, world.now())
    await world.alerts.open(Rule.OVERDUE, {"PB-1": 0}, world.now())
    assert await world.look(FOLD - 0.1) == []
    assert await world.look(FOLD) == [
        f"office overdue_opened: {LIBRARY}: silent for longer than usual, since 15:00 (UTC+3)",
        f"office streak_opened: {LIBRARY}: fails again and again with E_TIMEOUT, since 15:00 (UTC+3)",
    ]
    assert await world.look(FOLD + 1) == []
    await world.alerts.resolve(Rule.STREAK, ["PB-1"], world.now())
    assert await world.look(FOLD + 2) == [
        "office streak_closed: PB-1 (Library) at Kampala Primary: works again, 15:11 (UTC+3)"
    ]
    assert await world.look(FOLD + 3) == []


async def test_500_devices_of_a_school_are_one_message_and_no_message_for_a_device(world: World) -> None:
    names = [f"PB-{number:03}" for number in range(500)]
    world.devices("S-1", *names)
    incident = replaced(world.incident(devices=500), evidence=Evidence(500, 500))
    await world.alerts.open(Rule.STREAK, dict.fromkeys(names, 3), world.now())
    assert await world.look(1) == []
    await world.incidents.open(incident)
    told = await world.look(2)
    assert [each.split(" fail")[0] for each in told] == [
        "office incident_opened: Kampala Primary: 500 of the 500 devices that tried"
    ]
    assert await world.look(FOLD * 3) == []
    # Those that do not recover with the others come back out when the incident ends.
    await world.alerts.resolve(Rule.STREAK, names[2:], world.now())
    assert await world.look(FOLD * 4) == []
    await world.incidents.write(replaced(incident, closed_at=world.now()))
    assert [each.split(":")[0] for each in await world.look(FOLD * 4 + 1)] == [
        "office incident_closed",
        "office streak_opened",
        "office streak_opened",
    ]


async def test_an_alert_that_ends_while_it_waits_is_never_told(world: World) -> None:
    world.devices("S-1", "PB-1")
    await world.alerts.open(Rule.STREAK, {"PB-1": 3}, world.now())
    await world.look(FOLD / 2)
    await world.alerts.resolve(Rule.STREAK, ["PB-1"], world.now())
    assert await world.look(FOLD * 2) == []


async def test_no_alert_of_a_device_is_told_while_the_fleet_is_not_all_that_is_known(world: World) -> None:
    world.devices("S-1", "PB-1")
    await world.alerts.open(Rule.STREAK, {"PB-1": 3}, world.now())
    await world.incidents.open(world.incident(2))
    world.served.freshness.complete = False
    assert [each.split(":")[0] for each in await world.look(FOLD)] == ["office incident_opened"]
    world.served.freshness.complete = True
    assert [each.split(":")[0] for each in await world.look(FOLD + 1)] == ["office streak_opened"]


async def test_what_is_acknowledged_is_quiet_until_it_ends(world: World) -> None:
    incident = world.incident()
    await world.incidents.open(incident)
    await world.acknowledge(AcknowledgedKind.INCIDENTS, "001", Until(more_devices=2))
    assert await world.look(0) == []
    await world.incidents.write(replaced(incident, evidence=Evidence(40, 40)))
    assert [each.split(":")[0] for each in await world.look(1)] == ["office incident_opened"]


async def test_quiet_at_nine_and_back_at_ten(world: World) -> None:
    """What was told, and then acknowledged until more devices are in it."""
    incident = world.incident()
    await world.incidents.open(incident)
    assert len(await world.look(0)) == 1
    await world.acknowledge(AcknowledgedKind.INCIDENTS, "001", Until(more_devices=2))
    assert await world.look(1) == []
    await world.incidents.write(replaced(incident, evidence=Evidence(39, 40)))
    assert await world.look(2) == []
    world.duty = world.worker()
    await world.incidents.write(replaced(incident, evidence=Evidence(40, 41)))
    assert await world.look(3) == [
        "office acknowledgement_over: No longer acknowledged: " + LINE.replace("38 of the 40", "40 of the 41")
    ]
    [kept] = await world.acknowledgements.open_by_target(AcknowledgedKind.INCIDENTS, 5, None)
    ended = Ended(at=world.now(), why=Why.MORE_DEVICES)
    await world.acknowledgements.end(kept.acknowledgement_id, ended)
    assert await world.look(4) == []


async def test_muted_retired_and_acknowledged_devices_and_causes_are_quiet(world: World) -> None:
    names = [f"PB-{number}" for number in range(1, 6)]
    world.devices("S-1", *names[:4])
    world.devices("S-1", names[4], code="E_DISK")
    world.failing["E_DISK"] = 1
    await world.say(
        DirectoryDevice(device_id="PB-1", muted_until=START + timedelta(minutes=FOLD * 2)),
        DirectoryDevice(device_id="PB-2", retired=True),
    )
    await world.alerts.open(Rule.STREAK, dict.fromkeys(names, 3), world.now())
    [third] = [each for each in world.alerts.alerts if each.device_id == "PB-3"]
    await world.acknowledge(AcknowledgedKind.ALERTS, third.alert_id)
    await world.acknowledge(AcknowledgedKind.CAUSES, "E_DISK")
    assert [each.split(" at")[0] for each in await world.look(FOLD)] == ["office streak_opened: PB-4"]
    assert [each.split(" at")[0] for each in await world.look(FOLD * 2)] == ["office streak_opened: PB-1"]
    # The end of what was told, of a device that is muted by now.
    await world.say(DirectoryDevice(device_id="PB-1", muted_until=START + timedelta(days=1)))
    await world.alerts.resolve(Rule.STREAK, names, world.now())
    assert [each.split(" at")[0] for each in await world.look(FOLD * 3)] == ["office streak_closed: PB-4"]


async def test_still_open_is_told_each_morning_but_not_of_what_is_quiet_and_not_for_ever(
    world: World,
) -> None:
    await world.tells(recipient("never", still_open_hours=0))
    await world.incidents.open(world.incident(1))
    await world.incidents.open(world.incident(2))
    await world.look(0)
    world.devices("S-3", "PB-1")
    await world.alerts.open(Rule.STREAK, {"PB-1": 3}, world.now())
    await world.look(FOLD)
    await world.acknowledge(AcknowledgedKind.INCIDENTS, "002")
    morning = 19 * 60  # after 12:00
    assert await world.look(morning - 1) == []
    first, since = LINE.replace("14:30", "1 Jun 14:30"), "since 1 Jun 12:00 (UTC)"
    told = [
        f"office still_open: Still open: PB-1 at S-3: fails again and again with E_TIMEOUT, {since}",
        f"office still_open: Still open: {first}",
    ]
    assert sorted(await world.look(morning)) == sorted(told)
    world.duty = world.worker()
    assert await world.look(morning + 23 * 60) == []
    days = 0
    for day in range(1, 20):
        days += bool(await world.look(morning + day * 24 * 60))
    assert days == limits.STILL_OPEN_TOLD_MAX - 1


async def test_an_incident_that_grows_is_told_each_time_it_doubles_and_no_device_is(world: World) -> None:
    start = replaced(world.incident(devices=5), evidence=Evidence(5, 400))
    await world.incidents.open(start)
    await world.look(0)
    told = []
    for minute in range(1, 120):
        devices = min(5 + 3 * minute, 320)
        await world.incidents.write(replaced(start, evidence=Evidence(devices, 400), peak=devices))
        if minute % 7 == 0:
            world.duty = world.worker()  # it knows only what is written down
        told += await world.look(minute)
    numbers = [int(each.split(": ")[3].split()[0]) for each in told]
    assert [each.split(":")[0] for each in told] == ["office incident_grew"] * len(told)
    # At twice, four times, … as many as at first, and where that comes within ten minutes once for both.
    assert numbers == [35, 65, 95, 161, 320]
    assert told[0].startswith("office incident_grew: Grew from 5: Kampala Primary: 35 of the 400 devices")
    # It shrinks, and grows again to what was told.
    for minute, devices in ((130, 20), (150, 320)):
        await world.incidents.write(replaced(start, evidence=Evidence(devices, 400), peak=320))
        assert await world.look(minute) == []


async def test_what_grew_while_it_was_acknowledged_is_told_with_the_end_of_that(world: World) -> None:
    start = world.incident(devices=10)
    await world.incidents.open(start)
    await world.look(0)
    await world.acknowledge(AcknowledgedKind.INCIDENTS, "001", Until(more_devices=80))
    for minute, devices in ((20, 45), (40, 90)):
        await world.incidents.write(replaced(start, evidence=Evidence(devices, 200), peak=devices))
        assert await world.look(minute) == []
    await world.incidents.write(replaced(start, evidence=Evidence(120, 200), peak=120))
    assert [each.split(":")[0] for each in await world.look(60)] == ["office acknowledgement_over"]
    assert await world.look(80) == []


async def test_a_digest_is_made_once_a_morning(world: World) -> None:
    await world.recipients.delete("office", 1)
    await world.tells(recipient("daily", mode=Mode.DIGEST, morning="07:00", time_zone="Africa/Kampala"))
    await world.incidents.open(world.incident())
    assert await world.look(0) == [f"daily incident_opened: {LINE}"]
    [opened] = world.store.notifications.values()
    morning = datetime.fromisoformat("2026-06-02T04:00:00Z")
    assert opened.due_at == morning
    due = (morning - START) / timedelta(minutes=1)
    assert await world.look(due - 1) == []
    [told] = await world.look(due)
    line = LINE.replace("14:30", "1 Jun 14:30")
    assert " ".join(told.split()) == f"daily digest: Open now: 1 incident. {line}"
    world.duty = world.worker()
    assert await world.look(due + 5) == []
    assert await world.store.oldest_due(world.now()) == {"daily": morning}


async def test_others_are_told_of_a_recipient_that_cannot_be_reached(world: World) -> None:
    await world.tells(recipient("other"))
    for number in range(limits.NOTIFIER_FAILING):
        assert await world.look(number) == []
        await world.recipients.attempted("office", Attempt(at=world.now(), message_id="m", why="gone"))
    assert await world.look(9) == [
        "other notifier_failing: The recipient office cannot be reached since 12:00 (UTC)"
    ]
    assert await world.look(10) == []
    await world.recipients.attempted("office", Attempt(at=world.now(), message_id="m"))
    assert await world.look(11) == []
    assert world.store.told == {}


async def script(world: World) -> None:
    """Openings, a fold, an end, and an acknowledgement that is over."""
    world.devices("S-1", "PB-1", code="E_DISK")
    world.minute = 0
    one, two = world.incident(1), world.incident(2)
    await world.incidents.open(one)
    await world.alerts.open(Rule.STREAK, {"PB-1": 3}, START)
    await world.acknowledge(AcknowledgedKind.INCIDENTS, "001", Until(more_devices=1))
    await world.incidents.open(two)
    changes: list[Callable[[], Awaitable[object]]] = [
        lambda: world.incidents.write(replaced(one, evidence=Evidence(39, 40))),
        lambda: world.incidents.write(replaced(two, closed_at=world.now())),
        lambda: world.alerts.resolve(Rule.STREAK, ["PB-1"], world.now()),
    ]
    for step, change in enumerate(changes, start=1):
        for _ in range(3):
            world.minute = step * FOLD
            try:
                await world.duty.look()
                break
            except MongodbUnavailable:
                world.duty = world.worker()
        await change()
    world.minute = 9 * FOLD
    for _ in range(2):
        try:
            await world.duty.look()
        except MongodbUnavailable:
            world.duty = world.worker()


async def test_a_worker_killed_at_any_write_tells_nothing_twice_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    undisturbed = World(monkeypatch)
    await undisturbed.tells()
    await script(undisturbed)
    assert len(undisturbed.store.notifications) == 5
    for has_done in (False, True):
        for fails_at in range(1, undisturbed.store.calls + 1):
            world = World(monkeypatch)
            await world.tells()
            world.store.fails_at, world.store.has_done = fails_at, has_done
            await script(world)
            told = [_without_nonce(name) for name in world.store.notifications]
            assert sorted(told) == sorted(map(_without_nonce, undisturbed.store.notifications)), fails_at
            assert world.store.told.keys() == undisturbed.store.told.keys()


def _without_nonce(name: str) -> str:
    """Ids of alerts are made up."""
    return "alert" + name[name.rindex(":") :] if name.startswith("alert:") else name


async def test_two_workers_that_both_think_they_have_the_duty_tell_everything_once(world: World) -> None:
    other = world.worker()
    world.devices("S-1", "PB-1", code="E_DISK")
    incident = world.incident()
    await world.incidents.open(incident)
    await world.alerts.open(Rule.STREAK, {"PB-1": 3}, world.now())
    for minute in (0, FOLD, FOLD + 1):
        world.minute = minute
        await asyncio.gather(world.duty.look(), other.look())
    assert len(world.store.notifications) == 2
    await world.incidents.write(replaced(incident, closed_at=world.now()))
    await world.alerts.resolve(Rule.STREAK, ["PB-1"], world.now())
    for minute in (FOLD + 2, FOLD + 3):
        world.minute = minute
        await asyncio.gather(world.duty.look(), other.look())
    assert len(world.store.notifications) == 4
    assert world.store.told == {}


async def test_two_workers_that_see_an_incident_grow_at_different_times_tell_it_once(world: World) -> None:
    other = world.worker()
    start = world.incident(devices=5)
    await world.incidents.open(start)
    await asyncio.gather(world.duty.look(), other.look())
    for minute, devices, worker in (
        (11, 12, world.duty),
        (12, 13, other),
        (30, 25, other),
        (31, 39, world.duty),
    ):
        world.minute = minute
        await world.incidents.write(replaced(start, evidence=Evidence(devices, 40)))
        await worker.look()
    told = sorted(name.partition("@")[0] for name in world.store.notifications)
    assert told == [f"incident:001:0:incident_{what}" for what in ("grew:1", "grew:2", "opened")]


async def test_a_worker_that_lost_its_lease_long_ago_does_no_harm(world: World) -> None:
    """It believes that something is open which another one told as closed."""
    stale = world.worker()
    incident = world.incident()
    await world.incidents.open(incident)
    await stale.look()
    world.minute = 1
    await world.incidents.write(replaced(incident, closed_at=world.now()))
    assert len(await world.look(2)) == 1
    await world.store.tell([replace(each, quiet_by=None) for each in (stale._told or {}).values()])
    await stale.look()
    world.duty = world.worker()
    assert await world.look(3) == []
    assert len(world.store.notifications) == 2
