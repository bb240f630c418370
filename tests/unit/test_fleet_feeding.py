"""The fleet in memory follows what feeds it, and says where it cannot be sure; in virtual time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import wraps
from typing import Any

import pytest

from fleet.feeding import Feeding
from fleet.freshness import FleetState
from fleet.query import FleetDevice, FleetFilter, FleetSort, device, page
from pisync import limits
from pisync.clock import Moment, now, to_ms
from pisync.domain.calendars import ListeningGap
from pisync.domain.days import DAY_MS
from pisync.domain.device_state import project
from pisync.domain.device_status import Status
from pisync.domain.directory import DirectoryDevice, Entry, Kind, Site
from pisync.errors import MongodbUnavailable, RedisUnavailable
from pisync.stores.interfaces.feed import Changes, FeedPosition
from pisync.stores.memory.projection import MemoryProjection
from tests.support.samples import attach_anew, event_at
from tests.support.virtual_time import run


class Projection(MemoryProjection):
    """One that can be away, or hang, or forget a device without a word."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.answers = asyncio.Event()
        self.answers.set()

    async def changes(self, after: FeedPosition | None) -> Changes:
        await self.answers.wait()
        if self.is_away:
            raise RedisUnavailable("it is away")
        return await super().changes(after)


@dataclass(frozen=True)
class Kept:
    entry: Entry
    changed_at: Moment
    is_deleted: bool = False


@dataclass
class Directory:
    """What its store answers; `reads` are the moments since which was asked."""

    entries: list[Kept] = field(default_factory=list)
    reads: list[tuple[Kind, Moment]] = field(default_factory=list)
    is_away: bool = False

    async def changed_since(self, kind: Kind, moment: Moment) -> AsyncIterator[Kept]:
        self.reads.append((kind, moment))
        if self.is_away:
            raise MongodbUnavailable("it is away")
        for kept in sorted(self.entries, key=lambda kept: kept.changed_at):
            if isinstance(kept.entry, Site) == (kind is Kind.SITES) and kept.changed_at >= moment:
                yield kept


@dataclass
class Listening:
    deaf: list[ListeningGap] = field(default_factory=list)
    is_away: bool = False

    async def gaps(self, since_ms: int, until_ms: int) -> list[ListeningGap]:
        if self.is_away:
            raise MongodbUnavailable("it is away")
        return self.deaf


class World:
    """The fleet and what feeds it."""

    def __init__(self) -> None:
        self.projection = Projection()
        self.directory = Directory()
        self.listening = Listening()
        self.feeding = Feeding(projection=self.projection, directory=self.directory, listening=self.listening)

    async def apply(self, *device_ids: str, days_ago: float = 0, errors: int = 0) -> None:
        """An event of each, which has been heard daily until so many days ago."""
        newest_ms = to_ms(now()) - round(days_ago * DAY_MS)
        moments = [newest_ms - day * DAY_MS for day in range(20)]
        events = [event_at(moment, each, errors=errors) for each in device_ids for moment in moments]
        await self.projection.apply(project(events, [to_ms(event.timestamp) for event in events]))

    @property
    def state(self) -> FleetState:
        return self.feeding.freshness.state

    def ids(self) -> list[str]:
        found = page(self.feeding.fleet, FleetFilter(), sort=FleetSort.DEVICE_ID, limit=10_000, now_ms=0)
        return [one.device_id for one in found.devices]

    def device(self, device_id: str) -> FleetDevice:
        found = device(self.feeding.fleet, device_id)
        assert found is not None
        return found


@asynccontextmanager
async def fed() -> AsyncIterator[World]:
    """A world whose projection is complete, and the fleet as it is fed."""
    world = World()
    await attach_anew(world.projection)
    await world.projection.set_watermark("bridge-0", 1, catching_up=False, stopped="a")
    world.projection._known = lambda: {"bridge-0": "a"}
    async with asyncio.TaskGroup() as group:
        task = group.create_task(world.feeding.run())
        yield world
        task.cancel()


def in_virtual_time(test: Callable[[World], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    async def main() -> None:
        async with fed() as world:
            await test(world)

    @wraps(test)
    def synchronous() -> None:
        run(main)

    del synchronous.__wrapped__  # pytest would look for a fixture of the argument's name
    return synchronous


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten devices a part, three at a time."""
    monkeypatch.setattr(limits, "CHANGES_AT_ONCE", 10)
    monkeypatch.setattr(limits, "FLEET_APPLIED_AT_ONCE", 3)


MANY = [f"PB-{number:03}" for number in range(95)]


@in_virtual_time
async def test_it_is_loaded_and_then_current(world: World) -> None:
    assert (world.state, world.feeding.freshness.as_of) == (FleetState.LOADING, None)
    await world.apply(*MANY)
    world.directory.entries.append(Kept(DirectoryDevice(device_id="PB-silent"), now()))
    await asyncio.sleep(2)
    assert world.ids() == [*MANY, "PB-silent"]
    freshness = world.feeding.freshness
    assert (freshness.state, freshness.complete, freshness.why) == (FleetState.CURRENT, True, None)
    assert (freshness.read, freshness.of) == (95, 95)
    await world.apply("PB-new")
    await asyncio.sleep(1.1)
    assert "PB-new" in world.ids()


@in_virtual_time
async def test_it_says_how_much_of_it_is_loaded(world: World) -> None:
    await world.apply(*MANY)
    while not world.feeding.freshness.read:
        await asyncio.sleep(0)
    freshness = world.feeding.freshness
    assert (freshness.state, freshness.complete, freshness.of) == (FleetState.LOADING, False, 95)
    assert 0 < freshness.read < 95


@in_virtual_time
async def test_it_is_complete_only_where_the_projection_is(world: World) -> None:
    await asyncio.sleep(2)
    assert world.feeding.freshness.complete
    await world.projection.set_watermark("bridge-0", 1, catching_up=True)
    await asyncio.sleep(1.1)
    freshness = world.feeding.freshness
    assert (freshness.state, freshness.complete) == (FleetState.CURRENT, False)
    assert freshness.projection is not None
    assert freshness.projection.behind == {"bridge-0"}


@in_virtual_time
async def test_of_many_changes_it_takes_a_part_and_says_how_many_are_left(world: World) -> None:
    await world.apply(*MANY)
    await asyncio.sleep(2)
    before = world.feeding.freshness.as_of
    await world.apply(*MANY, days_ago=-0.1, errors=1)
    while not world.feeding.freshness.behind:
        await asyncio.sleep(0)
    freshness = world.feeding.freshness
    assert (freshness.state, freshness.behind, freshness.as_of) == (FleetState.BEHIND, 85, before)
    assert not freshness.complete
    await asyncio.sleep(1)
    assert world.state is FleetState.CURRENT
    assert {world.device(each).streak for each in MANY} == {1}


@in_virtual_time
async def test_while_redis_is_away_it_is_what_it_was_and_says_since_when(world: World) -> None:
    await world.apply("PB-1")
    await asyncio.sleep(2)
    as_of = world.feeding.freshness.as_of
    world.projection.is_away = True
    await asyncio.sleep(1.1)
    freshness = world.feeding.freshness
    assert (freshness.state, freshness.as_of, freshness.complete) == (FleetState.STALE, as_of, False)
    assert freshness.why == "Redis is unavailable"
    assert world.ids() == ["PB-1"]
    world.projection.is_away = False
    await world.apply("PB-2")
    await asyncio.sleep(1.1)
    assert (world.state, world.ids()) == (FleetState.CURRENT, ["PB-1", "PB-2"])


@in_virtual_time
async def test_where_nothing_answers_it_is_not_fresh_either(world: World) -> None:
    await asyncio.sleep(2)
    world.projection.answers.clear()
    await asyncio.sleep(limits.FLEET_YOUNG_S + 2)
    freshness = world.feeding.freshness
    assert (freshness.state, freshness.why) == (FleetState.STALE, "nothing was read since")


@in_virtual_time
async def test_another_projection_is_read_beside_the_one_that_is_served(world: World) -> None:
    """Until it is built and read: half of it would be wrong."""
    world.directory.entries.append(Kept(DirectoryDevice(device_id="PB-000", name="Zero"), now()))
    await world.apply("PB-gone", *MANY)
    await asyncio.sleep(2)
    assert await world.projection.begin_rebuild("bridge-0", [], from_nothing=True)
    await world.apply(*MANY[:40], errors=1)
    for _ in range(3):
        await asyncio.sleep(1)
        freshness = world.feeding.freshness
        assert (freshness.state, freshness.complete) == (FleetState.STALE, False)
        assert freshness.why is not None
        assert world.ids() == [*MANY, "PB-gone"]
        assert world.device("PB-000").streak == 0
    assert (freshness.read, freshness.of) == (40, 40)
    # What the directory says meanwhile is told of both.
    world.directory.entries.append(Kept(DirectoryDevice(device_id="PB-001", name="One"), now()))
    await asyncio.sleep(limits.DIRECTORY_OVERLAP_S + 2)  # and not once more afterwards
    await world.apply(*MANY[40:], errors=1)
    await world.projection.finish_rebuild("bridge-0")
    await asyncio.sleep(3)
    assert (world.state, world.ids()) == (FleetState.CURRENT, MANY)
    assert {world.device(each).streak for each in MANY} == {20}
    assert [world.device(each).name for each in MANY[:2]] == ["Zero", "One"]


@in_virtual_time
async def test_a_device_that_is_gone_without_a_word_goes_when_everything_is_read_anew(world: World) -> None:
    await world.apply(*MANY)
    await asyncio.sleep(2)
    del world.projection.states["PB-007"]
    del world.projection._numbers["PB-007"]
    await asyncio.sleep(60)
    assert (world.state, len(world.ids())) == (FleetState.CURRENT, 95)
    await asyncio.sleep(limits.FLEET_REREAD_INTERVAL_S)
    assert (world.state, len(world.ids())) == (FleetState.CURRENT, 94)


@in_virtual_time
async def test_the_directory_is_followed_and_its_late_changes_are_not_missed(world: World) -> None:
    began = now()
    world.directory.entries.append(Kept(DirectoryDevice(device_id="PB-1", name="One"), began))
    await asyncio.sleep(2)
    # It was written before the other, and is visible after it.
    earlier = began - timedelta(seconds=limits.DIRECTORY_OVERLAP_S / 2)
    world.directory.entries.append(Kept(DirectoryDevice(device_id="PB-2", site="s"), earlier))
    world.directory.entries.append(Kept(Site(site_id="s", days_off=("friday",)), earlier))
    await asyncio.sleep(1.1)
    assert world.ids() == ["PB-1", "PB-2"]
    later = began + timedelta(seconds=1)
    world.directory.entries[0] = Kept(DirectoryDevice(device_id="PB-1"), later, is_deleted=True)
    await asyncio.sleep(1.1)
    assert world.ids() == ["PB-2"]
    # Once nothing can be late, nothing is read twice: a large import would be, every second.
    await asyncio.sleep(limits.DIRECTORY_OVERLAP_S + 1)
    world.directory.reads.clear()
    await asyncio.sleep(1.1)
    assert (Kind.DEVICES, later + timedelta(milliseconds=1)) in world.directory.reads
    await asyncio.sleep(limits.FLEET_REREAD_INTERVAL_S)
    assert min(moment for _, moment in world.directory.reads).year == 1970


@pytest.mark.parametrize("part", ["directory", "listening"])
def test_it_is_not_fresh_while_mongodb_is_away(part: str) -> None:
    @in_virtual_time
    async def test(world: World) -> None:
        getattr(world, part).is_away = True
        await asyncio.sleep(12)
        assert (world.state, world.feeding.freshness.why) == (FleetState.LOADING, "MongoDB is unavailable")
        getattr(world, part).is_away = False
        await asyncio.sleep(12)
        assert world.state is FleetState.CURRENT
        getattr(world, part).is_away = True
        await asyncio.sleep(12)
        assert (world.state, world.feeding.freshness.why) == (FleetState.STALE, "MongoDB is unavailable")

    test()


@in_virtual_time
async def test_who_is_silent_for_longer_than_usual_is_overdue_but_not_because_of_us(world: World) -> None:
    await world.apply("PB-1", days_ago=3)
    await world.apply("PB-2", days_ago=1)
    await asyncio.sleep(12)
    assert [world.device(each).state for each in ("PB-1", "PB-2")] == [Status.OVERDUE, Status.GOOD]
    now_ms = to_ms(now())
    world.listening.deaf = [ListeningGap(now_ms - 2 * DAY_MS, now_ms - DAY_MS // 2)]
    await asyncio.sleep(12)
    assert world.device("PB-1").state is Status.GOOD


@in_virtual_time
async def test_the_habit_and_the_calendar_of_a_device_that_are_new_count_within_seconds(world: World) -> None:
    await world.apply("PB-1", days_ago=3)
    await asyncio.sleep(2)
    assert world.device("PB-1").state is Status.OVERDUE
    world.directory.entries.append(Kept(DirectoryDevice(device_id="PB-1", habit_days=9), now()))
    await asyncio.sleep(2.5)
    assert (world.state, world.device("PB-1").state) == (FleetState.CURRENT, Status.GOOD)
    always = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
    world.directory.entries = [
        Kept(DirectoryDevice(device_id="PB-1", site="s"), now()),
        Kept(Site(site_id="s", days_off=always), now()),
    ]
    await asyncio.sleep(2.5)
    assert (world.state, world.device("PB-1").state) == (FleetState.CURRENT, Status.GOOD)
    world.directory.entries.append(Kept(Site(site_id="s"), now() + timedelta(seconds=1)))
    await asyncio.sleep(2.5)
    assert (world.state, world.device("PB-1").state) == (FleetState.CURRENT, Status.OVERDUE)
