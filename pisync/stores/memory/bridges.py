"""The registry of bridges in memory."""

from datetime import datetime

from pisync import clock
from pisync.stores.interfaces.bridges import BridgeRecord, Claim


class MemoryBridgeRegistry:
    """A `BridgeRegistry` that forgets when the process ends."""

    def __init__(self) -> None:
        self._records: dict[str, BridgeRecord] = {}
        self.floors: dict[str, datetime] = {}
        self._stored_until: dict[str, datetime] = {}
        self._stopped: set[str] = set()

    async def claim(self, bridge_id: str, instance: str, now: datetime) -> Claim:
        """Speak for a bridge from now on."""
        known_before = bridge_id in self._records
        self._stopped.discard(bridge_id)
        self._records[bridge_id] = BridgeRecord(bridge_id=bridge_id, instance=instance, claimed_at=now)
        self.floors[bridge_id] = floor = max(now, self.floors.get(bridge_id, now))
        return Claim(known_before=known_before, floor=floor, instance=instance)

    async def raise_floor(
        self, bridge_id: str, instance: str, floor: datetime, stored_until: datetime
    ) -> bool:
        """Have no later life give an earlier time of receipt."""
        if await self.holder(bridge_id) != instance:
            return False
        self.floors[bridge_id] = max(floor, self.floors[bridge_id])
        self._stored_until[bridge_id] = max(stored_until, self._stored_until.get(bridge_id, stored_until))
        return True

    async def stop(self, bridge_id: str, instance: str) -> None:
        """Say that this instance stores nothing more."""
        if await self.holder(bridge_id) == instance:
            self._stopped.add(bridge_id)

    async def stored_until(self) -> dict[str, datetime]:
        """Before when nothing more of a bridge will be stored."""
        known = self._records.keys() - self._stopped
        return {
            bridge_id: self._stored_until.get(bridge_id, self.floors[bridge_id])
            for bridge_id in sorted(known)
        }

    async def bridges(self) -> list[str]:
        """All bridges that may have stored events."""
        return list(self._records)

    async def instances(self) -> dict[str, str]:
        """The same bridges, with their instances."""
        return {bridge_id: record.instance for bridge_id, record in self._records.items()}

    async def records(self) -> list[BridgeRecord]:
        """The same bridges, with all that is known of them."""
        return [record for _, record in sorted(self._records.items())]

    async def holder(self, bridge_id: str) -> str | None:
        """The instance that claimed the bridge last."""
        return self._records[bridge_id].instance if bridge_id in self._records else None

    async def server_time(self) -> datetime:
        """What our own clock says."""
        return clock.now()

    async def forget(self, bridge_id: str) -> None:
        """Retire a bridge; only its floor is kept."""
        self._records.pop(bridge_id, None)
