"""What `pisync status` asks, and how it judges: does anything need somebody, and are the figures exact."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from http import HTTPStatus
from typing import Any, Final

from cli import truth
from cli.api_client import ApiClient, ApiRefused, Json, StillLoading
from cli.listing import PAGE
from pisync import limits
from pisync.domain.alerts import Rule
from pisync.domain.payloads import printable
from pisync.errors import ConfigurationError

# Alerts that are read, of which the loud ones are counted; with more, the count is a lower bound.
ALERTS_READ_MAX: Final = 1000
CAUSES_SHOWN: Final = 5


class Verdict(IntEnum):
    """What the exit code says."""

    FINE = 0
    UNHANDLED = 1
    NOT_EXACT = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """What the api answered; an answer that it could not give is empty, and `faults` says why.

    `counts` are of devices that are not muted, by state. `alerts` are the open ones, `more_alerts` whether
    there are more; those of `muted` devices are handled, and those that one of the acknowledged
    `known_incidents` explains.
    """

    stats: Json
    health: Json
    counts: Mapping[str, int]
    causes: list[Json]
    alerts: list[Json]
    more_alerts: bool
    muted: frozenset[str]
    known_incidents: frozenset[str]
    faults: tuple[str, ...]

    @property
    def loud(self) -> list[Json]:
        """Open alerts that nobody knows of, of devices that are not muted."""
        return [
            alert
            for alert in self.alerts
            if not self._is_known(alert) and alert["device_id"] not in self.muted
        ]

    @property
    def quiet(self) -> list[Json]:
        """Open alerts that somebody knows of, of devices that are not muted."""
        return [
            alert for alert in self.alerts if self._is_known(alert) and alert["device_id"] not in self.muted
        ]

    def _is_known(self, alert: Json) -> bool:
        """Whether somebody acknowledged it, or the incident that explains it."""
        return alert.get("acknowledged") is not None or alert.get("incident_id") in self.known_incidents

    def unhandled(self) -> list[str]:
        """What needs somebody, in words."""
        found = []
        if self.loud:
            found.append(f"{many(len(self.loud), 'alert', more=self.more_alerts)} not acknowledged")
        failing = self._unknown_to_anybody("failing", Rule.STREAK)
        if failing and not self.more_alerts and not any(a["rule"] == Rule.STREAK for a in self.loud):
            found.append(f"{many(failing, 'device')} failing without an alert")
        if overdue := self._unknown_to_anybody("overdue", Rule.OVERDUE):
            found.append(f"{many(overdue, 'device')} overdue")
        return found

    def _unknown_to_anybody(self, state: str, rule: Rule) -> int:
        """How many devices are so, without those whose alert by this rule somebody acknowledged."""
        quiet = {alert["device_id"] for alert in self.quiet if alert["rule"] == rule}
        return max(0, int(self.counts.get(state, 0)) - len(quiet))

    def not_exact(self) -> list[str]:
        """Why the figures are not exact, in words."""
        found = list(dict.fromkeys((*self.faults, *truth.faults(self.stats))))
        return found + [fault for fault in self._ill() if fault.partition(": ")[2] not in found]

    def verdict(self) -> Verdict:
        """Figures that are not exact are no ground to call anything fine, or the only trouble."""
        if self.not_exact():
            return Verdict.NOT_EXACT
        return Verdict.UNHANDLED if self.unhandled() else Verdict.FINE

    def as_json(self) -> Json:
        """The api's own rows, and what follows from them."""
        return {
            "verdict": self.verdict().name.lower(),
            "unhandled": self.unhandled(),
            "not_exact": self.not_exact(),
            "not_muted": dict(self.counts),
            "stats": self.stats,
            "health": self.health,
            "causes": self.causes,
            "alerts": self.alerts,
        }

    def _ill(self) -> list[str]:
        """The parts that are not as they should be.

        Rollups are judged by their lag: that older ones are still being counted hides nothing of a day.
        """
        found = [
            f"{name}: {printable(str(part['why']))}"
            for name, part in self.health.get("parts", {}).items()
            if not part["ok"] and name != "rollups"
        ]
        lag_s = self.rollup_lag_s
        if lag_s is None:
            found.append("rollups: how far they are is not known")
        elif lag_s > limits.ROLLUPS_HEALTHY_S_MAX:
            found.append(f"rollups: {lag_s:,.0f} s behind")
        return found

    @property
    def rollup_lag_s(self) -> float | None:
        """For how long back what was received is not counted yet; None: not known."""
        lag_s: float | None = (self.health.get("rollups") or {}).get("lag_s")
        return lag_s

    @property
    def bridges(self) -> list[Json] | None:
        """The bridges that were not stopped in order; None: not known."""
        told = self._all_bridges
        return None if told is None else [bridge for bridge in told if not bridge["stopped"]]

    @property
    def stopped_bridges(self) -> list[Json]:
        """Those that were."""
        return [bridge for bridge in self._all_bridges or () if bridge["stopped"]]

    @property
    def _all_bridges(self) -> list[Json] | None:
        told: list[Json] | None = self.health.get("bridges")
        return told


def many(number: int, noun: str, *, more: bool = False) -> str:
    """Such as `1 device`, `2 devices`, `1,000 or more alerts`."""
    return f"{number:,}{' or more' if more else ''} {noun}{'' if number == 1 and not more else 's'}"


def ask(client: ApiClient) -> Snapshot:
    """All that status shows.

    Raises:
        ApiAway: nothing answers, or something that is not PiSync's api.
        PiSyncError: the key is wrong, or the api refuses for another cause than that it cannot tell yet.
    """
    faults: list[str] = []

    def get(path: str, parameters: Mapping[str, Any] | None = None) -> Json:
        try:
            return client.get(path, parameters)
        except StillLoading as loading:
            faults.append(str(loading))
        except ApiRefused as refused:
            if refused.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
                raise ConfigurationError(str(refused)) from None
            if refused.status != HTTPStatus.SERVICE_UNAVAILABLE:
                raise
            faults.append(str(refused))
        return {}

    health = get("/api/health")
    stats = get("/api/stats", {"unit": "hour", "since": "24h"})
    counts = get("/api/devices", {"muted": False, "limit": 1}).get("counts", {})
    causes = get("/api/causes", {"limit": CAUSES_SHOWN}).get("causes", [])
    page = get("/api/alerts", {"state": "open", "limit": ALERTS_READ_MAX})
    alerts = page.get("alerts", [])
    muted: frozenset[str] = frozenset()
    if alerts and stats.get("muted"):
        which = {"muted": True, "state": ["failing", "overdue"], "limit": PAGE}
        rows = client.rows("/api/devices", "devices", which)
        muted = frozenset(row["device_id"] for row in rows)
    known_incidents: frozenset[str] = frozenset()
    if any(alert.get("incident_id") is not None for alert in alerts):
        incidents = client.rows("/api/incidents", "incidents", {"state": "open", "limit": PAGE})
        known_incidents = frozenset(row["id"] for row in incidents if row["acknowledged"] is not None)
    return Snapshot(
        stats=stats,
        health=health,
        counts=counts,
        causes=causes,
        alerts=alerts,
        more_alerts=page.get("next") is not None,
        muted=muted,
        known_incidents=known_incidents,
        faults=tuple(dict.fromkeys(faults)),
    )
