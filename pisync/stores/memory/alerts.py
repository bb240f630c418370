"""Alerts in memory."""

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from pisync.domain.alerts import Alert, CloseReason, Rule, new_alert_id
from pisync.stores.interfaces.alerts import AlertQuery


class MemoryAlertStore:
    """An `AlertStore` that forgets when the process ends."""

    def __init__(self) -> None:
        self.alerts: list[Alert] = []
        self.silent: set[str] = set()

    async def prepare(self) -> None:
        """Nothing to create."""

    async def open(self, rule: Rule, streaks: Mapping[str, int], now: datetime) -> set[str]:
        """Open alerts."""
        opened = streaks.keys() - set(await self.open_devices(rule))
        for device_id in opened:
            alert = Alert(
                alert_id=new_alert_id(now, secrets.token_hex(8)),
                device_id=device_id,
                rule=rule,
                streak=streaks[device_id],
                opened_at=now,
                closed_at=None,
            )
            self.alerts.append(alert)
            self.silent.add(alert.alert_id)
        self.alerts.sort(key=lambda alert: alert.alert_id)
        return opened

    async def resolve(
        self,
        rule: Rule,
        device_ids: Collection[str],
        now: datetime,
        reason: CloseReason = CloseReason.RECOVERED,
    ) -> set[str]:
        """Close the open alerts."""
        closed = set()
        for place, alert in enumerate(self.alerts):
            if alert.device_id in device_ids and alert.rule == rule and alert.closed_at is None:
                self.alerts[place] = replace(alert, closed_at=now, close_reason=reason)
                self.silent.add(alert.alert_id)
                closed.add(alert.device_id)
        return closed

    async def open_devices(self, rule: Rule) -> list[str]:
        """The devices with an open alert of the rule."""
        return [alert.device_id for alert in self.alerts if alert.closed_at is None and alert.rule == rule]

    async def count_open(self) -> dict[Rule, int]:
        """How many alerts of each rule are open."""
        return {rule: len(await self.open_devices(rule)) for rule in Rule}

    async def find(self, query: AlertQuery) -> list[Alert]:
        """A page of alerts."""
        page = [
            alert
            for alert in reversed(self.alerts)
            if query.is_open in {None, alert.closed_at is None}
            and query.rule in {None, alert.rule}
            and query.device_id in {None, alert.device_id}
            and (query.alert_ids is None or alert.alert_id in query.alert_ids)
            and (query.before is None or alert.alert_id < query.before)
        ]
        return page[: query.limit]

    async def open_alerts(self, device_ids: Collection[str]) -> dict[tuple[str, Rule], Alert]:
        """The open alerts of these devices."""
        return {
            (alert.device_id, alert.rule): alert
            for alert in self.alerts
            if alert.closed_at is None and alert.device_id in device_ids
        }

    async def unpublished(self, limit: int) -> list[Alert]:
        """Alerts whose present state was not published."""
        return [alert for alert in self.alerts if alert.alert_id in self.silent][:limit]

    async def publish_again(self, closed_since: datetime) -> None:
        """Count them as not published."""
        self.silent |= {
            alert.alert_id
            for alert in self.alerts
            if alert.closed_at is None or alert.closed_at >= closed_since
        }

    async def published(self, alerts: Sequence[Alert]) -> bool:
        """Record that these states were published; returns whether they still are what is so."""
        present = [alert for alert in alerts if alert in self.alerts]
        self.silent.difference_update(alert.alert_id for alert in present)
        return len(present) == len(alerts)
