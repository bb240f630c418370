"""One timer of the event loop for all devices: a heap of who is due when."""

import asyncio
import math
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Protocol


class Sleeper(Protocol):
    """Who waits: `due_s` is when it is due, `scheduled_s` the earliest entry of its in the heap."""

    due_s: float
    scheduled_s: float

    def wake(self, now_s: float) -> None:
        """It is due."""


class Timers:
    """Wakes sleepers. A wish replaces the one before; one that moves back costs no entry of its own."""

    def __init__(self, crashed: Callable[[Exception], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._crashed = crashed
        self._heap: list[tuple[float, int, Sleeper]] = []
        self._entries = 0
        self._is_closed = False
        self._handle: asyncio.TimerHandle | None = None
        self._handle_s = math.inf

    def at(self, due_s: float, sleeper: Sleeper) -> None:
        """Wake it then, and not before."""
        sleeper.due_s = due_s
        if due_s < sleeper.scheduled_s and not self._is_closed:
            self._push(due_s, sleeper)
            self._arm()

    def close(self) -> None:
        """Wake nobody any more."""
        self._is_closed = True
        self._heap.clear()
        if self._handle is not None:
            self._handle.cancel()

    def _push(self, due_s: float, sleeper: Sleeper) -> None:
        sleeper.scheduled_s = due_s
        self._entries += 1
        heappush(self._heap, (due_s, self._entries, sleeper))

    def _arm(self) -> None:
        if not self._heap or self._heap[0][0] >= self._handle_s:
            return
        if self._handle is not None:
            self._handle.cancel()
        self._handle_s = self._heap[0][0]
        self._handle = self._loop.call_at(self._handle_s, self._fire)

    def _fire(self) -> None:
        self._handle, self._handle_s = None, math.inf
        try:
            self._wake_due(self._loop.time())
        except Exception as error:  # noqa: BLE001 - handed to who runs the fleet
            self._crashed(error)
        self._arm()

    def _wake_due(self, now_s: float) -> None:
        while self._heap and self._heap[0][0] <= now_s:
            at_s, _, sleeper = heappop(self._heap)
            if at_s != sleeper.scheduled_s:
                continue  # an earlier entry came after this one
            sleeper.scheduled_s = math.inf
            if sleeper.due_s <= now_s:
                sleeper.due_s = math.inf
                sleeper.wake(now_s)
            elif sleeper.due_s < math.inf:
                self._push(sleeper.due_s, sleeper)
