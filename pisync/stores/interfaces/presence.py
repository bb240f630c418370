"""What PiSync asks of the store of presence: which devices are connected, as they say it themselves."""

from collections.abc import Collection, Sequence
from typing import Protocol

from pisync.domain.presence import Presence


class PresenceReader(Protocol):
    """Tells what is known. Each method raises `MongodbUnavailable` where MongoDB is unavailable."""

    async def of(self, device_ids: Collection[str]) -> dict[str, Presence]:
        """What is known of these devices, by device; none where nothing is, or it is too old."""


class PresenceStore(PresenceReader, Protocol):
    """Keeps what devices say of their connections. It is not the projection: no event tells it."""

    async def prepare(self) -> None:
        """Create what the store needs (indexes); may be repeated."""

    async def join(self, presences: Sequence[Presence]) -> None:
        """Join each with what is kept of its device (`pisync.domain.presence.join`)."""
