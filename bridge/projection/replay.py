"""One replay of events into the projection: from where, how far it is, and where to go on."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from pisync import clock
from pisync.domain.device_state import DeviceState, project
from pisync.errors import Unavailable
from pisync.stores.interfaces.events import EventStore, HistoryEntry, ReplayPosition
from pisync.stores.interfaces.projection import Projection


class Replay:
    """Merges what was stored since some time: `replayed` of `to_replay` events, which is 0 while unknown."""

    def __init__(self, *, events: EventStore, projection: Projection, start_ms: int) -> None:
        """Prepare; 0 is everything."""
        self._events = events
        self._projection = projection
        self._since = clock.from_ms(start_ms) if start_ms else None
        self._position = ReplayPosition()
        self.replayed = 0
        self.to_replay = 0

    async def run(self) -> AsyncIterator[int]:
        """Merge batch after batch, from where an earlier run was interrupted; gives the events in each.

        Raises:
            MongodbUnavailable: another run goes on from there.
            RedisUnavailable: what was merged may be lost.
        """
        async for batch in self._events.replay(self._since, self._position):
            # What a replay of everything finds may lack keys: evicted, or of a rebuild that was broken off.
            await self._projection.apply(stored_states(batch), anew=self._since is None)
            self.replayed += len(batch)
            yield len(batch)

    async def count(self) -> None:
        """Find out how many there are, and wait to be cancelled.

        It runs beside the replay: the more events there are, the longer it takes.
        """
        with suppress(Unavailable):  # nobody needs it
            self.to_replay = await self._events.count(self._since)
        await asyncio.Event().wait()


def stored_states(entries: Sequence[HistoryEntry]) -> dict[str, DeviceState]:
    """The state of each device after exactly these stored events."""
    receipts_ms = [clock.to_ms(entry.received_at) for entry in entries]
    return project([entry.event for entry in entries], receipts_ms)
