"""The registry of bridges in memory."""

from datetime import datetime

from pisync import clock
from pisync.stores.interfaces.bridges import BridgeRecord, Claim


class MemoryBridgeRegistry:
    """A `BridgeRegistry` that forgets when the process ends."""

    def __init__(self) -> None:
        self.claims: dict[str, tuple[str, datetime | None]] = {}
        self.claimed_at: dict[str, datetime] = {}

    async def claim(self, bridge_id: str, instance: str, now: datetime) -> Claim:
        """Speak for a bridge from now on."""
        _, earlier = before = self.claims.get(bridge_id, ("", None))
        replay_from = now if earlier is None else min(now, earlier)
        self.claims[bridge_id] = (instance, replay_from)
        self.claimed_at[bridge_id] = now
        return Claim(known_before=before[0] != "", replay_from=replay_from, instance=instance)

    async def bridges(self) -> list[str]:
        """All bridges that may have stored events."""
        return list(self.claims)

    async def instances(self) -> dict[str, str]:
        """The same bridges, with their instances."""
        return {bridge_id: instance for bridge_id, (instance, _) in self.claims.items()}

    async def records(self) -> list[BridgeRecord]:
        """The same bridges, with all that is known of them."""
        return [
            BridgeRecord(
                bridge_id=bridge_id,
                instance=instance,
                claimed_at=self.claimed_at[bridge_id],
                replay_from=replay_from,
            )
            for bridge_id, (instance, replay_from) in sorted(self.claims.items())
        ]

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
