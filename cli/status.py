"""What `pisync status` asks, and how it judges: does anything need somebody, and are the figures exact."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from http import HTTPStatus
from typing import Any, Final

from cli import truth
from cli.api_client import ApiClient, ApiRefused, Json, StillLoading
from cli.listing import PAGE
from pisync.domain.payloads import printable
from pisync.errors import ConfigurationError

# Alerts that are read, of which the loud ones are counted; with more, the count is a lower bound.
ALERTS_READ_MAX: Final = 1000
CAUSES_SHOWN: Final = 5
# Rollups follow within seconds; later than this they lag, and what was received today is too little.
ROLLUP_LAG_S_MAX: Final = 60.0


class Verdict(IntEnum):
    """What the exit code says."""

    FINE = 0
    UNHANDLED = 1
    NOT_EXACT = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """What the api answered; an answer that it could not give is empty, and `faults` says why.

    `counts` are of devices that are not muted, by state. `alerts` are the open ones, `more_alerts` whether
    there are more; those of `muted` devices are handled.
    """

    stats: Json
    health: Json
    counts: Mapping[str, int]
    causes: list[Json]
    alerts: list[Json]
    more_alerts: bool
    muted: frozenset[str]
    faults: tuple[str, ...]

    @property
    def loud(self) -> list[Json]:
        """Open alerts that nobody acknowledged, of devices that are not muted."""
        return [
            alert
            for alert in self.alerts
            if alert.get("acknowledged") is None and alert["device_id"] not in self.muted
        ]

    @property
    def quiet(self) -> list[Json]:
        """Open alerts that somebody acknowledged, of devices that are not muted."""
        return [
            alert
            for alert in self.alerts
            if alert.get("acknowledged") is not None and alert["device_id"] not in self.muted
        ]

    def unhandled(self) -> list[str]:
        """What needs somebody, in words."""
        found = []
        if self.loud:
            found.append(
                f"{len(self.loud):,}{' or more' if self.more_alerts else ''} alerts are not acknowledged"
            )
        failing = self.counts.get("failing", 0) - len({alert["device_id"] for alert in self.quiet})
        if failing > 0 and not self.loud:
            found.append(f"{failing:,} devices fail without an alert")
        if overdue := self.counts.get("overdue", 0):
            found.append(f"{overdue:,} devices are overdue")
        return found

    def not_exact(self) -> list[str]:
        """Why the figures are not exact, in words."""
        return list(dict.fromkeys((*self.faults, *truth.faults(self.stats), *self._lagging())))

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

    def _lagging(self) -> list[str]:
        if not self.health:
            return []
        found = [
            f"{name} is not well{_why(part)}" for name, part in self.health["parts"].items() if not part["ok"]
        ]
        lag_s = self.health["rollups"]["lag_s"]
        if lag_s is None:
            found.append("how far rollups are is not known")
        elif lag_s > ROLLUP_LAG_S_MAX:
            found.append(f"rollups are {lag_s:,.0f} s behind")
        return found


def _why(part: Json) -> str:
    return f": {printable(str(part['why']))}" if part.get("why") else ""


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
        rows = client.rows("/api/devices", "devices", {"muted": True, "state": "failing", "limit": PAGE})
        muted = frozenset(row["device_id"] for row in rows)
    return Snapshot(
        stats=stats,
        health=health,
        counts=counts,
        causes=causes,
        alerts=alerts,
        more_alerts=page.get("next") is not None,
        muted=muted,
        faults=tuple(dict.fromkeys(faults)),
    )
