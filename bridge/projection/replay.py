"""One replay of events, and of bases, into the projection: from where, how far it is, where to go on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from pisync import clock, limits
from pisync.domain.accumulator import Accumulator
from pisync.errors import MongodbUnavailable, Unavailable
from pisync.stores.interfaces.events import EventStore, ReplayPosition
from pisync.stores.interfaces.projection import Projection


class Replay:
    """Merges what was stored since some time: `replayed` of `to_replay` events, which is 0 while unknown."""

    def __init__(self, *, events: EventStore, projection: Projection, start_ms: int) -> None:
        """Prepare; 0 is everything."""
        self._events = events
        self._projection = projection
        self._since = clock.from_ms(start_ms) if start_ms else None
        self._position = ReplayPosition()
        self._accumulator = Accumulator()
        self.replayed = 0
        self.to_replay = 0

    async def run(self) -> AsyncIterator[int]:
        """Merge everything, from where an earlier run was interrupted; gives how many events each merge had.

        States are accumulated until the next bucket begins, or until they take much memory: a device is
        merged about once for all the days that the replay reads together.

        Raises:
            MongodbUnavailable: another run goes on from there; all that was read is merged.
            RedisUnavailable: what was merged may be lost.
        """
        bucket, interruption = None, None
        try:
            # A primary that was replaced, and does not know it yet, lacks what others acknowledged since.
            await self._events.confirm_primary()
            async for batch in self._events.replay(self._since, self._position):
                if batch.bucket != bucket or self._accumulator.bytes_held > limits.REPLAY_HELD_BYTES_MAX:
                    yield await self._merge()
                bucket = batch.bucket
                self._accumulator.add(batch)
            # After the events: what is deleted while those are read is found here.
            async for states in self._events.bases(self._since):
                await self._projection.apply(states, anew=self._since is None)
                yield 0
        except MongodbUnavailable as error:
            interruption = error
        yield await self._merge()
        if interruption is not None:
            raise interruption

    async def _merge(self) -> int:
        """Merge all that is accumulated; returns how many events that were."""
        count = self._accumulator.events
        for states in self._accumulator.take(limits.REPLAY_MERGED_AT_ONCE):
            # What a replay of everything finds may lack keys: evicted, or of a rebuild that was broken off.
            await self._projection.apply(states, anew=self._since is None)
        self.replayed += count
        return count

    async def count(self) -> None:
        """Find out how many there are, and wait to be cancelled.

        It runs beside the replay: the more events there are, the longer it takes.
        """
        with suppress(Unavailable):  # nobody needs it
            self.to_replay = await self._events.count(self._since)
        await asyncio.Event().wait()
