"""The two clocks: when they count as apart, when messages wait, and which clock judges an event."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, cast

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.clock_watch import ClockWatch
from bridge.floods.gate import Gate
from bridge.floods.left_out import LeftOut
from bridge.kinds import kinds_of_messages
from bridge.metrics import Metrics
from bridge.projection.projector import Projector
from pisync import limits
from pisync.clock import to_ms
from pisync.domain.events import SyncEvent
from pisync.errors import MongodbUnavailable
from pisync.mqtt.messages import Message
from pisync.settings import BridgeSettings
from pisync.stores.interfaces.dead_letters import DeadLetterQuery
from pisync.stores.interfaces.events import InsertOutcome
from pisync.stores.memory.bridges import MemoryBridgeRegistry
from pisync.stores.memory.dead_letters import MemoryDeadLetterStore
from pisync.stores.memory.events import MemoryEventStore
from pisync.stores.memory.projection import MemoryProjection
from tests.support.reception import reception_clock
from tests.support.samples import NOW, event_at
from tests.support.waiting import until

MAX_S = limits.CLOCK_DIFFERENCE_S_MAX
SECONDS = st.one_of(st.floats(-2 * MAX_S, 2 * MAX_S), st.floats(-1e7, 1e7))


class Registry(MemoryBridgeRegistry):
    """Tells MongoDB's time after a while, or is unavailable."""

    def __init__(self, times: "Times") -> None:
        super().__init__()
        self.times = times
        self.away = False
        self.before_s = self.after_s = 0.0

    async def server_time(self) -> datetime:
        await asyncio.sleep(0)
        if self.away:
            raise MongodbUnavailable("away")
        self.times.elapsed_s += self.before_s
        moment = NOW + timedelta(seconds=self.times.elapsed_s)
        self.times.elapsed_s += self.after_s
        return moment


class Times:
    """A moment, and a wall clock that may be set."""

    def __init__(self) -> None:
        self.elapsed_s = 1000.0
        self.set_by_s = 0.0
        self.registry = Registry(self)
        self.metrics = Metrics(BridgeSettings())

    def watch(self, interval_s: float = 10.0) -> ClockWatch:
        return ClockWatch(
            registry=self.registry,
            metrics=self.metrics,
            now=lambda: NOW + timedelta(seconds=self.elapsed_s + self.set_by_s),
            monotonic_s=lambda: self.elapsed_s,
            interval_s=interval_s,
        )


@example(set_by_s=110.0, before_s=0.0, after_s=20.0, later_s=0.0)
@example(set_by_s=-110.0, before_s=20.0, after_s=0.0, later_s=0.0)
@given(
    set_by_s=SECONDS,
    before_s=st.floats(0, 20),
    after_s=st.floats(0, 20),
    later_s=st.floats(0, 1e6),
)
def test_clocks_are_apart_where_no_delay_of_the_answer_explains_it(
    set_by_s: float, before_s: float, after_s: float, later_s: float
) -> None:
    times = Times()
    times.set_by_s, times.registry.before_s, times.registry.after_s = set_by_s, before_s, after_s
    watch = times.watch()
    right = asyncio.run(watch.check())
    if abs(set_by_s) <= MAX_S - 1:
        assert right
    if abs(set_by_s) > MAX_S + before_s + after_s + 1:
        assert not right
    times.elapsed_s += later_s
    assert watch.is_right == watch.vouch() == right


@given(set_by_s=SECONDS)
def test_a_step_of_the_clock_is_seen_before_mongodb_is_asked(set_by_s: float) -> None:
    times = Times()
    watch = times.watch()
    assert not watch.vouch()
    assert asyncio.run(watch.check())
    times.set_by_s = set_by_s
    if abs(abs(set_by_s) - MAX_S) > 1:
        assert watch.vouch() == (abs(set_by_s) < MAX_S)


class Gates:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def hold(self) -> None:
        self.told.append("hold")

    def release(self) -> None:
        self.told.append("release")


async def test_in_doubt_mongodb_is_asked_at_once() -> None:
    times, gates = Times(), Gates()
    watch = times.watch(interval_s=3600)
    await watch.agree()
    running = asyncio.create_task(watch.run(gates))
    times.set_by_s = 2 * MAX_S
    assert not watch.vouch()
    await until(lambda: gates.told == ["hold"])
    running.cancel()


async def test_doubt_is_settled_by_mongodb_as_soon_as_it_answers() -> None:
    times, gates = Times(), Gates()
    watch = times.watch(interval_s=0.001)
    await watch.agree()
    running = asyncio.create_task(watch.run(gates))
    times.registry.away = True
    times.set_by_s = -60 * 86_400.0
    assert not watch.vouch()
    asked = gates.told.copy()
    await asyncio.sleep(0.01)
    assert gates.told == asked
    times.registry.away = False
    await until(lambda: gates.told[-1:] == ["hold"])
    times.set_by_s = 1.0
    await until(lambda: gates.told[-1:] == ["release"])
    running.cancel()


async def test_a_bridge_with_a_wrong_clock_waits_at_its_start() -> None:
    times = Times()
    times.set_by_s = 10 * MAX_S
    agreeing = asyncio.create_task(times.watch(interval_s=0.001).agree())
    await asyncio.sleep(0.01)
    assert not agreeing.done()
    times.set_by_s = 0
    await agreeing


def test_the_difference_is_a_metric() -> None:
    times = Times()
    watch = times.watch()
    assert b"\npisync_bridge_clock_right 0.0" in times.metrics.exposition()
    times.set_by_s = -300
    asyncio.run(watch.check())
    assert b"\npisync_bridge_clock_difference_seconds -300.0" in times.metrics.exposition()


@given(set_by_s=SECONDS, later_s=st.floats(0, 1e5))
def test_a_reading_that_is_wrong_is_never_judged_by(set_by_s: float, later_s: float) -> None:
    times = Times()
    watch = times.watch()
    assert watch.right_now() == NOW + timedelta(seconds=times.elapsed_s), "before MongoDB was asked"
    assert asyncio.run(watch.check())
    times.elapsed_s += later_s
    times.set_by_s = set_by_s  # right after somebody vouched for it
    right = NOW + timedelta(seconds=times.elapsed_s)
    ours = right + timedelta(seconds=set_by_s)
    told = watch.right_now()
    assert abs(told - right) <= timedelta(seconds=MAX_S + 0.01)
    if abs(set_by_s) < MAX_S - 0.01:
        assert abs(told - ours) <= timedelta(milliseconds=2)
    elif abs(set_by_s) > MAX_S + 0.01:
        assert abs(told - right) <= timedelta(milliseconds=2)


async def test_a_clock_that_is_set_in_the_middle_of_a_batch_rejects_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "BATCH_ELEMENTS_MAX", 1)
    monkeypatch.setattr(limits, "MESSAGES_DECODED_AT_ONCE", 1)
    times = Times()
    watch = times.watch()
    await watch.check()

    class SetBack(MemoryEventStore):
        """While it stores the first part of a batch, the clock is set back by years."""

        async def insert(self, events: Sequence[SyncEvent], received_at: datetime) -> list[InsertOutcome]:
            times.set_by_s = -400 * 86_400
            return await super().insert(events, received_at)

    store, dead_letters = SetBack(), MemoryDeadLetterStore()
    projector = Projector(
        projection=MemoryProjection(),
        alerts=cast("Any", None),
        metrics=times.metrics,
        reception_clock=reception_clock(),
    )
    [kind] = kinds_of_messages(
        events=store,
        dead_letters=dead_letters,
        projector=projector,
        gate=Gate(
            settings=BridgeSettings(),
            known=None,
            left_out=LeftOut(dead_letters=dead_letters, metrics=times.metrics),
        ),
        metrics=times.metrics,
        now=watch.right_now,
    )
    messages = [
        Message(
            topic=f"pisync/v1/devices/{sent.device_id}/sync",
            payload=msgspec.json.encode(sent),
            packet_id=None,
            response_topic=None,
            correlation_data=None,
            connection=cast("Any", None),
            size_bytes=100,
        )
        for sent in (event_at(to_ms(NOW) - number, "PB-1") for number in range(3))
    ]
    await kind.keep(messages)
    assert len(store.events) == 3
    assert await dead_letters.find(DeadLetterQuery(limit=1)) == []
