"""Whether every bridge has taken in for a while what came: before that, a silence may be ours."""

from collections.abc import Callable, Mapping
from typing import Protocol

from pisync import clock, limits
from pisync.clock import to_ms
from pisync.stores.interfaces.listening import ListeningInterval


class ListeningIntervals(Protocol):
    """What is asked of the record of listening."""

    async def intervals_since(self, since_ms: int) -> list[ListeningInterval]:
        """The intervals that ended since a moment or go on.

        Raises:
            MongodbUnavailable: MongoDB is unavailable.
        """


class Listened:
    """Asks which bridges have not listened for long enough: the broker may still hold something for them."""

    def __init__(
        self, known_bridges: Callable[[], Mapping[str, str] | None], listening: ListeningIntervals
    ) -> None:
        """Prepare.

        Args:
            known_bridges: all bridges that may hold something of a device; None: not known.
            listening: when they listened.
        """
        self._known_bridges = known_bridges
        self._listening = listening

    async def missing(self) -> list[str] | None:
        """The bridges that have not listened for long enough; None: there is none, or that is not known.

        Raises:
            MongodbUnavailable: MongoDB is unavailable.
        """
        bridges, now_ms = self._known_bridges(), to_ms(clock.now())
        since_ms = now_ms - round(limits.OVERDUE_LISTENED_S * 1000)
        found = await self._listening.intervals_since(now_ms - round(limits.LISTENING_GAP_MIN_S * 1000))
        deaf = {each.bridge_id for each in found if each.start_ms > since_ms}
        listened = {each.bridge_id for each in found} - deaf
        return sorted(bridges.keys() - listened) if bridges else None
