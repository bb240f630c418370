"""Reads the projection into fleets: the whole of it once, then what changes, and anew where it must."""

import asyncio
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypeVar

from fleet.freshness import Moment
from fleet.index import Fleet
from pisync import limits, logs
from pisync.errors import RedisUnavailable
from pisync.stores.interfaces.feed import FeedPosition
from pisync.stores.interfaces.projection import ProjectionReader
from pisync.stores.interfaces.ranking import ProjectionStatus

log = logs.get(__name__)
_Element = TypeVar("_Element")


def parts(elements: Sequence[_Element]) -> Iterator[list[_Element]]:
    """Some at a time, between which others have their turn."""
    rest = iter(elements)
    while part := list(islice(rest, limits.FLEET_APPLIED_AT_ONCE)):
        yield part


class Reading:
    """One fleet, and how far it is read."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.read = 0
        self.of = 0
        self.behind = 0
        self.is_whole = False
        self.has_more = False
        self._position: FeedPosition | None = None

    async def step(self, projection: ProjectionReader) -> bool:
        """Read the next part; False where there is no projection, or not the one of which a part was read.

        Raises:
            RedisUnavailable: Redis is unavailable; the next step repeats what this one read.
        """
        changes = await projection.changes(self._position)
        if changes.position is None:
            return False
        for part in parts(changes.devices):
            self.fleet.apply(part)
            await asyncio.sleep(0)
        self._position = changes.position
        self.of, self.behind = changes.of, changes.behind
        # HSCAN may give a device twice.
        self.read = min(self.read + len(changes.devices), self.of)
        has_read_all = changes.position.has_read_all and not self.behind
        self.has_more = not has_read_all
        self.is_whole = self.is_whole or (has_read_all and not changes.rebuilding)
        if has_read_all or self.is_whole or self.fleet.has_many_unsettled:
            self.fleet.settle()
        return True

    def anew(self) -> "Reading":
        """The same from the beginning; what the directory says stays."""
        return Reading(self.fleet.without_facts()) if self._position is not None else self


class ProjectionFollower:
    """Serves a fleet that was read whole, but for the very first, and reads another one where it must."""

    def __init__(self, projection: ProjectionReader) -> None:
        self._projection = projection
        self.served = Reading(Fleet())
        # Another one, which takes the place of what is served; and whether that can be read no longer.
        self.next: Reading | None = None
        self._is_void = False
        self._reread_at: float | None = None
        self.as_of: Moment | None = None
        self.status: ProjectionStatus | None = None
        self.why: str | None = None

    @property
    def fleets(self) -> list[Fleet]:
        """Those that must learn what the directory says."""
        return [self.served.fleet, *([] if self.next is None else [self.next.fleet])]

    @property
    def loading(self) -> Reading:
        """What must be read until what is served is current."""
        return self.next if self._is_void and self.next is not None else self.served

    async def run(self) -> None:
        """Follow the projection, until cancelled."""
        loop = asyncio.get_running_loop()
        status_at = 0.0
        while True:
            began_at = loop.time()
            rest_s = limits.FLEET_POLL_INTERVAL_S
            try:
                if began_at >= status_at:
                    # What it calls complete is read after this.
                    self.status = await self._projection.status()
                    status_at = began_at + limits.FLEET_POLL_INTERVAL_S
                self._tell(await self.step())
                if any(reading.has_more for reading in (self.served, self.next or self.served)):
                    rest_s = min(rest_s, (loop.time() - began_at) * limits.FLEET_RESTS)
                    rest_s = rest_s if self.served.is_whole else 0
            except RedisUnavailable as error:
                self.status = None
                self._tell(error.told, str(error))
            await asyncio.sleep(rest_s)

    async def step(self) -> str | None:
        """Read the next part of what is served, and of what will be; returns why that is not fresh.

        Raises:
            RedisUnavailable: Redis is unavailable.
        """
        began = Moment.now()
        if not self._is_void and not await self.served.step(self._projection):
            if not self.served.is_whole:
                self.served = self.served.anew()
                return "there is no projection in Redis, or it began anew; bridges build it"
            self._is_void = True
        if self.served.is_whole and not self._is_void and not self.served.has_more:
            self.as_of = began
        if self.served.is_whole:
            await self._read_next(began)
        return "the projection in Redis is another one, and is read anew" if self._is_void else None

    async def _read_next(self, began: Moment) -> None:
        """Go on with the fleet that takes the place of the one that is served, where there should be one."""
        if self._reread_at is None:
            self._reread_at = began.loop_s + limits.FLEET_REREAD_INTERVAL_S
        if self.next is None and (self._is_void or began.loop_s >= self._reread_at):
            self.next = self.served.anew()
        if self.next is None:
            return
        if not await self.next.step(self._projection):
            self.next = self.next.anew()
        elif self.next.is_whole:
            self.served, self.next, self._is_void = self.next, None, False
            self._reread_at, self.as_of = None, began

    def _tell(self, why: str | None, detail: str | None = None) -> None:
        """Remember why it is not fresh, and say in the log, with the detail, when that changes."""
        if why is not None and self.why is None:
            log.warning("the fleet in memory is not fresh", why=detail or why)
        elif why is None and self.why is not None:
            log.info("the fleet in memory is fresh again")
        self.why = why
