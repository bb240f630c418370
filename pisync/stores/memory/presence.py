"""Presence in memory."""

from collections.abc import Collection, Sequence

from pisync.domain import presence
from pisync.domain.presence import Presence


class MemoryPresenceStore:
    """A `PresenceStore` that forgets when the process ends."""

    def __init__(self) -> None:
        self.kept: dict[str, Presence] = {}

    async def prepare(self) -> None:
        """Nothing to create."""

    async def join(self, presences: Sequence[Presence]) -> None:
        """Join with what is kept."""
        for each in presences:
            self.kept[each.device_id] = presence.join(each, self.kept.get(each.device_id))

    async def of(self, device_ids: Collection[str]) -> dict[str, Presence]:
        """What is known."""
        return {each: self.kept[each] for each in device_ids if each in self.kept}
