"""What PiSync asks of the registry of bridges."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What a claimed bridge left: whether it ran before, and since when it stored events without a watermark.

    A life that never caught up has no watermark in the projection, and its clock may have been set back.
    `instance` is the process that claimed it: this life of the bridge.
    """

    known_before: bool
    replay_from: datetime
    instance: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class BridgeRecord:
    """A bridge that may have stored events: its last life, and since when.

    `replay_from` is there where that life has never caught up: no watermark tells of what it stored since.
    """

    bridge_id: str
    instance: str
    claimed_at: datetime
    replay_from: datetime | None


class BridgeRegistry(Protocol):
    """Knows which bridges there are, and which process speaks for each.

    Each method raises `MongodbUnavailable` where MongoDB is unavailable; the call may then be repeated.
    """

    async def claim(self, bridge_id: str, instance: str, now: datetime) -> Claim:
        """Speak for a bridge from now on."""

    async def bridges(self) -> list[str]:
        """All bridges that may have stored events."""

    async def instances(self) -> Mapping[str, str]:
        """The same bridges, each with the instance that claimed it last."""

    async def records(self) -> list[BridgeRecord]:
        """The same bridges, with all that is known of them here, by their ids."""

    async def caught_up(self, bridge_id: str) -> None:
        """Record that the projection has a watermark of this life of the bridge."""

    async def holder(self, bridge_id: str) -> str | None:
        """The instance that claimed the bridge last."""

    async def server_time(self) -> datetime:
        """What the clock of the store's server says now."""

    async def forget(self, bridge_id: str) -> None:
        """Retire a bridge."""
