"""The time of receipt never goes backwards, whatever the wall clock does between a bridge's lives."""

import asyncio
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from bridge.listening import Listening
from bridge.projection.reception_clock import ReceptionClock
from pisync import clock, limits
from pisync.clock import from_ms, to_ms
from pisync.errors import MongodbUnavailable, Part, SessionTakenOver
from pisync.stores.memory.bridges import MemoryBridgeRegistry
from pisync.stores.memory.listening import MemoryListeningRecord
from tests.support.samples import NOW
from tests.support.waiting import TIMEOUT_S, until

STEPS_MS = st.one_of(st.integers(-5000, 5000), st.integers(-(10**10), 10**10))


class Registry(MemoryBridgeRegistry):
    """May be unavailable."""

    away = False

    async def raise_floor(
        self, bridge_id: str, instance: str, floor: datetime, stored_until: datetime
    ) -> bool:
        if self.away:
            raise MongodbUnavailable("away")
        return await super().raise_floor(bridge_id, instance, floor, stored_until)


class Lives:
    """The lives of one bridge, one after another, by a wall clock that anybody may set."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.wall_ms = to_ms(NOW)
        self.is_right = True
        self.begun = 0

    async def begin(self) -> ReceptionClock:
        self.begun += 1
        claim = await self.registry.claim("bridge-0", str(self.begun), from_ms(self.wall_ms))
        return ReceptionClock(
            bridge_id="bridge-0", registry=self.registry, claim=claim, is_right=lambda: self.is_right
        )


@pytest.fixture
def lives(monkeypatch: pytest.MonkeyPatch) -> Lives:
    found = Lives()
    monkeypatch.setattr(clock, "now", lambda: from_ms(found.wall_ms))
    return found


HAPPENINGS = st.sampled_from(["nothing", "raise", "away", "back", "start", "forget", "wrong", "right"])


@given(st.lists(st.tuples(STEPS_MS, HAPPENINGS), max_size=40))
def test_nothing_is_received_before_a_watermark_of_any_life(happenings: list[tuple[int, str]]) -> None:
    async def happen() -> None:
        now = await times.begin()
        latest_ms = promised_ms = 0
        for step_ms, happening in happenings:
            times.wall_ms = max(0, times.wall_ms + step_ms)
            match happening:
                case "raise" if not times.registry.away:
                    await now.raise_floor()
                    assert now.floor_ms == now.now_ms()
                case "away" | "back":
                    times.registry.away = happening == "away"
                case "wrong" | "right":
                    times.is_right = happening == "right"
                case "start" | "forget":
                    if happening == "forget":
                        await times.registry.forget("bridge-0")
                    now, latest_ms = await times.begin(), 0
            received_ms = now.now_ms()
            assert received_ms >= latest_ms, "within a life"
            assert received_ms >= promised_ms, "after what may have been a watermark"
            latest_ms, promised_ms = received_ms, max(promised_ms, now.floor_ms)

    times = Lives()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "now", lambda: from_ms(times.wall_ms))
        asyncio.run(happen())


async def test_as_long_as_the_clock_goes_forward_it_is_what_counts(lives: Lives) -> None:
    first = await lives.begin()
    await first.raise_floor()
    lives.wall_ms += 10
    assert first.now_ms() == lives.wall_ms
    assert (await lives.begin()).now_ms() == lives.wall_ms


async def test_what_was_received_before_the_oldest_batch_in_flight_is_said_to_be_stored(lives: Lives) -> None:
    here = await lives.begin()
    began_ms = here.now_ms()
    lives.wall_ms += 60_000
    await here.raise_floor(began_ms)
    assert here.floor_ms == lives.wall_ms
    assert await lives.registry.stored_until() == {"bridge-0": from_ms(began_ms)}
    await here.raise_floor(None)
    assert await lives.registry.stored_until() == {"bridge-0": from_ms(lives.wall_ms)}


async def test_a_clock_that_is_wrong_raises_nothing(lives: Lives) -> None:
    here, right_ms = await lives.begin(), lives.wall_ms
    lives.is_right = False
    lives.wall_ms += 10 * 365 * 86_400_000
    await here.raise_floor()
    assert here.floor_ms == here.now_ms() == right_ms
    assert lives.registry.floors["bridge-0"] == from_ms(right_ms)


async def test_an_instance_that_has_lost_its_bridge_promises_nothing_more(lives: Lives) -> None:
    old = await lives.begin()
    new = await lives.begin()
    lives.wall_ms += 5000
    await old.raise_floor()
    assert old.floor_ms == new.floor_ms == to_ms(NOW)
    await new.raise_floor()
    assert new.floor_ms == lives.wall_ms


async def test_a_life_that_begins_ahead_of_the_clock_says_so(lives: Lives) -> None:
    with capture_logs() as logs:
        await lives.begin()
        assert not logs
        lives.wall_ms -= 60_000
        here = await lives.begin()
    assert here.now_ms() == to_ms(NOW)
    assert [line["seconds"] for line in logs] == [60]


class Retries:
    """Counts them."""

    def __init__(self) -> None:
        self.parts: list[Part] = []

    def store_unavailable(self, part: Part) -> None:
        self.parts.append(part)


async def test_the_floor_is_raised_again_as_soon_as_mongodb_is_back(
    lives: Lives, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FLOOR_INTERVAL_S", 0.001)
    retries = Retries()
    here = await lives.begin()
    lives.registry.away = True
    record = MemoryListeningRecord()
    listening = Listening(bridge_id="bridge-0", record=record, is_listening=lambda: True)
    running = asyncio.create_task(here.run(retries, lambda: None, listening))
    try:
        lives.wall_ms += 5000
        await until(lambda: Part.MONGODB in retries.parts)
        assert here.floor_ms == to_ms(NOW)
        assert record.intervals == {}, "what comes now could not be stored"
        lives.registry.away = False
        await until(lambda: here.floor_ms == lives.wall_ms)
        await until(lambda: record.intervals == {("bridge-0", lives.wall_ms): lives.wall_ms})
    finally:
        running.cancel()


async def test_an_instance_that_has_lost_its_bridge_does_not_listen_and_ends(
    lives: Lives, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has the bridge may be at another broker, which ends no session here."""
    monkeypatch.setattr(limits, "FLOOR_INTERVAL_S", 0.001)
    record = MemoryListeningRecord()
    listening = Listening(bridge_id="bridge-0", record=record, is_listening=lambda: True)
    old = await lives.begin()
    await lives.begin()
    with pytest.raises(SessionTakenOver, match="another bridge runs as 'bridge-0'"):
        await asyncio.wait_for(old.run(Retries(), lambda: None, listening), TIMEOUT_S)
    assert record.intervals == {}


async def test_an_instance_whose_bridge_was_forgotten_goes_on(
    lives: Lives, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FLOOR_INTERVAL_S", 0.001)
    record = MemoryListeningRecord()
    listening = Listening(bridge_id="bridge-0", record=record, is_listening=lambda: True)
    here = await lives.begin()
    await lives.registry.forget("bridge-0")
    asked: list[str] = []

    async def holder(bridge_id: str) -> str | None:
        asked.append(bridge_id)
        return await MemoryBridgeRegistry.holder(lives.registry, bridge_id)

    monkeypatch.setattr(lives.registry, "holder", holder)
    running = asyncio.create_task(here.run(Retries(), lambda: None, listening))
    try:
        await until(lambda: len(asked) > 2 or running.done())
    finally:
        running.cancel()
    assert len(asked) > 2
