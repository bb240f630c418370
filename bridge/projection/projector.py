"""Merges what this bridge stores into the projection, as it is stored, and knows how far that is.

Redis being unavailable never holds up an event: what could not be merged is in MongoDB, and the projector
remembers from which time of receipt on it has to be replayed. The same memory is in Redis, as the bridge's
watermark, where it is lost and rolled back together with the data. See docs/architecture.md, "Redis can
burn".
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, repeat
from typing import Protocol

from bridge.metrics import Metrics
from bridge.projection.reception_clock import ReceptionClock
from pisync import clock, logs
from pisync.domain.alerts import AlertChange
from pisync.domain.device_state import NEVER_TOLD, project
from pisync.domain.events import SyncEvent
from pisync.errors import RedisUnavailable
from pisync.stores.interfaces.projection import Projection

log = logs.get(__name__)


class AlertReports(Protocol):
    """Who hears of alerts that may have to change."""

    def report(self, changes: Iterable[AlertChange]) -> None:
        """Have these handled soon; the caller need not wait for it."""


class Reception:
    """One batch, from its receipt until its events are merged or left to a replay.

    While it lasts, the bridge's watermark stays at or below `received_at`.
    """

    def __init__(self, projector: "Projector", received_ms: int) -> None:
        self.received_at = clock.from_ms(received_ms)
        self._received_ms = received_ms
        self.is_merged: bool | None = None  # None: nobody has asked for it yet
        self._projector = projector

    async def merge(self, stored: Sequence[SyncEvent], duplicates: Sequence[SyncEvent] = ()) -> None:
        """Merge those of the batch's events that MongoDB has; without Redis, leave them to a replay.

        `stored` are those that it has from this batch. When it received the duplicates is not known here:
        whoever stored them merges that.
        """
        self.is_merged = await self._projector.merge(stored, self._received_ms, duplicates)


class Projector:
    """Merges events into the projection while it is attached, and remembers what it could not merge."""

    def __init__(
        self,
        *,
        projection: Projection,
        alerts: AlertReports,
        metrics: Metrics,
        reception_clock: ReceptionClock,
    ) -> None:
        """Prepare; nothing is asked of Redis yet.

        Args:
            projection: what to keep in step.
            alerts: who hears of streaks that reach or leave the alert.
            metrics: what reads how far we are.
            reception_clock: what says when a batch is received, and how late a watermark may be.
        """
        self._projection = projection
        self._alerts = alerts
        self._clock = reception_clock
        self.is_attached = False
        self.is_catching_up = False
        self.detached = asyncio.Event()
        # Times of receipt of batches that are not merged yet, and the earliest of those left to a replay.
        self._in_flight: Counter[int] = Counter()
        self._behind_ms: int | None = None
        # Since when, by a clock that nobody sets, those times of receipt have been seen to be open.
        self._open_since: dict[int, float] = {}
        metrics.projection_attached.set_function(lambda: self.is_attached)
        metrics.projection_catching_up.set_function(lambda: self.is_catching_up)
        metrics.projection_lag.set_function(self._lag_s)

    @contextmanager
    def receive(self) -> Iterator[Reception]:
        """Begin a batch, which is received now, and end it.

        A batch that could not be merged is left to a replay. One that is broken off stays in flight for good:
        MongoDB may have its events, and the watermark must not pass them.

        Raises:
            RuntimeError: the batch was to end without `merge`, which is a defect.
        """
        received_ms = self._clock.now_ms()
        self._in_flight[received_ms] += 1
        reception = Reception(self, received_ms)
        yield reception
        if reception.is_merged is None:
            raise RuntimeError("a batch that was received was not merged")
        if not reception.is_merged:
            self._leave_to_replay(received_ms)
        self._in_flight -= Counter([received_ms])

    async def merge(
        self, stored: Sequence[SyncEvent], received_ms: int, duplicates: Sequence[SyncEvent] = ()
    ) -> bool:
        """Merge events into the projection; returns whether it was there to take them."""
        if not self.is_attached:
            return False
        if stored or duplicates:
            receipts_ms = chain(repeat(received_ms, len(stored)), NEVER_TOLD)
            try:
                states = project(chain(stored, duplicates), receipts_ms)
                self._alerts.report(await self._projection.apply(states))
            except RedisUnavailable as error:
                self.detach(error)
                return False
        return True

    @property
    def is_current(self) -> bool:
        """Whether all that this bridge stored is merged, or in hand."""
        return self.is_attached and not self.is_catching_up and self._behind_ms is None

    @property
    def watermark_ms(self) -> int:
        """All our events received before this are merged; no later life receives any before it either."""
        return min([*self._open_ends(), self._clock.floor_ms])

    def unmerged_ms(self) -> int:
        """For how long MongoDB may have had an event of ours that is not merged; to be asked every second.

        The wall clock cannot say: it may have been set back since that was received.
        """
        now = time.monotonic()
        self._open_since = {end: self._open_since.get(end, now) for end in self._open_ends()}
        return round((now - min(self._open_since.values(), default=now)) * 1000)

    def oldest_in_flight_ms(self) -> int | None:
        """When the oldest batch was received that may not be stored yet; None where there is none."""
        return min(self._in_flight, default=None)

    @property
    def is_settled(self) -> bool:
        """Whether all that this bridge stored is merged, and nothing is in hand."""
        return self.is_current and not self._in_flight

    def _open_ends(self) -> list[int]:
        return [*self._in_flight, *([] if self._behind_ms is None else [self._behind_ms])]

    def attach(self, start_ms: int) -> None:
        """Merge from now on, while everything received at `start_ms` or later is replayed."""
        self.is_attached = self.is_catching_up = True
        self.detached.clear()
        self._leave_to_replay(start_ms)

    def catch_up(self) -> None:
        """Take note that the replay is over.

        Raises:
            RedisUnavailable: a live batch lost the projection meanwhile; the replay has to be repeated.
        """
        if not self.is_attached:
            raise RedisUnavailable("it became unavailable during the replay")
        # A batch that was left to a replay since would have detached us.
        self._behind_ms = None
        self.is_catching_up = False

    def detach(self, error: RedisUnavailable) -> None:
        """Merge no more, until attached again."""
        if self.is_attached:
            log.warning("projection unavailable", why=str(error))
        self.is_attached = self.is_catching_up = False
        self.detached.set()

    def _leave_to_replay(self, received_ms: int) -> None:
        self._behind_ms = received_ms if self._behind_ms is None else min(self._behind_ms, received_ms)

    def _lag_s(self) -> float:
        now_ms = self._clock.now_ms()
        oldest_ms = min(self._open_ends(), default=now_ms)
        return (now_ms - oldest_ms) / 1000 if oldest_ms else math.inf
