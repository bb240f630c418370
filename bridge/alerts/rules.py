"""The rules by which alerts open and close: a class for each, and the table that lists them.

A rule says what is due by the truth, which is MongoDB. How it comes to look at a device, from a report of the
projection or in a comparison of everything, is its own matter.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

from pisync import limits
from pisync.domain.alerts import AlertChange, CloseReason, Rule
from pisync.stores.interfaces.events import EventStore
from pisync.stores.interfaces.projection import Projection


class AlertRule(Protocol):
    """What the judge asks of a rule.

    `opened` and `closed` are the log's words for a device whose alert was opened or closed, `close_reason`
    is why. The methods raise `Unavailable` where a store is unavailable; the call may then be repeated.
    """

    rule: Rule
    opened: str
    closed: str
    close_reason: CloseReason

    async def due(self, device_ids: Collection[str]) -> set[str]:
        """Those of the devices that should have an open alert, by the truth."""

    async def compare(self, open_devices: Collection[str]) -> list[AlertChange]:
        """Look at everything: which alerts may have to change, where these devices have an open one."""

    async def confirm(self, changes: Sequence[AlertChange]) -> list[AlertChange]:
        """Take note that these changes are in MongoDB; returns those that are out of date again."""


class StreakRule:
    """An alert is due while the newest `limits.STREAK_ALERT` events of a device are all failures.

    The projection reports which devices to look at; it may be behind what another bridge stored, and so it
    does not judge. It is told what became of it, or it would report the same devices with every batch.
    """

    rule = Rule.STREAK
    opened = "device keeps failing"
    closed = "device recovered"
    close_reason = CloseReason.RECOVERED

    def __init__(self, *, events: EventStore, projection: Projection) -> None:
        self._events = events
        self._projection = projection

    async def due(self, device_ids: Collection[str]) -> set[str]:
        """Those whose newest events are all failures."""
        return await self._events.failing(device_ids, limits.STREAK_ALERT)

    async def compare(self, open_devices: Collection[str]) -> list[AlertChange]:
        """Compare streaks, open alerts and confirmed alerts."""
        return await self._projection.compare_alerts(open_devices)

    async def confirm(self, changes: Sequence[AlertChange]) -> list[AlertChange]:
        """Confirm the alerts in the projection."""
        return await self._projection.confirm(changes)


def all_rules(*, events: EventStore, projection: Projection) -> list[AlertRule]:
    """Every rule by which bridges judge; by the rule `overdue` a worker does."""
    return [StreakRule(events=events, projection=projection)]
