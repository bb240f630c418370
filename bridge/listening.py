"""Writes down when this bridge listens, so that a time in which none did is not taken for devices' silence.

An interval is what was written down without a gap of more than a few seconds. A moment is written down only
after MongoDB took a write of this moment, so that what came then could be stored.
"""

from collections.abc import Callable

from pisync import limits
from pisync.stores.interfaces.listening import ListeningRecord


class Listening:
    """The interval in which this bridge listens, as long as it does."""

    def __init__(self, *, bridge_id: str, record: ListeningRecord, is_listening: Callable[[], bool]) -> None:
        """Prepare; nothing is written yet.

        Args:
            bridge_id: who listens.
            record: where it is written down.
            is_listening: whether the bridge is subscribed, and takes in what comes.
        """
        self._bridge_id = bridge_id
        self._record = record
        self._is_listening = is_listening
        self._start_ms: int | None = None
        self._until_ms = 0

    async def write(self, now_ms: int) -> None:
        """Make the interval last until now, or begin one, where the bridge listens now.

        Raises:
            MongodbUnavailable: nothing is written; the next time says it.
        """
        if not self._is_listening():
            return
        if self._start_ms is None or now_ms - self._until_ms > limits.LISTENING_GAP_MIN_S * 1000:
            self._start_ms = now_ms
        self._start_ms = await self._record.listened(self._bridge_id, self._start_ms, now_ms)
        self._until_ms = now_ms
