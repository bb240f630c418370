"""Alerts: what operators are told about a device, by which rule, and what has to change in it."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import msgspec

from pisync.clock import rfc3339, to_ms


class Rule(StrEnum):
    """Why a device has an alert; each rule has at most one open alert for a device."""

    STREAK = "streak"


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertChange:
    """An alert that may have to change: to be opened, or to be closed. `streak` is the device's."""

    device_id: str
    rule: Rule
    streak: int
    opens: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """An alert of one rule about one device, open until `closed_at`.

    `streak` is the device's at the time of opening. Ids sort by that time, and are opaque text beyond that.
    """

    alert_id: str
    device_id: str
    rule: Rule
    streak: int
    opened_at: datetime
    closed_at: datetime | None


def new_alert_id(opened_at: datetime, nonce: str) -> str:
    """The id of an alert that is opened: the time, so that ids sort by it, and what makes it unique.

    Bridges do not agree on ids, so the nonce is to be random: 64 bits or more, of letters and digits.
    """
    return f"{to_ms(opened_at):012x}{nonce}"


def encode_retained(alert: Alert | None) -> bytes:
    """The payload of the retained message about a device and a rule; None: no alert is open, clear it."""
    if alert is None:
        return b""
    return msgspec.json.encode(
        {
            "device_id": alert.device_id,
            "rule": alert.rule,
            "streak": alert.streak,
            "opened_at": rfc3339(alert.opened_at),
        }
    )
