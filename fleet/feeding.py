"""Keeps the fleet in memory fresh, by projection, directory and the record of listening, and says how fresh.

What is served was read whole. Where a position is void (Redis was emptied, restarted, went back), and every
ten minutes, another fleet is read beside it and takes its place once it is whole, so that a device that is
gone without a word goes as well.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from fleet.directory import DirectoryFollower, DirectoryReader
from fleet.freshness import FleetState, Freshness
from fleet.index import Fleet
from fleet.reading import ProjectionFollower
from pisync import limits, logs
from pisync.clock import now, to_ms
from pisync.domain.calendars import Calendar, ListeningGap, earliest_counted_ms, silence_limit_ms
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.projection import ProjectionReader
from pisync.tasks import supervise

log = logs.get(__name__)


class ListeningReader(Protocol):
    """What the fleet asks of the record of listening."""

    async def gaps(self, since_ms: int, until_ms: int) -> list[ListeningGap]:
        """The times of a window in which no bridge listened, ascending.

        Raises:
            MongodbUnavailable: MongoDB is unavailable.
        """


class SilenceFollower:
    """Finds out again and again since when a device must be silent to be overdue.

    While the record of listening cannot be read nobody becomes overdue: it may have been us.
    """

    def __init__(self, listening: ListeningReader, fleets: Callable[[], Sequence[Fleet]]) -> None:
        self._listening = listening
        self._fleets = fleets
        self._found_at: float | None = None
        self.gaps: list[ListeningGap] = []
        self.why: str | None = None

    async def run(self) -> None:
        """Follow the record of listening, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                if self._is_due(loop.time()):
                    await self.step()
                    self._found_at, self.why = loop.time(), None
            except MongodbUnavailable as error:
                if self.why is None:
                    log.warning("the fleet in memory does not learn when bridges listened", why=str(error))
                self.why = error.told
            await asyncio.sleep(limits.FLEET_POLL_INTERVAL_S)

    def _is_due(self, now_s: float) -> bool:
        if self._found_at is None or now_s >= self._found_at + limits.FLEET_SILENCE_INTERVAL_S:
            return True
        return any(fleet.lacks_limits for fleet in self._fleets())

    @property
    def is_known(self) -> bool:
        """Whether the moments were ever found."""
        return self._found_at is not None

    async def step(self) -> None:
        """Find the moments for all calendars and habits.

        Raises:
            MongodbUnavailable: MongoDB is unavailable.
        """
        now_ms = to_ms(now())
        gaps = self.gaps = await self._listening.gaps(earliest_counted_ms(now_ms), now_ms)
        found: dict[tuple[Calendar, int], int] = {}
        for calendar, days in set().union(*(fleet.habits() for fleet in self._fleets())):
            found[calendar, days] = silence_limit_ms(calendar, days, now_ms, gaps)
            await asyncio.sleep(0)
        for fleet in self._fleets():
            fleet.set_limits(found)


class Feeding:
    """The fleet in memory and what keeps it fresh; `run` runs as long as it is served."""

    def __init__(
        self, *, projection: ProjectionReader, directory: DirectoryReader, listening: ListeningReader
    ) -> None:
        self._projection = ProjectionFollower(projection)
        self._directory = DirectoryFollower(directory, lambda: self._projection.fleets)
        self._silence = SilenceFollower(listening, lambda: self._projection.fleets)

    @property
    def fleet(self) -> Fleet:
        """The fleet as it is now; another one later. It does not change before somebody awaits."""
        return self._projection.served.fleet

    @property
    def gaps(self) -> Sequence[ListeningGap]:
        """The times in which no bridge listened, ascending, as they were known some seconds ago."""
        return self._silence.gaps

    async def run(self) -> None:
        """Keep it fresh, until cancelled."""
        works = {
            "fleet: projection": self._projection.run(),
            "fleet: directory": self._directory.run(),
            "fleet: silence": self._silence.run(),
        }
        async with supervise(works) as running:
            await running.until(asyncio.Event())

    @property
    def freshness(self) -> Freshness:
        """How fresh it is."""
        followed, loading = self._projection, self._projection.loading
        moments = [each for each in (followed.as_of, self._directory.as_of) if each is not None]
        as_of = min(moments, key=lambda moment: moment.loop_s, default=None)
        why = followed.why or self._directory.why or self._silence.why
        behind = followed.served.behind
        if None in {followed.as_of, self._directory.as_of} or as_of is None or not self._silence.is_known:
            state, as_of = FleetState.LOADING, None
        elif why is not None:
            state = FleetState.STALE
        elif self.fleet.lacks_limits:
            state, why = FleetState.STALE, "a calendar or a habit is new"
        elif behind:
            state = FleetState.BEHIND
        elif asyncio.get_running_loop().time() - as_of.loop_s > limits.FLEET_YOUNG_S:
            state, why = FleetState.STALE, "nothing was read since"
        else:
            state = FleetState.CURRENT
        return Freshness(
            state=state,
            as_of=None if as_of is None else as_of.wall,
            read=loading.read,
            of=loading.of,
            behind=behind,
            why=why,
            projection=followed.status,
        )
