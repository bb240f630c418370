"""What a catch-up does not wait for, and what does not make it begin again."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from itertools import repeat
from typing import Any

import pytest

from bridge.metrics import Metrics
from bridge.projection.catch_up import CatchUp
from bridge.projection.projector import Projector
from pisync import backoff, limits
from pisync.clock import to_ms
from pisync.domain.accumulator import StoredEvents
from pisync.domain.alerts import AlertChange, Rule
from pisync.domain.device_state import project
from pisync.domain.events import SyncEvent
from pisync.errors import MongodbUnavailable
from pisync.settings import BridgeSettings
from pisync.stores.interfaces.bridges import Claim
from pisync.stores.interfaces.events import HistoryEntry, ReplayPosition
from pisync.stores.memory.bridges import MemoryBridgeRegistry
from pisync.stores.memory.events import MemoryEventStore, stored_events
from pisync.stores.memory.projection import MemoryProjection
from tests.support.reception import reception_clock
from tests.support.samples import NOW, event
from tests.support.waiting import until

EVENTS = [event(f"PB-{device}", minute, errors=1) for device in range(5) for minute in range(4)]
STATES = project(EVENTS, repeat(to_ms(NOW)))


class Alerts:
    """Alerts that take long to compare, or cannot be."""

    def __init__(self) -> None:
        self.compared = 0
        self.is_stuck = False
        self.failures = 0
        self.reported: list[AlertChange] = []

    def report(self, changes: Iterable[AlertChange]) -> None:
        self.reported += changes

    async def open_devices(self, rule: Rule) -> list[str]:
        return []

    async def compare(self) -> list[AlertChange]:
        if self.is_stuck:
            await asyncio.Event().wait()
        if self.failures:
            self.failures -= 1
            raise MongodbUnavailable("connection refused")
        self.compared += 1
        return []


class HugeEventStore(MemoryEventStore):
    """One whose count never ends, and whose replay is interrupted now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.interruptions = 0
        self.taken: list[SyncEvent] = []

    async def count(self, since: datetime | None) -> int:
        await asyncio.Event().wait()
        return 0

    async def replay(
        self, since: datetime | None, position: ReplayPosition | None = None, **options: Any
    ) -> AsyncIterator[StoredEvents]:
        position = position or ReplayPosition()
        start: Any = position.after or 0
        for at in range(start, len(EVENTS), 4):
            if self.interruptions and at == 8:
                self.interruptions -= 1
                raise MongodbUnavailable("connection reset")
            self.taken += EVENTS[at : at + 4]
            yield stored_events(HistoryEntry(event=one, received_at=NOW) for one in EVENTS[at : at + 4])
            position.after = at + 4


class Rig:
    """A catch-up over stores in memory."""

    def __init__(self) -> None:
        self.events, self.projection, self.alerts = HugeEventStore(), MemoryProjection(), Alerts()
        self.registry = MemoryBridgeRegistry()
        metrics = Metrics(BridgeSettings())
        claim = Claim(known_before=True, floor=NOW, instance="a")
        self.projector = Projector(
            projection=self.projection,
            alerts=self.alerts,
            metrics=metrics,
            reception_clock=reception_clock(self.registry, claim),
        )
        self.catch_up = CatchUp(
            bridge_id="bridge-0",
            events=self.events,
            projection=self.projection,
            projector=self.projector,
            alerts=self.alerts,
            registry=self.registry,
            claim=claim,
            metrics=metrics,
        )


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr(limits, "WATERMARK_INTERVAL_S", 0.001)
    monkeypatch.setattr(backoff, "delays", lambda **_: iter([0.0] * 100))
    rig = Rig()
    await rig.registry.claim("bridge-0", "a", NOW)
    return rig


async def test_a_replay_waits_for_no_count(rig: Rig) -> None:
    await rig.catch_up._catch_up()
    assert rig.projection.states == STATES
    assert rig.projector.is_current


async def test_a_replay_that_mongodb_interrupts_goes_on_where_it_was(rig: Rig) -> None:
    rig.events.interruptions = 3
    await rig.catch_up._catch_up()
    assert rig.projection.states == STATES
    assert rig.events.taken == EVENTS


async def test_the_primary_is_confirmed_before_bridges_are_read_and_again_before_the_replay(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was replaced may lack a bridge; one that is replaced meanwhile, what another stored before
    it learned of the attachment.
    """
    steps: list[str] = []

    def noted(target: Any, name: str) -> None:
        asked = getattr(target, name)

        def note(*arguments: Any, **options: Any) -> Any:
            steps.append(name)
            return asked(*arguments, **options)

        monkeypatch.setattr(target, name, note)

    noted(rig.events, "confirm_primary")
    noted(rig.registry, "bridges")
    noted(rig.projection, "attach")
    noted(rig.events, "replay")
    await rig.catch_up._catch_up()
    assert steps[:5] == ["confirm_primary", "bridges", "attach", "confirm_primary", "replay"]


async def test_a_comparison_of_alerts_that_takes_long_holds_up_no_watermark(rig: Rig) -> None:
    rig.alerts.is_stuck = True
    running = asyncio.create_task(rig.catch_up.run())
    try:
        await until(lambda: "bridge-0" in rig.projection.merged_until)
        before = rig.projection.merged_until["bridge-0"]
        await until(lambda: rig.projection.merged_until["bridge-0"] != before)
        assert (await rig.projection.status()).complete
    finally:
        running.cancel()


async def test_a_comparison_of_alerts_that_mongodb_interrupts_is_repeated_and_nothing_else(rig: Rig) -> None:
    rig.alerts.failures = 2
    running = asyncio.create_task(rig.catch_up.run())
    try:
        await until(lambda: rig.alerts.compared)
        assert rig.events.taken == EVENTS
    finally:
        running.cancel()


async def test_what_the_projection_lost_is_found_and_merged_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "COMPARE_INTERVAL_S", 0.001)
    running = asyncio.create_task(rig.catch_up.run())
    try:
        await until(lambda: rig.alerts.compared)
        del rig.projection.states["PB-3"]
        await until(lambda: "PB-3" in rig.projection.states)
        assert rig.projection.states == STATES
        assert rig.catch_up._repair.repaired == 1
        # Its alert follows at once, and not with the next comparison of all.
        assert [(change.device_id, change.opens) for change in rig.alerts.reported] == [("PB-3", True)]
    finally:
        running.cancel()


async def test_who_stopped_says_so_last(rig: Rig) -> None:
    running = asyncio.create_task(rig.catch_up.run())
    try:
        await until(lambda: rig.alerts.compared)
        await rig.catch_up.finish()
        assert rig.projection.merged_until == {"bridge-0": "a"}
        await rig.catch_up._write_watermark(catching_up=False)
        assert rig.projection.merged_until == {"bridge-0": "a"}
    finally:
        running.cancel()


async def test_who_stopped_with_something_in_hand_does_not_say_that_nothing_is_left(rig: Rig) -> None:
    await rig.catch_up._catch_up()
    with rig.projector.receive() as reception:
        await rig.catch_up.finish()
        assert rig.projection.merged_until["bridge-0"] != "a"
        await reception.merge([])
