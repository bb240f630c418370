"""A bridge that leaves: it ends its session only when the broker has said that nothing is held."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from bridge.service import _holds_nothing
from pisync import limits
from pisync.errors import BrokerUnavailable


class Broker:
    """Brings some messages before its answer to each ping."""

    def __init__(self, *messages: int, lost_at: int | None = None) -> None:
        self.intake = SimpleNamespace(offered=7)
        self._messages = list(messages)
        self._lost_at = lost_at
        self.pings = 0

    async def barrier(self) -> None:
        self.pings += 1
        if self.pings == self._lost_at:
            raise BrokerUnavailable("connection lost")
        self.intake.offered += self._messages.pop(0) if self._messages else 0

    async def holds_nothing(self) -> bool:
        return await _holds_nothing(cast("Any", self), cast("Any", self.intake))


async def test_nothing_is_held_when_pings_are_answered_and_nothing_came_before() -> None:
    broker = Broker()
    assert await broker.holds_nothing()
    assert broker.pings == limits.LEAVE_BARRIERS


@pytest.mark.parametrize("messages", [(1,), (0, 1), (30_000, 0)])
async def test_what_comes_before_an_answer_says_that_more_may_be_held(messages: tuple[int, ...]) -> None:
    broker = Broker(*messages)
    assert not await broker.holds_nothing()
    assert await broker.holds_nothing()  # looked at again


@pytest.mark.parametrize("lost_at", [1, 2])
async def test_a_lost_connection_says_nothing(lost_at: int) -> None:
    assert not await Broker(lost_at=lost_at).holds_nothing()
