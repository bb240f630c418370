"""The registry of bridges in memory."""

from datetime import datetime

from pisync import clock
from pisync.stores.interfaces.bridges import Claim


class MemoryBridgeRegistry:
    """A `BridgeRegistry` that forgets when the process ends."""

    def __init__(self) -> None:
        self.claims: dict[str, tuple[str, datetime | None]] = {}

    async def claim(self, bridge_id: str, instance: str, now: datetime) -> Claim:
        """Speak for a bridge from now on."""
        _, earlier = before = self.claims.get(bridge_id, ("", None))
        replay_from = now if earlier is None else min(now, earlier)
        self.claims[bridge_id] = (instance, replay_from)
        return Claim(known_before=before[0] != "", replay_from=replay_from)

    async def bridges(self) -> list[str]:
        """All bridges that may have stored events."""
        return list(self.claims)

    async def caught_up(self, bridge_id: str) -> None:
        """Record that this life has a watermark."""
        if bridge_id in self.claims:
            self.claims[bridge_id] = (self.claims[bridge_id][0], None)

    async def holder(self, bridge_id: str) -> str | None:
        """The instance that claimed the bridge last."""
        return self.claims[bridge_id][0] if bridge_id in self.claims else None

    async def server_time(self) -> datetime:
        """What our own clock says."""
        return clock.now()

    async def forget(self, bridge_id: str) -> None:
        """Retire a bridge."""
        self.claims.pop(bridge_id, None)
