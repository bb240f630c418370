"""Alerts: what operators are told about a device, by which rule, and what has to change in it."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import msgspec

from pisync.clock import rfc3339, to_ms
from pisync.domain.days import DAY_MS


class Rule(StrEnum):
    """Why a device has an alert; each rule has at most one open alert for a device."""

    STREAK = "streak"
    OVERDUE = "overdue"


class CloseReason(StrEnum):
    """Why an alert was closed.

    `RECOVERED`: a success ended the streak. The others end a silence: the device was `HEARD`; it was
    `RETIRED`; it is `GONE`, nothing of it is known; or so long a silence is `USUAL` by now: its habit, its
    site's calendar, or what is known of times in which no bridge listened, changed.
    """

    RECOVERED = "recovered"
    HEARD = "heard"
    RETIRED = "retired"
    GONE = "gone"
    USUAL = "usual"


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
    `close_reason` is None while it is open, and where it was closed before that was kept.
    """

    alert_id: str
    device_id: str
    rule: Rule
    streak: int
    opened_at: datetime
    closed_at: datetime | None
    close_reason: CloseReason | None = None


def end_of_silence(*, opened_at: datetime, received_ms: int | None, is_retired: bool) -> CloseReason:
    """Why a device is no longer overdue.

    Args:
        opened_at: when its alert was opened, by the clock of who did.
        received_ms: the newest time of receipt now; None: nothing of it is known.
        is_retired: whether it is retired now.
    """
    if is_retired:
        return CloseReason.RETIRED
    if received_ms is None:
        return CloseReason.GONE
    # A habit is of a day at least, so that what was received later than half a day before the alert is newer
    # than the silence; the clocks of who received it and of who opened the alert need not agree.
    return CloseReason.HEARD if received_ms > to_ms(opened_at) - DAY_MS // 2 else CloseReason.USUAL


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
