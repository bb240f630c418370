"""Alerts beside the hot path: what is reported is handled, whatever is unavailable meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from bridge.alerts.judge import Alerts
from bridge.metrics import Metrics
from pisync import limits
from pisync.domain.alerts import AlertChange
from pisync.domain.device_state import project
from pisync.errors import RedisUnavailable
from pisync.settings import BridgeSettings
from pisync.stores.memory.alerts import MemoryAlertStore
from pisync.stores.memory.events import MemoryEventStore
from pisync.stores.memory.projection import MemoryProjection
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


class World:
    """Alerts over stores in memory."""

    def __init__(self) -> None:
        self.events = MemoryEventStore()
        self.streaks = Confirming()
        self.store = MemoryAlertStore()
        self.alerts = Alerts(
            store=self.store,
            events=self.events,
            projection=self.streaks,
            metrics=Metrics(BridgeSettings()),
        )

    async def fail(self, *device_ids: str, minutes: Sequence[int] = (0, 1, 2), errors: int = 1) -> None:
        batch = [event(device_id, minute, errors=errors) for device_id in device_ids for minute in minutes]
        await self.events.insert(batch, NOW)
        self.alerts.report(await self.streaks.apply(project(batch)))


@asynccontextmanager
async def running(world: World) -> AsyncIterator[World]:
    task = asyncio.create_task(world.alerts.run())
    try:
        yield world
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_is_reported_is_opened_and_confirmed() -> None:
    async with running(World()) as world:
        await world.fail("PB-1", "PB-2")
        assert not world.alerts.is_idle
        await until(lambda: world.alerts.is_idle)
        assert sorted(await world.store.open_devices()) == ["PB-1", "PB-2"]
        assert world.streaks.alerting == {"PB-1", "PB-2"}


async def test_the_newest_word_on_a_device_counts() -> None:
    world = World()
    await world.fail("PB-1")
    await world.fail("PB-1", minutes=[3], errors=0)
    async with running(world):
        await until(lambda: world.alerts.is_idle)
        assert world.store.alerts == []


async def test_what_could_not_be_confirmed_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BACKOFF_BASE_S", 0.001)
    async with running(World()) as world:
        world.streaks.away = True
        await world.fail("PB-1")
        await until(lambda: len(world.streaks.batches) >= 2)
        assert not world.alerts.is_idle
        world.streaks.away = False
        await until(lambda: world.alerts.is_idle)
        assert world.streaks.alerting == {"PB-1"}
        assert len(world.store.alerts) == 1


async def test_however_many_are_handled_at_once_it_is_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a projection was rebuilt: a look at a hundred thousand devices would not end in time."""
    monkeypatch.setattr(limits, "ALERTS_BATCH", 10)
    world = World()
    ids = [f"PB-{number:02}" for number in range(25)]
    await world.fail(*ids)
    await world.alerts.handle([AlertChange(device_id=each, streak=3, opens=True) for each in ids])
    assert world.streaks.batches == [10, 10, 5]
    assert len(await world.store.open_devices()) == 25


async def test_a_storm_is_handled_in_batches_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ALERTS_BATCH", 10)
    monkeypatch.setattr(limits, "ALERTS_WAITING_MAX", 25)
    world = World()
    await world.fail(*(f"PB-{number:02}" for number in range(30)))
    async with running(world):
        await until(lambda: world.alerts.is_idle)
        assert world.streaks.batches == [10, 10, 5]
        # What was dropped is out of step, and so reported by the next comparison.
        world.alerts.report(await world.streaks.settle("bridge-0", await world.store.open_devices()))
        await until(lambda: world.alerts.is_idle)
        assert len(await world.store.open_devices()) == 30
