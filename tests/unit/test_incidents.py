"""One outage is one line: when there is an incident, its life, and what becomes of it whatever happens.

Time is virtual: the loop's, and a wall clock that goes with it.
"""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.freshness import FleetState, Freshness
from fleet.incidents import devices_of
from fleet.index import Fleet
from pisync import clock, limits
from pisync.clock import from_ms, to_ms
from pisync.domain import incidents as domain
from pisync.domain.alerts import Rule
from pisync.domain.calendars import EVERY_DAY, silence_limit_ms
from pisync.domain.device_state import DeviceState, project
from pisync.domain.directory import DirectoryDevice, Site
from pisync.domain.events import ErrorDetail, SyncEvent
from pisync.domain.habits import HABIT_DAYS
from pisync.domain.incidents import (
    Evidence,
    Held,
    Incident,
    IncidentKey,
    IncidentKind,
    are_many,
    explains,
    goes_on,
    is_site_failing,
    is_spreading,
    log_chance,
    may_explain,
    sentence,
)
from pisync.domain.rollups import Figures, Progress, Span, Unit
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.events import EventStore
from pisync.stores.interfaces.feed import StateSummary
from pisync.stores.interfaces.incidents import IncidentQuery
from pisync.stores.interfaces.listening import ListeningInterval
from pisync.stores.interfaces.rollups import Part
from pisync.stores.memory.events import MemoryEventStore
from pisync.stores.memory.incidents import MemoryIncidentStore
from pisync.stores.memory.rollups import MemoryRollupStore
from tests.support.samples import event_at
from tests.support.virtual_time import run
from tests.unit.test_fleet_failing import COMPLETE
from worker.incidents import Inferring
from worker.listened import Listened

# A Monday, 09:30 UTC.
NOW: Final = datetime.fromisoformat("2026-06-01T09:30:00+00:00")
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
EIGHT = datetime.fromisoformat("2026-06-01T08:12:00+00:00")
OPENS_S, CLOSES_S = limits.INCIDENT_OPENS_AFTER_S, limits.INCIDENT_CLOSES_AFTER_S
LOOK_S = limits.INCIDENTS_INTERVAL_S
FAILING, SILENT, SPREADING = IncidentKind


def failure(device_id: str, moment: datetime, code: str = "E_TIMEOUT") -> SyncEvent:
    return event_at(to_ms(moment), device_id, errors=1, details=[ErrorDetail(code=code, message="")])


def success(device_id: str, moment: datetime) -> SyncEvent:
    return event_at(to_ms(moment), device_id)


class Incidents(MemoryIncidentStore):
    """Fails at the write that a test chooses, before or after doing it."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.fails_at: int | None = None
        self.has_done = False

    async def open(self, incident: Incident) -> bool:
        return await self._call(partial(super().open, incident))

    async def reopen(self, incident: Incident) -> bool:
        return await self._call(partial(super().reopen, incident))

    async def write(self, incident: Incident) -> bool:
        return await self._call(partial(super().write, incident))

    async def _call(self, do: Callable[[], Awaitable[bool]]) -> bool:
        self.writes += 1
        is_chosen = self.fails_at == self.writes
        if is_chosen and not self.has_done:
            raise MongodbUnavailable("gone")
        done = await do()
        await asyncio.sleep(0)
        if is_chosen:
            raise MongodbUnavailable("gone, and it is not known whether it was done")
        return done


class World:
    """A fleet that knows what came in, and the duty of a worker."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.is_complete = True
        self.states: dict[str, DeviceState] = {}
        self.events: EventStore = MemoryEventStore()
        self.rollups, self.store = MemoryRollupStore(), Incidents()
        # The only bridge, and since when it listens.
        self.listens_since = NOW - DAY
        self.duty = self.another()
        # A loop whose time is the machine's begins with how long that has been up.
        self._began_s = asyncio.get_running_loop().time()

    @property
    def freshness(self) -> Freshness:
        state = FleetState.CURRENT if self.is_complete else FleetState.STALE
        return Freshness(state=state, as_of=self.now(), projection=COMPLETE)

    def now(self) -> datetime:
        return NOW + timedelta(seconds=asyncio.get_running_loop().time() - self._began_s)

    def another(self) -> Inferring:
        return Inferring(
            store=self.store,
            events=self.events,
            rollups=self.rollups,
            served=self,
            listened=Listened(lambda: {"bridge-0": "life"}, self),
        )

    async def intervals_since(self, since_ms: int) -> list[ListeningInterval]:
        """When the bridge listened, as the record of listening tells it."""
        now_ms = to_ms(self.now())
        assert since_ms < now_ms
        return [ListeningInterval("bridge-0", to_ms(self.listens_since), now_ms)]

    async def take(self, events: Iterable[SyncEvent], received: datetime | None = None) -> None:
        """As if a bridge had taken these in."""
        events = list(events)
        received = self.now() if received is None else received
        await self.events.insert(events, received)
        receipts = [None if each is None else to_ms(each) for each in await self.events.received(events)]
        for device_id, state in project(events, receipts).items():
            known = self.states.get(device_id)
            self.states[device_id] = state if known is None else known.merge(state)
            self.fleet.apply([(device_id, StateSummary.of(self.states[device_id]))])
        self.fleet.settle()

    def has_site(self, site: str, device_ids: Sequence[str]) -> None:
        self.fleet.set_devices([DirectoryDevice(device_id=each, site=site) for each in device_ids])
        self.fleet.settle()

    async def school(self, site: str = "S-1", devices: int = 40, days: int = 6) -> list[str]:
        """A site whose devices were good on each of so many days before today."""
        ids = [f"{site}-{number}" for number in range(devices)]
        self.has_site(site, ids)
        for back in range(days, 0, -1):
            moment = NOW - back * DAY
            await self.take([success(each, moment) for each in ids], moment)
        return ids

    def limit_silence(self) -> None:
        """Find anew since when a device must be silent to be overdue."""
        now_ms = to_ms(self.now())
        self.fleet.set_limits(
            {(EVERY_DAY, days): silence_limit_ms(EVERY_DAY, days, now_ms, ()) for days in HABIT_DAYS}
        )

    async def look(self, seconds: float = OPENS_S) -> None:
        """Have the duty look again and again for so long, and once more."""
        for _ in range(round(seconds / LOOK_S) + 1):
            await self.duty.look()
            await asyncio.sleep(LOOK_S)

    async def all(self) -> list[Incident]:
        return await self.store.find(IncidentQuery(limit=100))

    async def only(self) -> Incident:
        [found] = await self.all()
        return found


def world(test: Callable[[World], Awaitable[None]]) -> Callable[[pytest.MonkeyPatch], None]:
    """A test in virtual time, with a world of its own."""

    def in_world(monkeypatch: pytest.MonkeyPatch) -> None:
        in_virtual_time(monkeypatch, test)

    in_world.__name__ = getattr(test, "__name__", "test")
    return in_world


def in_virtual_time(monkeypatch: pytest.MonkeyPatch, test: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        made = World()
        with monkeypatch.context() as patch:
            patch.setattr(clock, "now", made.now)
            await test(made)

    run(main)


# The rule


@given(st.integers(1, 200), st.data())
def test_the_bound_is_a_bound_of_the_binomial_tail(of: int, data: Any) -> None:
    found = data.draw(st.integers(0, of))
    chance = data.draw(st.floats(0.001, 0.999))
    tail = math.fsum(
        math.exp(
            math.lgamma(of + 1)
            - math.lgamma(k + 1)
            - math.lgamma(of - k + 1)
            + k * math.log(chance)
            + (of - k) * math.log1p(-chance)
        )
        for k in range(found, of + 1)
    )
    bound = math.exp(log_chance(chance * of, of, found))
    assert tail <= bound * (1 + 1e-9)
    if found == of:
        assert bound == pytest.approx(tail)


def test_two_of_thirteen_are_not_many_and_three_of_five_are() -> None:
    assert not are_many(2, 13)
    assert [are_many(2, 2), are_many(3, 3), are_many(3, 5), are_many(5, 9), are_many(6, 10)] == [
        *(False, True, True, False, True)
    ]
    assert is_site_failing(tried=40, failing=38, alike=38, expected=1)
    assert not is_site_failing(tried=40, failing=38, alike=20, expected=1)  # of two codes none dominates
    assert not is_site_failing(tried=40, failing=38, alike=38, expected=32)  # they fail like that always
    assert not is_site_failing(tried=13, failing=2, alike=2, expected=0.1)


def test_a_code_spreads_over_sites_and_beyond_what_is_usual() -> None:
    assert is_spreading(devices=12, sites=4, at_one_site=3, usual=1)
    assert not is_spreading(devices=12, sites=2, at_one_site=6, usual=1)
    assert not is_spreading(devices=12, sites=4, at_one_site=9, usual=1)
    assert not is_spreading(devices=12, sites=4, at_one_site=3, usual=7)
    assert not is_spreading(devices=9, sites=9, at_one_site=1, usual=0)
    assert not is_spreading(devices=120, sites=40, at_one_site=3, usual=97)


def test_an_incident_goes_on_by_less_than_it_was_opened_by() -> None:
    assert goes_on(FAILING, Evidence(14, 40))
    assert not goes_on(FAILING, Evidence(13, 40))
    assert not goes_on(FAILING, Evidence(1, 2))
    assert goes_on(SPREADING, Evidence(9, 9, 4, 6))
    assert not goes_on(SPREADING, Evidence(8, 8, 4, 6))
    assert not goes_on(SPREADING, Evidence(4, 4, 4, 0))


def test_what_holds_is_told_once_it_has_held_without_a_break() -> None:
    held = Held[str](120)
    assert held.look(["a", "b"], 0) == set()
    assert held.look(["a"], 60) == set()
    assert held.look(["a", "b"], 120) == {"a"}
    assert held.look(["a", "b"], 239) == {"a"}
    assert held.look(["b"], 240) == {"b"}
    held.forget()
    assert held.look(["b"], 300) == set()


def test_the_evidence_in_words() -> None:
    at = EIGHT
    failing = IncidentKey(FAILING, "S-1", "E_TIMEOUT")
    assert sentence(failing, Evidence(38, 40), at) == (
        "38 of the 40 that tried, E_TIMEOUT, since 1 Jun 08:12 UTC"
    )
    assert sentence(failing, Evidence(38, 40), at, "Africa/Nairobi").endswith("1 Jun 11:12 Africa/Nairobi")
    assert "no code told" in sentence(failing._replace(code=""), Evidence(3, 3), at)
    assert "\x1b" not in sentence(failing._replace(code="\x1b[2J"), Evidence(3, 3), at)
    assert sentence(IncidentKey(SILENT, "S-1", None), Evidence(31, 34), at) == (
        "31 of the 34 usually heard are silent, since 1 Jun 08:12 UTC"
    )
    assert sentence(IncidentKey(SPREADING, None, "E_DISK"), Evidence(57, 57, 12, 8), at) == (
        "57 devices at 12 sites fail by E_DISK, usually 8, since 1 Jun 08:12 UTC"
    )


# Sites whose devices fail alike


def morning(ids: Sequence[str], code: str = "E_TIMEOUT", tries: int = 3) -> list[SyncEvent]:
    """Each of these fails so often within an hour from 08:12 on."""
    return [
        failure(each, EIGHT + timedelta(seconds=3600 * (place + step * len(ids)) / (tries * len(ids))), code)
        for place, each in enumerate(ids)
        for step in range(tries)
    ]


@world
async def test_500_devices_of_a_school_are_one_incident_out_of_order_twice_and_with_a_restart(
    w: World,
) -> None:
    ids = await w.school(devices=500, days=3)
    events = morning(ids)
    random.Random(1).shuffle(events)
    for start in range(0, len(events), 375):
        await w.take(events[start : start + 375])
        await w.look(OPENS_S)
        w.duty = w.another()
    await w.take(events)
    await w.look()
    found = await w.only()
    assert found.key == IncidentKey(FAILING, "S-1", "E_TIMEOUT")
    assert found.evidence[:2] == (500, 500)
    assert found.peak == 500
    assert found.since == EIGHT
    assert found.sentence == "500 of the 500 that tried, E_TIMEOUT, since 1 Jun 08:12 UTC"
    assert found.closed_at is None
    rows = devices_of(w.fleet, found.key, to_ms(found.began_at), to_ms(w.now()))
    assert sorted(w.fleet.ids.ids_of(rows)) == sorted(ids)


@world
async def test_two_of_thirteen_are_no_incident(w: World) -> None:
    ids = await w.school(devices=13)
    await w.take(morning(ids[:2]))
    await w.take([success(each, EIGHT + timedelta(hours=1)) for each in ids[2:]])
    await w.look()
    assert await w.all() == []


@world
async def test_what_devices_always_do_is_no_incident(w: World) -> None:
    ids = [f"PB-{number}" for number in range(10)]
    w.has_site("S-1", ids)
    for back in range(20, 0, -1):
        moment = NOW - back * DAY
        await w.take([failure(each, moment) for each in ids], moment)
        await w.take([success(each, moment + MINUTE) for each in ids], moment)
    await w.take(morning(ids))
    await w.look()
    assert await w.all() == []


@world
async def test_devices_without_a_site_and_retired_ones_make_none(w: World) -> None:
    lone = [f"PB-{number}" for number in range(20)]
    await w.take([success(each, NOW - DAY) for each in lone], NOW - DAY)
    await w.take(morning(lone))
    ids = await w.school(devices=20)
    w.fleet.set_devices([DirectoryDevice(device_id=each, site="S-1", retired=True) for each in ids])
    await w.take(morning(ids))
    await w.look()
    assert await w.all() == []


@world
async def test_a_late_backlog_of_old_failures_is_no_incident(w: World) -> None:
    ids = await w.school(devices=20, days=8)
    old = [failure(each, NOW - 10 * DAY + minute * MINUTE) for each in ids for minute in range(3)]
    await w.take(old)
    await w.look()
    assert await w.all() == []


@world
async def test_a_device_that_failed_before_for_its_own_reason_makes_it_no_older(w: World) -> None:
    ids = await w.school(devices=12)
    broken = [failure(ids[0], NOW - days * DAY) for days in (20, 10, 5)]
    w.states.pop(ids[0])
    await w.take([success(ids[0], NOW - 25 * DAY), *broken])
    await w.take(morning(ids))
    await w.look()
    # The second device is the first that began this morning.
    assert (await w.only()).since == EIGHT + timedelta(seconds=100)


@settings(max_examples=15, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 3))
def test_the_same_events_in_any_order_are_the_same_incident(order: random.Random, doubled: int) -> None:
    found: list[Incident] = []

    async def test(w: World) -> None:
        ids = await w.school(devices=6, days=4)
        events = [*morning(ids[:5]), success(ids[5], EIGHT + MINUTE), failure(ids[4], EIGHT + 50 * MINUTE)]
        if found:
            events += events[:doubled]
            order.shuffle(events)
        for each in events:
            await w.take([each])
        await w.look()
        found.append(await w.only())

    with pytest.MonkeyPatch.context() as patch:
        for _ in range(2):
            in_virtual_time(patch, test)
    first, other = found
    assert (first.key, first.since, first.evidence, first.sentence) == (
        *(other.key, other.since, other.evidence, other.sentence),
    )
    assert first.since == EIGHT
    assert first.evidence == Evidence(5, 6)


# Its life


@world
async def test_it_is_opened_after_two_minutes_while_all_is_known(w: World) -> None:
    ids = await w.school()
    await w.take(morning(ids[:38]))
    await w.look(OPENS_S - LOOK_S)
    assert await w.all() == []
    w.is_complete = False
    await w.look(OPENS_S)
    w.is_complete = True
    await w.look(OPENS_S - LOOK_S)
    assert await w.all() == []
    await w.duty.look()
    assert (await w.only()).evidence == Evidence(38, 38)
    assert w.duty.opened == 1


@world
async def test_it_grows_closes_after_a_while_and_comes_back_as_the_same(w: World) -> None:
    ids = await w.school()
    await w.take(morning(ids[:10], tries=1))
    await w.look()
    opened = await w.only()
    assert opened.evidence == Evidence(10, 10)
    await w.take(morning(ids[10:38], tries=1))
    await w.duty.look()
    grown = await w.only()
    assert (grown.evidence, grown.peak) == (Evidence(38, 38), 38)
    await w.take([success(each, w.now()) for each in ids[:30]])
    await w.look(CLOSES_S - LOOK_S)
    ebbing = await w.only()
    assert (ebbing.closed_at, ebbing.evidence, ebbing.peak) == (None, Evidence(8, 38), 38)
    await w.duty.look()
    closed = await w.only()
    assert closed.closed_at is not None
    await asyncio.sleep(3600)
    again = w.now()
    await w.take([failure(each, again) for each in ids])
    await w.look()
    same = await w.only()
    assert (same.incident_id, same.since, same.reopened) == (opened.incident_id, opened.since, 1)
    assert (same.closed_at, same.peak, same.evidence.devices) == (None, 40, 40)
    assert same.resumed_at == again
    await w.take([success(each, w.now()) for each in ids])
    await w.look(CLOSES_S)
    await asyncio.sleep(limits.INCIDENT_REOPENS_S + 1)
    await w.take([failure(each, w.now()) for each in ids])
    await w.look()
    newest, _ = await w.all()
    assert (newest.incident_id != same.incident_id, newest.reopened) == (True, 0)


@world
async def test_a_short_recovery_does_not_close_it(w: World) -> None:
    ids = await w.school()
    await w.take(morning(ids, tries=1))
    await w.look()
    await w.take([success(each, w.now()) for each in ids])
    await w.look(CLOSES_S / 2)
    await w.take([failure(each, w.now()) for each in ids])
    await w.look(CLOSES_S)
    found = await w.only()
    assert (found.closed_at, found.reopened) == (None, 0)


@pytest.mark.parametrize("has_done", [False, True])
@pytest.mark.parametrize("fails_at", [1, 2, 3, 4, 5])
def test_a_worker_killed_at_any_write_doubles_nothing(
    monkeypatch: pytest.MonkeyPatch, fails_at: int, has_done: bool
) -> None:
    async def test(w: World) -> None:
        w.store.fails_at, w.store.has_done = fails_at, has_done

        async def look(seconds: float) -> None:
            """As a worker, and after it another one."""
            try:
                await w.look(seconds)
            except MongodbUnavailable:
                w.duty = w.another()
                await w.look(seconds)

        ids = await w.school()
        await w.take(morning(ids[:10], tries=1))
        await look(OPENS_S)
        await w.take(morning(ids[10:], tries=1))
        await look(OPENS_S)
        await w.take([success(each, w.now()) for each in ids])
        await look(CLOSES_S)
        assert (await w.only()).closed_at is not None
        await w.take([failure(each, w.now()) for each in ids])
        await look(OPENS_S)
        found = await w.only()
        assert (found.reopened, found.closed_at, found.peak) == (1, None, 40)
        assert found.evidence == Evidence(40, 40)

    in_virtual_time(monkeypatch, test)


@world
async def test_two_workers_that_both_believe_to_have_the_duty_double_nothing(w: World) -> None:
    ids = await w.school()
    await w.take(morning(ids, tries=1))
    other = w.another()
    for _ in range(round(OPENS_S / LOOK_S) + 1):
        await asyncio.gather(w.duty.look(), other.look())
        await asyncio.sleep(LOOK_S)
    assert (await w.only()).evidence == Evidence(40, 40)
    assert w.duty.opened + other.opened == 1


# Sites that fell silent, and codes that spread


@world
async def test_a_site_that_fell_silent_as_one_is_an_incident_and_its_return_ends_it(w: World) -> None:
    ids = await w.school(devices=20, days=30)
    others = await w.school("S-2", devices=20, days=30)
    w.limit_silence()
    await w.look()
    assert await w.all() == []
    last = NOW - DAY
    for day in (1, 2, 3):
        await asyncio.sleep(DAY.total_seconds() - asyncio.get_running_loop().time() % DAY.total_seconds())
        await w.take([success(each, w.now()) for each in [*others, ids[0]]])
        w.limit_silence()
        if day == 1:
            await w.look()
            assert await w.all() == []
    await w.look()
    found = await w.only()
    assert found.key == IncidentKey(SILENT, "S-1", None)
    assert found.evidence == Evidence(19, 20)
    assert found.since == last
    assert found.sentence == "19 of the 20 usually heard are silent, since 31 May 09:30 UTC"
    await w.take([success(each, w.now()) for each in ids])
    await w.look(CLOSES_S)
    assert (await w.only()).closed_at is not None


@world
async def test_no_silence_of_a_site_is_told_before_the_bridges_have_listened_for_a_while(w: World) -> None:
    """After all were away the broker holds what devices sent meanwhile: they are not silent, we were deaf."""
    ids = await w.school(devices=20, days=30)
    others = await w.school("S-2", devices=20, days=30)
    for _ in range(3):
        await asyncio.sleep(DAY.total_seconds())
        await w.take([success(each, w.now()) for each in others])
    await asyncio.sleep(600)
    w.limit_silence()
    w.listens_since = w.now()
    failing = [failure(each, w.now() - n * MINUTE) for each in others for n in range(3)]
    await w.take(failing)
    await w.look(limits.OVERDUE_LISTENED_S - 2 * LOOK_S)
    assert [found.key.kind for found in await w.all()] == [FAILING], "what is no silence does not wait"
    await w.look(4 * LOOK_S)
    assert {found.key for found in await w.all()} > {IncidentKey(SILENT, "S-1", None)}
    assert len(ids) == 20


def failures_of(days: dict[int, int], code: str) -> Part:
    """So many failures of a code on some days back, one a rollup of an hour."""
    now_ms = to_ms(NOW)
    hours = {
        Unit.HOUR.floor(now_ms - back * Unit.DAY.ms - Unit.HOUR.ms): Figures(
            events=count, failures=count, codes={code: count}
        )
        for back, count in days.items()
    }
    return Part(Unit.HOUR, Span(0, now_ms), hours)


async def counted(w: World, days: dict[int, int], code: str = "E_DISK") -> None:
    now_ms = to_ms(NOW)
    await w.rollups.begin(1)
    await w.rollups.replace([failures_of(days, code)], 1)
    await w.rollups.save(Progress(covered=(Span(0, now_ms + Unit.DAY.ms),), closed_ms=now_ms), 1)


async def scattered(w: World, code: str = "E_DISK") -> list[str]:
    """Two devices of each of eight sites fail by a code this morning."""
    failing = []
    for site in range(8):
        ids = await w.school(f"S-{site}", devices=10, days=3)
        failing += ids[:2]
        await w.take([success(each, EIGHT) for each in ids[2:]])
    await w.take(morning(failing, code, tries=1))
    return failing


@world
async def test_a_code_that_rises_over_many_sites_is_one_incident(w: World) -> None:
    failing = await scattered(w)
    await w.look()
    assert await w.all() == []  # how frequent it was is not known
    await counted(w, {0: 16, 3: 7})
    await w.look(OPENS_S + limits.INCIDENT_CODES_INTERVAL_S)
    found = await w.only()
    assert found.key == IncidentKey(SPREADING, None, "E_DISK")
    assert found.evidence == Evidence(16, 16, 8, 7)
    assert found.since == EIGHT
    await w.take([success(each, w.now()) for each in failing[:12]])
    await w.look(CLOSES_S)
    assert (await w.only()).closed_at is not None


@world
async def test_a_code_that_is_as_frequent_as_usual_is_none(w: World) -> None:
    await scattered(w)
    await counted(w, {0: 16, **dict.fromkeys(range(1, 8), 16)})
    await w.look(OPENS_S + limits.INCIDENT_CODES_INTERVAL_S)
    assert await w.all() == []


@world
async def test_failing_sites_explain_a_code(w: World) -> None:
    for site in range(3):
        ids = await w.school(f"S-{site}", devices=10)
        await w.take(morning(ids, "E_DISK", tries=1))
    await counted(w, {0: 30})
    await w.look(OPENS_S + limits.INCIDENT_CODES_INTERVAL_S)
    assert sorted(each.key.kind for each in await w.all()) == [FAILING] * 3


# What it explains


def test_an_incident_explains_alerts_that_came_with_it() -> None:
    assert may_explain(Rule.STREAK, "S-1", "E_1") == [
        IncidentKey(FAILING, "S-1", "E_1"),
        IncidentKey(SPREADING, None, "E_1"),
    ]
    assert may_explain(Rule.STREAK, "S-1", None) == []
    assert may_explain(Rule.OVERDUE, "S-1", "E_1") == [IncidentKey(SILENT, "S-1", None)]

    def of(kind: IncidentKind) -> Incident:
        return Incident(
            incident_id="1",
            key=IncidentKey(kind, "S-1", None),
            since=EIGHT,
            opened_at=NOW,
            evidence=Evidence(3, 3),
            peak=3,
            sentence="",
            updated_at=NOW,
        )

    assert explains(of(FAILING), opened_at=EIGHT, received_at=NOW)
    assert not explains(of(FAILING), opened_at=EIGHT - DAY, received_at=NOW)
    assert explains(of(SILENT), opened_at=NOW, received_at=EIGHT)
    assert not explains(of(SILENT), opened_at=NOW, received_at=EIGHT + MINUTE)


@world
async def test_the_time_zone_is_that_of_the_site(w: World) -> None:
    ids = await w.school()
    w.fleet.set_sites([Site(site_id="S-1", time_zone="Africa/Nairobi")])
    await w.take(morning(ids))
    await w.look()
    assert (await w.only()).sentence.endswith("since 1 Jun 11:12 Africa/Nairobi")


def test_ids_sort_by_when_they_were_opened() -> None:
    ids = [domain.new_incident_id(from_ms(moment), "0") for moment in (0, 10**12, 2 * 10**12)]
    assert ids == sorted(ids)
