"""A replay: the same projection however it is read, each device merged about once, in bounded memory."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.projection.replay import Replay
from pisync import limits
from pisync.clock import to_ms
from pisync.domain.accumulator import Accumulator, StoredEvents
from pisync.domain.alerts import AlertChange
from pisync.domain.device_state import DeviceState, project
from pisync.domain.events import SyncEvent
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.events import ReplayPosition
from pisync.stores.memory.events import MemoryEventStore
from pisync.stores.memory.projection import MemoryProjection
from tests.support.replays import entries_of
from tests.support.samples import NOW, event

DAY = 1440
DEVICES, DAYS = 70, 12
EVENTS = [
    event(f"PB-{device}", day * DAY + device, errors=(device + day) % 3 // 2)
    for day in range(DAYS)
    for device in range(DEVICES)
]
STATES = project(EVENTS, [to_ms(NOW)] * len(EVENTS))


class ChoppedEventStore(MemoryEventStore):
    """One that gives batches of some size, and is interrupted before some of them."""

    def __init__(self, size: int, interruptions: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        super().__init__()
        self._size = size
        self._interruptions = set(interruptions)
        self._given = 0
        self.given: list[SyncEvent] = []

    async def replay(
        self, since: datetime | None, position: ReplayPosition | None = None, **options: Any
    ) -> AsyncIterator[StoredEvents]:
        assert position is not None
        start = position.after if isinstance(position.after, int) else 0
        place = 0
        async for whole in super().replay(since, **options):
            for at in range(0, len(whole), self._size):
                some = whole.documents[at : at + self._size]
                place += len(some)
                if place <= start:
                    continue
                self._given += 1
                if self._given in self._interruptions:
                    raise MongodbUnavailable("connection reset")
                batch = StoredEvents(documents=some, bucket=whole.bucket)
                self.given += [entry.event for entry in entries_of(batch)]
                yield batch
                position.after = place


class CountingProjection(MemoryProjection):
    """One that counts the states that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    async def apply(self, states: Mapping[str, DeviceState], *, anew: bool = False) -> list[AlertChange]:
        self.sizes.append(len(states))
        return await super().apply(states, anew=anew)


async def replay(store: ChoppedEventStore, projection: MemoryProjection, start_ms: int = 0) -> Replay:
    """Replay to the end, and look after each interruption."""
    await store.insert(EVENTS, NOW)
    replay = Replay(events=store, projection=projection, start_ms=start_ms)
    while True:
        try:
            counts = [count async for count in replay.run()]
        except MongodbUnavailable:
            # Where another run goes on, all before it is merged.
            merged = project(store.given, [to_ms(NOW)] * len(store.given))
            assert projection.states == merged
            assert replay.replayed == len(store.given)
        else:
            assert sum(counts) <= replay.replayed == len(EVENTS)
            return replay


@settings(deadline=None)
@given(
    st.integers(1, 999),
    st.sets(st.integers(1, 30), max_size=5),
    st.sampled_from([0, 20_000, 100_000, limits.REPLAY_HELD_BYTES_MAX]),
    st.sampled_from([0, to_ms(NOW)]),
)
def test_the_same_projection_however_it_is_read(
    size: int, interruptions: set[int], bytes_max: int, start_ms: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pisync.limits.REPLAY_HELD_BYTES_MAX", bytes_max)
        projection = MemoryProjection()
        asyncio.run(replay(ChoppedEventStore(size, interruptions), projection, start_ms))
    assert projection.states == STATES


@pytest.mark.parametrize("start_ms", [0, to_ms(NOW)])
async def test_each_device_is_merged_once_however_many_days_its_events_are_of(start_ms: int) -> None:
    projection = CountingProjection()
    await replay(ChoppedEventStore(size=4), projection, start_ms)
    assert sum(projection.sizes) == DEVICES
    assert max(projection.sizes) <= limits.REPLAY_MERGED_AT_ONCE


@pytest.mark.parametrize("start_ms", [0, to_ms(NOW)])
async def test_no_more_is_held_than_the_limit_and_a_batch(
    start_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    add = Accumulator.add

    def look(accumulator: Accumulator, batch: StoredEvents) -> None:
        add(accumulator, batch)
        held.append(accumulator.bytes_held)

    monkeypatch.setattr(Accumulator, "add", look)
    monkeypatch.setattr(limits, "REPLAY_HELD_BYTES_MAX", 3_000)
    await replay(ChoppedEventStore(size=4), MemoryProjection(), start_ms)
    assert 3_000 < max(held) <= 3_000 + 4 * 2_400


async def test_few_devices_are_given_to_redis_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REPLAY_MERGED_AT_ONCE", 3)
    projection = CountingProjection()
    await replay(ChoppedEventStore(size=1000), projection, to_ms(NOW))
    assert max(projection.sizes) == 3
    assert projection.states == STATES


class ReplacedPrimary(MemoryEventStore):
    """One that is primary no more, and lacks what came since."""

    def __init__(self) -> None:
        super().__init__()
        self.is_primary = False

    async def confirm_primary(self) -> None:
        if not self.is_primary:
            raise MongodbUnavailable("no majority confirms it")


@pytest.mark.parametrize("start_ms", [0, to_ms(NOW)])
async def test_nothing_is_replayed_of_a_primary_that_no_majority_follows(start_ms: int) -> None:
    """What it has may be merged; that it is everything must not be believed."""
    store, projection = ReplacedPrimary(), MemoryProjection()
    await store.insert(EVENTS, NOW)
    one = Replay(events=store, projection=projection, start_ms=start_ms)
    with pytest.raises(MongodbUnavailable):
        assert [count async for count in one.run()] == []
    store.is_primary = True
    assert sum([count async for count in one.run()]) == len(EVENTS)
    assert projection.states == STATES
