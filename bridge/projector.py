"""Keeps Redis in step with what MongoDB has, and watches for streaks that reach or leave the alert."""

from collections.abc import Sequence

from pisync import limits, logs
from pisync.events import SyncEvent
from pisync.stores.interfaces import AlertChange, StreakStore
from pisync.streaks import project

log = logs.get(__name__)


class Projector:
    """Joins events into the streak store and tells operators of devices that keep failing."""

    def __init__(self, streaks: StreakStore) -> None:
        self._streaks = streaks

    async def apply(self, events: Sequence[SyncEvent]) -> None:
        """Join the events; safe to repeat.

        Raises:
            StreakStoreUnavailable: Redis is away; nothing may have been joined, or all.
        """
        changes = await self._streaks.apply(project(events))
        while changes:
            for change in changes:
                _tell(change)
            # Confirmed only now: a crash before this tells it again, a crash after it does not lose it.
            changes = await self._streaks.confirm(changes)


def _tell(change: AlertChange) -> None:
    if change.opens:
        log.warning(
            "device keeps failing",
            device_id=change.device_id,
            failures_in_a_row=change.streak,
            threshold=limits.STREAK_ALERT,
        )
    else:
        log.info("device recovered", device_id=change.device_id)
