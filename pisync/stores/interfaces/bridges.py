"""What PiSync asks of the registry of bridges."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What a claimed bridge left: whether it ran before, and its floor.

    The floor is the earliest time of receipt that this life may give: no watermark that an earlier life wrote
    is later, whatever the clock says now, and the bridge may have been forgotten meanwhile. `instance` is the
    process that claimed it: this life of the bridge.
    """

    known_before: bool
    floor: datetime
    instance: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class BridgeRecord:
    """A bridge that may have stored events: its last life, and since when."""

    bridge_id: str
    instance: str
    claimed_at: datetime


class BridgeRegistry(Protocol):
    """Knows which bridges there are, and which process speaks for each.

    Each method raises `MongodbUnavailable` where MongoDB is unavailable; the call may then be repeated.
    """

    async def claim(self, bridge_id: str, instance: str, now: datetime) -> Claim:
        """Speak for a bridge from now on; its floor is now, or later where it was."""

    async def raise_floor(
        self, bridge_id: str, instance: str, floor: datetime, stored_until: datetime
    ) -> bool:
        """Have no later life give an earlier time of receipt; False where another instance has the bridge.

        All that this instance received before `stored_until` is stored, and nothing else is to come.
        """

    async def stop(self, bridge_id: str, instance: str) -> None:
        """Say that this instance stores nothing more: until the next claim nobody waits for the bridge."""

    async def stored_until(self) -> Mapping[str, datetime]:
        """Before when nothing more of a bridge will be stored, of all those that have not stopped.

        One that never said so will store nothing that it received before its floor. A new bridge may begin
        behind all others, by as much as its clock may be behind.
        """

    async def bridges(self) -> list[str]:
        """All bridges that may have stored events."""

    async def instances(self) -> Mapping[str, str]:
        """The same bridges, each with the instance that claimed it last."""

    async def records(self) -> list[BridgeRecord]:
        """The same bridges, with all that is known of them here, by their ids."""

    async def holder(self, bridge_id: str) -> str | None:
        """The instance that claimed the bridge last."""

    async def server_time(self) -> datetime:
        """What the clock of the store's server says now."""

    async def forget(self, bridge_id: str) -> None:
        """Retire a bridge; only its floor is kept, for Redis may go back to when it was there."""
