"""The record of when bridges listened, in memory."""

from pisync import limits
from pisync.domain.calendars import ListeningGap, gaps_between
from pisync.stores.interfaces.listening import ListeningInterval


class MemoryListeningRecord:
    """A `ListeningRecord` that forgets when the process ends."""

    def __init__(self) -> None:
        self.intervals: dict[tuple[str, int], int] = {}

    async def prepare(self) -> None:
        """There is nothing to make."""

    async def listened(self, bridge_id: str, start_ms: int, until_ms: int) -> int:
        """Write down that a bridge has listened from one moment until another."""
        if (bridge_id, start_ms) not in self.intervals:
            earlier = [start for name, start in self.intervals if name == bridge_id and start < start_ms]
            newest = max(earlier, default=None)
            shortest_ms = limits.LISTENING_GAP_MIN_S * 1000
            if newest is not None and start_ms - self.intervals[bridge_id, newest] <= shortest_ms:
                start_ms = newest
        interval = bridge_id, start_ms
        self.intervals[interval] = max(until_ms, self.intervals.get(interval, until_ms))
        return start_ms

    async def intervals_since(self, since_ms: int) -> list[ListeningInterval]:
        """Those that ended since a moment or go on."""
        found = [
            ListeningInterval(*key, until_ms)
            for key, until_ms in self.intervals.items()
            if until_ms >= since_ms
        ]
        found.sort(key=lambda each: each.until_ms, reverse=True)
        return found[: limits.LISTENING_INTERVALS_MAX]

    async def gaps(self, since_ms: int, until_ms: int) -> list[ListeningGap]:
        """The times of a window in which no bridge listened."""
        found = await self.intervals_since(since_ms)
        return gaps_between([(each.start_ms, each.until_ms) for each in found], since_ms, until_ms)
