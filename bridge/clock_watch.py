"""Holds this machine's clock against MongoDB's; while they differ by minutes, nothing is taken in.

A bridge whose clock is behind rejects good events as `clock_ahead`, and their devices forget them; one whose
clock is ahead takes events from the future, which hide every later failure. Which of the two clocks is wrong
cannot be told from here, so the bridge waits for a person, or for NTP.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Protocol

from bridge.metrics import Metrics
from pisync import clock, limits, logs
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.bridges import BridgeRegistry

log = logs.get(__name__)


class Gate(Protocol):
    """What lets messages in."""

    def hold(self) -> None:
        """Take nothing in until `release`."""

    def release(self) -> None:
        """Take messages in again."""


class ClockWatch:
    """Knows by how much the two clocks differ: asked of MongoDB now and then, and reckoned in between."""

    def __init__(
        self,
        *,
        registry: BridgeRegistry,
        metrics: Metrics,
        now: Callable[[], datetime] | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
        interval_s: float = limits.CLOCK_CHECK_INTERVAL_S,
    ) -> None:
        """Prepare; until the first check the clock counts as wrong.

        Args:
            registry: whom to ask for MongoDB's time.
            metrics: what reads the difference.
            now: the wall clock; None: this machine's.
            monotonic_s: a clock that nobody sets, in seconds.
            interval_s: how long between two checks.
        """
        self._registry = registry
        self._now = now or clock.now
        self._monotonic_s = monotonic_s
        self._interval_s = interval_s
        # The wall clock's time less the monotonic one's where the wall clock would agree with MongoDB's.
        self._right_s: float | None = None
        self._doubted = asyncio.Event()
        metrics.clock_difference.set_function(self.difference_s)
        metrics.clock_right.set_function(lambda: self.is_right)

    def difference_s(self) -> float | None:
        """How far our clock is ahead of MongoDB's, in seconds; None before MongoDB was asked."""
        return None if self._right_s is None else self._reading_s() - self._right_s

    @property
    def is_right(self) -> bool:
        """Whether the clocks agree, as far as can be told without asking."""
        difference_s = self.difference_s()
        return difference_s is not None and abs(difference_s) <= limits.CLOCK_DIFFERENCE_S_MAX

    def right_now(self) -> datetime:
        """The time by this machine's clock, or by MongoDB's where a reading of ours is wrong.

        What was let in is judged a moment later, and a clock may be set in between: each reading is looked at
        by itself.
        """
        now = self._now()
        if self._right_s is None:
            return now
        right_s = self._right_s + self._monotonic_s()
        if abs(clock.to_ms(now) / 1000 - right_s) <= limits.CLOCK_DIFFERENCE_S_MAX:
            return now
        return clock.from_ms(round(right_s * 1000))

    def vouch(self) -> bool:
        """Whether the clock is right at this moment; where it is not, have MongoDB asked at once."""
        if self.is_right:
            return True
        self._doubted.set()
        return False

    async def check(self) -> bool:
        """Ask MongoDB; returns whether the clocks agree.

        Raises:
            MongodbUnavailable: it cannot be asked.
        """
        asked_s = self._monotonic_s()
        theirs = await self._registry.server_time()
        took_s = self._monotonic_s() - asked_s
        # It was read somewhere between question and answer: a slow answer proves nothing to the second.
        right_s = clock.to_ms(theirs) / 1000 - self._monotonic_s()
        earliest_s, latest_s = right_s, right_s + took_s
        self._right_s = min(max(self._reading_s(), earliest_s), latest_s)
        if not self.is_right:
            log.error(
                "the clock is wrong",
                ours=clock.rfc3339(self._now()),
                mongodb=clock.rfc3339(theirs),
                meaning="nothing is taken in until the clocks of this machine and of MongoDB agree to"
                f" {limits.CLOCK_DIFFERENCE_S_MAX:g} s; set the wrong one, by NTP",
            )
        return self.is_right

    async def agree(self) -> None:
        """Return once the clocks agree.

        Raises:
            MongodbUnavailable: it cannot be asked.
        """
        while True:
            if await self.check():
                return
            await asyncio.sleep(self._interval_s)

    async def run(self, gate: Gate) -> None:
        """Check now and then, and when in doubt; hold the gate while the clocks differ."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._doubted.wait()
            self._doubted.clear()
            try:
                right = await self.check()
            except MongodbUnavailable:
                continue  # nothing can be stored either; who doubted waits
            if right:
                gate.release()
            else:
                gate.hold()

    def _reading_s(self) -> float:
        return clock.to_ms(self._now()) / 1000 - self._monotonic_s()
