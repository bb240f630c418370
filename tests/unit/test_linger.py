"""How long a batch waits for more messages: the rule alone, and the intake that follows it."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.intake import Intake
from bridge.linger import Linger
from bridge.metrics import Metrics
from pisync import limits
from pisync.domain import topics
from pisync.mqtt.connection import Connection
from pisync.mqtt.messages import Message
from pisync.settings import BridgeSettings
from tests.support import virtual_time
from tests.support.intake_rig import DEVICE, FakeConnection

LINGER_S: Final = limits.LINGER_MS / 1000
HALF, EIGHTH = LINGER_S / limits.LINGER_PARTS_FEW, LINGER_S / limits.LINGER_PARTS_MANY


# The rule


def after_a_batch(*, messages: int, at: float = 10.0) -> Linger:
    linger = Linger(longest_s=LINGER_S)
    linger.begin(now=at, messages=messages)
    return linger


def test_the_first_message_ever_waits_for_none() -> None:
    assert Linger(longest_s=LINGER_S).wait_s(now=10, messages=1, batches=0) == 0


@pytest.mark.parametrize("later_s", [0, LINGER_S / 2, 100])
def test_after_a_batch_of_one_message_the_next_waits_for_none(later_s: float) -> None:
    assert after_a_batch(messages=1).wait_s(now=10 + later_s, messages=1, batches=0) == 0


def test_after_a_while_the_first_message_waits_for_none() -> None:
    assert after_a_batch(messages=9).wait_s(now=10 + LINGER_S, messages=1, batches=0) == 0


def test_a_batch_does_not_begin_right_after_another() -> None:
    linger = after_a_batch(messages=9)
    assert linger.wait_s(now=10 + 0.6 * LINGER_S, messages=1, batches=0) == pytest.approx(0.4 * LINGER_S)
    assert linger.wait_s(now=10 + LINGER_S, messages=2, batches=0) == 0


def test_while_a_batch_is_under_way_the_wait_begins_with_the_message() -> None:
    linger = after_a_batch(messages=1, at=0)
    assert linger.wait_s(now=10, messages=1, batches=1) == HALF
    assert linger.wait_s(now=10 + HALF, messages=2, batches=1) == pytest.approx(HALF)
    assert linger.wait_s(now=10 + LINGER_S, messages=3, batches=1) == 0


def test_a_wait_that_brings_nothing_ends() -> None:
    linger = after_a_batch(messages=9)
    assert linger.wait_s(now=10, messages=1, batches=0) == HALF
    assert linger.wait_s(now=10 + HALF, messages=1, batches=0) == 0


def test_many_messages_wait_a_smaller_part_for_more_while_a_batch_is_under_way() -> None:
    linger = after_a_batch(messages=9)
    assert linger.wait_s(now=10, messages=limits.LINGER_MANY, batches=1) == EIGHTH
    assert linger.wait_s(now=10 + EIGHTH, messages=limits.LINGER_MANY + 1, batches=1) == EIGHTH
    assert linger.wait_s(now=10 + 2 * EIGHTH, messages=limits.LINGER_MANY + 1, batches=1) == 0


def test_many_messages_wait_no_longer_once_no_batch_is_under_way() -> None:
    linger = after_a_batch(messages=9)
    assert linger.wait_s(now=10, messages=limits.LINGER_MANY - 1, batches=0) == HALF
    assert linger.wait_s(now=10 + EIGHTH, messages=limits.LINGER_MANY, batches=0) == 0


def test_without_a_linger_nothing_ever_waits() -> None:
    linger = Linger(longest_s=0)
    for messages in (1, 9, 100):
        for batches in (0, 3):
            assert linger.wait_s(now=10, messages=messages, batches=batches) == 0
            linger.begin(now=10, messages=messages)


# The intake


@dataclass(kw_only=True)
class Store:
    """The kind of all messages: it takes as long as it is told, and remembers its batches."""

    topic_filter = topics.SHARED_SYNC_FILTER
    takes_s: Sequence[float] = (0.004,)
    began_at: list[float] = field(default_factory=list)
    batches: list[list[int]] = field(default_factory=list)

    async def keep(self, messages: Sequence[Message]) -> list[bytes | None]:
        self.began_at.append(asyncio.get_running_loop().time())
        self.batches.append([message.packet_id or 0 for message in messages])
        await asyncio.sleep(self.takes_s[len(self.batches) % len(self.takes_s)])
        return [None] * len(messages)

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


class Line:
    """An intake in front of a store, messages that come at given times, and what was paused."""

    def __init__(self, store: Store, **changes: Any) -> None:
        values = BridgeSettings(**{"linger_ms": LINGER_S * 1000, **changes})
        self.store = store
        self.intake = Intake(kinds=[store], settings=values, metrics=Metrics(values))
        self.intake.attach(cast("Any", self))
        self.connection = FakeConnection()
        self.came_at: dict[int, float] = {}
        self.paused = False

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def come(self, count: int = 1, *, size_bytes: int = 300) -> None:
        for _ in range(count):
            packet_id = len(self.came_at) + 1
            self.came_at[packet_id] = asyncio.get_running_loop().time()
            connection = cast("Connection", self.connection)
            message = Message(topics.sync(DEVICE), b"", packet_id, None, None, connection, size_bytes)
            self.intake.offer(message)

    async def come_at(self, times: Sequence[float], *, size_bytes: int = 300) -> None:
        for moment in times:
            await asyncio.sleep(moment - asyncio.get_running_loop().time())
            self.come(size_bytes=size_bytes)

    def waits_s(self) -> list[float]:
        """How long each message waited until its batch began."""
        return [
            began_at - self.came_at[packet_id]
            for began_at, batch in zip(self.store.began_at, self.store.batches, strict=True)
            for packet_id in batch
        ]


def steadily(per_second: int, seconds: float) -> list[float]:
    return [number / per_second for number in range(round(per_second * seconds))]


def played(
    times: Sequence[float], store: Store | None = None, *, size_bytes: int = 300, **changes: Any
) -> Line:
    """Let messages come at these times, and all of them be acknowledged."""
    lines = []

    async def play() -> None:
        line = Line(store or Store(), **changes)
        lines.append(line)
        running = asyncio.create_task(line.intake.run())
        await line.come_at(times, size_bytes=size_bytes)
        while not line.intake.is_idle:  # a drain would end the wait of the last ones
            await asyncio.sleep(LINGER_S)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    virtual_time.run(play)
    return lines[0]


@pytest.mark.parametrize("size_bytes", [300, 5_000])
def test_at_2000_messages_a_second_batches_are_large_and_nothing_waits_too_long(size_bytes: int) -> None:
    line = played(steadily(2000, 1), size_bytes=size_bytes)
    first, _, *others, _ = line.store.sizes
    assert first == 1
    assert {abs(size - 2000 * LINGER_S) <= 1 for size in others} == {True}
    assert max(line.waits_s()) <= LINGER_S + 1e-9


def test_messages_far_apart_wait_for_none() -> None:
    line = played(steadily(20, 2))
    assert line.store.sizes == [1] * 40
    assert max(line.waits_s()) == 0


def test_a_sender_that_waits_for_each_receipt_is_not_kept_waiting() -> None:
    async def play() -> None:
        line = Line(Store())
        running = asyncio.create_task(line.intake.run())
        for sent in range(1, 20):
            line.come()
            while len(line.connection.acknowledged) < sent:
                await asyncio.sleep(0.0001)
        assert max(line.waits_s()) == 0
        running.cancel()

    virtual_time.run(play)


@pytest.mark.parametrize(
    ("first", "full", "size_bytes"),
    [
        (1, limits.LINGER_MANY - 1, 300),
        (1, limits.LINGER_MANY + 9, 300),
        (limits.LINGER_MANY + 1, limits.LINGER_MANY + 9, 300),
        (1, 4, limits.BATCH_BYTES_MAX // 4),
    ],
)
def test_a_full_batch_begins_at_once(first: int, full: int, size_bytes: int) -> None:
    async def play() -> None:
        line = Line(Store(takes_s=[1.0]), batch_messages_max=full if size_bytes == 300 else 2000)
        running = asyncio.create_task(line.intake.run())
        line.come()  # under way for a second
        await asyncio.sleep(LINGER_S)
        line.come(first, size_bytes=size_bytes)
        await asyncio.sleep(LINGER_S / 20)
        line.come(full - first, size_bytes=size_bytes)
        await asyncio.sleep(0.1)
        assert line.store.sizes == [1, full]
        assert line.store.began_at[1] == line.came_at[1 + full]
        running.cancel()

    virtual_time.run(play)


def test_a_pause_ends_the_wait_for_no_more_can_come() -> None:
    async def play() -> None:
        line = Line(Store(takes_s=[1.0]), inflight_messages_max=10)
        running = asyncio.create_task(line.intake.run())
        line.come()
        await asyncio.sleep(LINGER_S)
        line.come(5)
        await asyncio.sleep(LINGER_S / 20)
        line.come(4)
        assert line.paused
        await asyncio.sleep(0.1)
        assert line.store.sizes == [1, 9]
        assert line.store.began_at[1] == line.came_at[10]
        running.cancel()

    virtual_time.run(play)


def test_a_stop_does_not_wait_for_the_linger() -> None:
    async def play() -> None:
        loop = asyncio.get_running_loop()
        line = Line(Store(takes_s=[0.0]), linger_ms=1000)
        running = asyncio.create_task(line.intake.run())
        line.come(2)
        await asyncio.sleep(0.1)
        line.come()  # would wait until a second has passed
        await asyncio.sleep(0.1)
        assert line.store.sizes == [2]
        stopped_at = loop.time()
        await line.intake.drain()
        assert loop.time() == stopped_at
        assert line.connection.acknowledged == [1, 2, 3]
        running.cancel()

    virtual_time.run(play)


gaps = st.lists(st.sampled_from([0, 0, 0.0002, 0.0005, 0.003, 0.009, 0.02, 0.1]), min_size=1, max_size=120)
durations = st.lists(st.sampled_from([0, 0.001, 0.004, 0.03, 0.2]), min_size=1, max_size=6)


@settings(deadline=None, max_examples=150)
@given(gaps=gaps, takes_s=durations, linger_ms=st.sampled_from([0, 2, 16, 100]))
def test_whatever_comes_is_acknowledged_in_order_and_nothing_waits_longer_than_the_linger(
    gaps: Sequence[float], takes_s: Sequence[float], linger_ms: float
) -> None:
    times = [sum(gaps[:place]) for place in range(len(gaps))]
    # So many slots that no message waits for one: what is left is the linger alone.
    line = played(times, Store(takes_s=takes_s), linger_ms=linger_ms, batches_inflight_max=64)
    assert line.connection.acknowledged == list(range(1, len(times) + 1))
    assert [one for batch in line.store.batches for one in batch] == line.connection.acknowledged
    assert max(line.waits_s()) <= linger_ms / 1000 + 1e-9


@settings(deadline=None, max_examples=100)
@given(gaps=gaps, batch_messages_max=st.integers(1, 40), batches_inflight_max=st.integers(1, 4))
def test_the_limits_of_batches_hold_whatever_the_linger(
    gaps: Sequence[float], batch_messages_max: int, batches_inflight_max: int
) -> None:
    times = [sum(gaps[:place]) for place in range(len(gaps))]
    line = played(times, batch_messages_max=batch_messages_max, batches_inflight_max=batches_inflight_max)
    assert max(line.store.sizes) <= batch_messages_max
    assert line.connection.acknowledged == list(range(1, len(times) + 1))
