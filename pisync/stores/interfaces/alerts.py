"""What PiSync asks of the store of alerts."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pisync.domain.alerts import Alert, CloseReason, Rule


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertQuery:
    """A page of alerts, newest first by when they were opened.

    `is_open` None: open and closed; `rule` and `device_id` None: of all; `alert_ids`: only some of these;
    `before`: the id of an alert, of which only older ones are found.
    """

    limit: int
    is_open: bool | None = None
    rule: Rule | None = None
    device_id: str | None = None
    alert_ids: Collection[str] | None = None
    before: str | None = None


class AlertStore(Protocol):
    """Keeps alerts, of each rule at most one open for a device.

    Each method raises `MongodbUnavailable` where MongoDB is unavailable; the call may then be repeated.
    """

    async def prepare(self) -> None:
        """Create what the store needs (indexes); may be repeated."""

    async def open(self, rule: Rule, streaks: Mapping[str, int], now: datetime) -> set[str]:
        """Open the rule's alert for each device, which has this streak; returns those that had none open."""

    async def resolve(
        self,
        rule: Rule,
        device_ids: Collection[str],
        now: datetime,
        reason: CloseReason = CloseReason.RECOVERED,
    ) -> set[str]:
        """Close the rule's open alerts for these devices; returns those that had one."""

    async def open_devices(self, rule: Rule) -> list[str]:
        """The devices with an open alert of the rule."""

    async def count_open(self) -> dict[Rule, int]:
        """How many alerts of each rule are open."""

    async def find(self, query: AlertQuery) -> list[Alert]:
        """A page of alerts."""

    async def open_alerts(self, device_ids: Collection[str]) -> dict[tuple[str, Rule], Alert]:
        """The open alerts of these devices, by device and rule."""

    async def unpublished(self, limit: int) -> list[Alert]:
        """Alerts whose present state was not published yet, oldest first."""

    async def publish_again(self, closed_since: datetime) -> None:
        """Count open alerts, and those closed since then, as not published: the broker may have lost them."""

    async def published(self, alerts: Sequence[Alert]) -> bool:
        """Record that this state of each alert was published; returns whether each of them still has it."""
