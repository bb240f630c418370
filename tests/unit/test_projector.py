"""How far the projector says it is: its watermark never passes an event that may not be merged."""

from typing import Any, cast

import pytest

from bridge.metrics import Metrics
from bridge.projection.projector import Projector
from pisync import clock, limits
from pisync.errors import RedisUnavailable
from pisync.settings import BridgeSettings
from pisync.stores.known_bridges import KnownBridges
from pisync.stores.memory.bridges import MemoryBridgeRegistry
from pisync.stores.memory.projection import MemoryProjection
from tests.support.samples import event


class Reports:
    """Nobody needs to hear of alerts here."""

    def report(self, changes: Any) -> None:
        """They are dropped."""


class UnavailableProjection(MemoryProjection):
    async def apply(self, states: Any, *, anew: bool = False) -> Any:
        raise RedisUnavailable("connection refused")


class Times:
    """A clock that goes when told."""

    def __init__(self) -> None:
        self.at_ms = 1000
        self.floor_ms = 1_000_000_000

    def now_ms(self) -> int:
        return self.at_ms


def projector(projection: MemoryProjection | None = None, times: Times | None = None) -> Projector:
    found = Projector(
        projection=projection or MemoryProjection(),
        alerts=Reports(),
        metrics=Metrics(BridgeSettings()),
        reception_clock=cast("Any", times or Times()),
    )
    found.attach(5)
    found.catch_up()
    return found


async def test_the_watermark_waits_for_a_batch_until_it_is_merged() -> None:
    times = Times()
    here = projector(times=times)
    with here.receive() as reception:
        times.at_ms = 2000
        assert clock.to_ms(reception.received_at) == here.watermark_ms == 1000
        await reception.merge([event()])
        assert here.watermark_ms == 1000
    assert here.is_current
    assert here.watermark_ms == times.floor_ms


async def test_what_is_in_flight_is_not_stored_yet_whether_redis_has_it_or_not() -> None:
    here = projector()
    here.detach(RedisUnavailable("connection refused"))
    with here.receive() as first:
        with here.receive() as second:
            await second.merge([event("PB-2")])
        assert here.oldest_in_flight_ms() == clock.to_ms(first.received_at)
        await first.merge([event()])
    assert here.oldest_in_flight_ms() is None, "what is left to a replay is stored"


async def test_no_watermark_goes_beyond_the_floor() -> None:
    times = Times()
    here = projector(times=times)
    times.floor_ms = 700
    assert here.watermark_ms == 700
    with here.receive() as reception:
        assert here.watermark_ms == 700
        await reception.merge([event()])
    assert here.watermark_ms == 700


async def test_to_receive_a_batch_and_not_to_merge_it_is_a_defect() -> None:
    here = projector()
    with pytest.raises(RuntimeError, match="not merged"), here.receive() as reception:
        pass
    assert here.watermark_ms == clock.to_ms(cast("Any", reception).received_at)


async def test_a_batch_that_comes_while_detached_is_left_to_a_replay() -> None:
    here = projector()
    here.detach(RedisUnavailable("connection refused"))
    with here.receive() as reception:
        await reception.merge([event()])
    assert not here.is_current
    assert here.watermark_ms == clock.to_ms(reception.received_at)


async def test_without_redis_a_batch_detaches_and_is_left_to_a_replay() -> None:
    here = projector(UnavailableProjection())
    with here.receive() as reception:
        await reception.merge([event()])
    assert not here.is_attached
    assert here.detached.is_set()
    assert here.watermark_ms == clock.to_ms(reception.received_at)


async def test_a_batch_that_is_broken_off_holds_the_watermark_for_good() -> None:
    """MongoDB may have its events; a replay that ends later does not speak for them."""
    here = projector()
    with pytest.raises(ZeroDivisionError), here.receive() as reception:
        raise ZeroDivisionError
    received_ms = clock.to_ms(cast("Any", reception).received_at)
    here.attach(received_ms + 1)
    here.catch_up()
    assert here.watermark_ms == received_ms


async def test_a_replay_during_which_redis_was_lost_does_not_count() -> None:
    here = projector(UnavailableProjection())
    here.attach(5)
    with here.receive() as reception:
        await reception.merge([event()])
    with pytest.raises(RedisUnavailable):
        here.catch_up()
    assert here.watermark_ms == 5


async def test_a_batch_that_stays_open_is_counted_from_when_it_was_first_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That another one ends meanwhile, and that the wall clock is set back, changes nothing."""
    now, times = 100.0, Times()
    monkeypatch.setattr("time.monotonic", lambda: now)
    here = projector(times=times)
    assert here.is_settled
    assert here.unmerged_ms() == 0
    with here.receive() as lasting:
        times.at_ms += 1  # the next batch comes a millisecond later
        with here.receive() as earlier:
            assert here.unmerged_ms() == 0
            now = 103.0
            assert not here.is_settled
            assert here.unmerged_ms() == 3000
            await earlier.merge([event()])
        now = 104.0
        assert here.unmerged_ms() == 4000
        await lasting.merge([event()])
    assert here.is_settled
    assert here.unmerged_ms() == 0


async def test_the_bridges_that_are_known_are_forgotten_where_the_registry_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = MemoryBridgeRegistry()
    known = KnownBridges(registry)
    assert known() is None
    await registry.claim("bridge-0", "a", clock.now())
    await known.refresh()
    assert known() == {"bridge-0": "a"}
    monkeypatch.setattr(limits, "PROJECTION_YOUNG_S", -1.0)
    known = KnownBridges(registry)
    await known.refresh()
    assert known() is None
