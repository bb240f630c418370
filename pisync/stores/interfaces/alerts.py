"""What PiSync asks of the store of alerts."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from pisync.domain.alerts import Alert


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertQuery:
    """A page of alerts, newest first; `is_open` None: open and closed; `before`: an alert's id."""

    limit: int
    is_open: bool | None = None
    device_id: str | None = None
    before: str | None = None


# What an alert's id looks like.
ALERT_ID_PATTERN: Final = "[0-9a-f]{24}"


class AlertStore(Protocol):
    """Keeps alerts, at most one open for a device.

    Each method raises `MongodbUnavailable` where MongoDB is unavailable; the call may then be repeated.
    """

    async def prepare(self) -> None:
        """Create what the store needs (indexes); may be repeated."""

    async def open(self, streaks: Mapping[str, int], now: datetime) -> set[str]:
        """Open an alert for each device, which has this streak; returns those that had none open."""

    async def resolve(self, device_ids: Collection[str], now: datetime) -> set[str]:
        """Close the devices' open alerts; returns those that had one."""

    async def open_devices(self) -> list[str]:
        """The devices with an open alert."""

    async def find(self, query: AlertQuery) -> list[Alert]:
        """A page of alerts."""

    async def open_alerts(self, device_ids: Collection[str]) -> dict[str, Alert]:
        """The open alert of each of these devices that has one."""

    async def unannounced(self, limit: int) -> list[Alert]:
        """Alerts whose present state was not published yet, oldest first."""

    async def announce_again(self, closed_since: datetime) -> None:
        """Count open alerts, and those closed since then, as not published: the broker may have lost them."""

    async def announced(self, alerts: Sequence[Alert]) -> None:
        """Record that this state of each alert was published."""
