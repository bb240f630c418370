"""Alerts: what operators are told about a device, and what has to change in it."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertChange:
    """A device whose streak and whose confirmed alert differ: to be opened, or to be closed."""

    device_id: str
    streak: int
    opens: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """A device that failed `streak` times in a row when the alert was opened; open until `closed_at`."""

    alert_id: str
    device_id: str
    streak: int
    opened_at: datetime
    closed_at: datetime | None
