"""Incidents: many devices that fail or fall silent alike are one line. When there is one, and its life.

All of it follows from counts of devices. An incident is opened once its condition has held for a while, goes
on as long as a smaller part of the devices is in it, and is closed when that has not been so for a while.
"""

import math
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Generic, NamedTuple, TypeVar

from pisync import limits
from pisync.clock import to_ms
from pisync.domain.acknowledgements import NO_CODE, Known
from pisync.domain.alerts import Rule
from pisync.domain.calendars import zone
from pisync.domain.payloads import printable

_REOPENS: Final = timedelta(seconds=limits.INCIDENT_REOPENS_S)
_AHEAD: Final = timedelta(milliseconds=limits.CLOCK_AHEAD_MS_MAX)
_CHANCE_LOG: Final = math.log(limits.INCIDENT_CHANCE_MAX)
# Shares such as 0.6 are no binary fractions: 6 of 10 are enough.
_ROUNDING: Final = 1e-9
MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
Condition = TypeVar("Condition", bound=Hashable)


class IncidentKind(StrEnum):
    """What devices have in common: their site and why they fail, their site and since when they are silent,
    or the code that comes up at many sites.
    """

    SITE_FAILING = "site_failing"
    SITE_SILENT = "site_silent"
    CAUSE_SPREADING = "cause_spreading"


class IncidentKey(NamedTuple):
    """What an incident is about; of each key at most one is open.

    `site` is None of a cause; `code` is None of silence, and empty where the failures told none.
    """

    kind: IncidentKind
    site: str | None
    code: str | None


class Evidence(NamedTuple):
    """The counts by which an incident is believed.

    `devices` are in it now, of `of`: those of the site that tried since it began, or are usually heard, or
    all that fail by the code. `sites` is at how many sites they are; `usual` is how many devices fail by the
    code usually.
    """

    devices: int
    of: int
    sites: int = 1
    usual: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Incident:
    """An incident; ids sort by when it was opened first.

    `since` is when the first of its devices began to fail, by the device's clock, or when one was heard last,
    by ours; `resumed_at` likewise where it was opened again, `reopened` times. `peak` is the greatest number
    of devices that it had, `sentence` the evidence in words.
    """

    incident_id: str
    key: IncidentKey
    since: datetime
    opened_at: datetime
    evidence: Evidence
    peak: int
    sentence: str
    updated_at: datetime
    resumed_at: datetime | None = None
    closed_at: datetime | None = None
    reopened: int = 0

    @property
    def began_at(self) -> datetime:
        """Since when it goes on without a break."""
        return self.resumed_at or self.since

    def may_reopen(self, now: datetime) -> bool:
        """Whether the same again is this one."""
        return self.closed_at is not None and now - self.closed_at <= _REOPENS


def may_explain(rule: Rule, site: str, code: str | None) -> list[IncidentKey]:
    """The incidents that may explain an open alert of a device, the narrower first.

    Args:
        rule: the alert's.
        site: the device's; empty: it has none.
        code: that of its newest failure, where it fails now.
    """
    if rule is Rule.OVERDUE:
        return [IncidentKey(IncidentKind.SITE_SILENT, site, None)]
    if code is None:
        return []
    return [
        IncidentKey(IncidentKind.SITE_FAILING, site, code),
        IncidentKey(IncidentKind.CAUSE_SPREADING, None, code),
    ]


def explains(incident: Incident, *, opened_at: datetime, received_at: datetime) -> bool:
    """Whether an incident that may explain an alert does.

    Args:
        incident: is open.
        opened_at: of the alert; what was there before the incident is not of it.
        received_at: when the device was heard last.
    """
    if incident.key.kind is IncidentKind.SITE_SILENT and received_at > incident.began_at:
        return False
    # It began by a device's clock, which may be ahead of ours.
    return opened_at >= incident.since - _AHEAD


def known_of(incident: Incident | None) -> Known:
    """What an acknowledgement goes by."""
    if incident is None:
        return Known()
    return Known(closed_at=incident.closed_at, devices=incident.evidence.devices)


def new_incident_id(opened_at: datetime, nonce: str) -> str:
    """The id of an incident that is opened: the time, so that ids sort by it, and what makes it unique."""
    return f"{to_ms(opened_at):012x}{nonce}"


def log_chance(expected: float, of: int, found: int) -> float:
    """The logarithm of a bound of the chance that so many or more of some devices fail by chance alone.

    Each of `of` devices fails with a chance of its own, independently; `expected` is the sum of these. The
    bound is Chernoff's for their mean (Hoeffding, "Probability inequalities for sums of bounded random
    variables", 1963, theorem 1), and exact where all of equal devices fail.
    """
    if not of or found <= expected:
        return 0.0
    mean, share = expected / of, found / of
    others = 0.0 if found == of else (1 - share) * math.log((1 - share) / (1 - mean))
    return -of * (share * math.log(share / mean) + others)


def are_many(devices: int, of: int) -> bool:
    """Whether so many devices of a site are enough."""
    return devices >= max(limits.INCIDENT_DEVICES_MIN, of * limits.INCIDENT_SHARE - _ROUNDING)


def is_site_failing(*, tried: int, failing: int, alike: int, expected: float) -> bool:
    """Whether the devices of a site fail alike.

    Args:
        tried: devices that tried within some time.
        failing: of these, those that fail now.
        alike: of these, those whose newest failure has the most frequent code.
        expected: of those that tried, how many would fail by their own earlier shares of bad days.
    """
    return (
        are_many(failing, tried)
        and alike >= limits.INCIDENT_DEVICES_MIN
        and alike >= failing * limits.INCIDENT_CODE_SHARE - _ROUNDING
        and log_chance(expected, tried, failing) <= _CHANCE_LOG
    )


def may_be_silent(*, heard: int, silent: int, expected: float) -> bool:
    """Whether the devices of a site are silent in such a number as chance does not explain.

    Args:
        heard: devices that are usually heard, and were when the last of those that are silent was.
        silent: of these, those that were not heard since.
        expected: how many are silent for so long by their own earlier days.
    """
    return are_many(silent, heard) and log_chance(expected, heard, silent) <= _CHANCE_LOG


def is_spreading(*, devices: int, sites: int, at_one_site: int, usual: float) -> bool:
    """Whether a code rises over many sites.

    Args:
        devices: how many fail by it now, and began lately, but for those of incidents of their sites.
        sites: at how many sites these are.
        at_one_site: how many of these are at the site that has most.
        usual: how many would fail by it, were it as frequent as before.
    """
    return (
        devices >= limits.SPREADING_DEVICES_MIN
        and sites >= limits.SPREADING_SITES_MIN
        and at_one_site <= devices * limits.SPREADING_SITE_SHARE
        and devices >= limits.SPREADING_TIMES * usual
        and devices - usual > limits.SPREADING_NOISE * math.sqrt(max(usual, 1))
    )


def goes_on(kind: IncidentKind, evidence: Evidence) -> bool:
    """Whether what opened an incident still holds, by a smaller number than it was opened by."""
    if kind is IncidentKind.CAUSE_SPREADING:
        least = limits.SPREADING_GOES_ON_TIMES * (evidence.usual or 0)
        return evidence.devices >= max(limits.SPREADING_GOES_ON_DEVICES, least)
    least = evidence.of * limits.INCIDENT_GOES_ON_SHARE - _ROUNDING
    return evidence.devices >= max(limits.INCIDENT_GOES_ON_DEVICES, least)


class Held(Generic[Condition]):
    """For how long, without a break, something was so; times are in seconds of one clock."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._since: dict[Condition, float] = {}

    def look(self, present: Collection[Condition], now_s: float) -> set[Condition]:
        """Those of what is so now that have been for long enough."""
        self._since = {each: self._since.get(each, now_s) for each in present}
        return {each for each, since_s in self._since.items() if now_s - since_s >= self._after_s}

    def forget(self) -> None:
        """Begin anew: nobody looked."""
        self._since.clear()


def sentence(key: IncidentKey, evidence: Evidence, since: datetime, time_zone: str = "UTC") -> str:
    """The evidence in words, in English; a code, which a device makes up, has no control characters."""
    begun = f"since {_moment(since, time_zone)}"
    match key.kind:
        case IncidentKind.SITE_FAILING:
            return f"{_of(evidence)} that tried, {_code(key)}, {begun}"
        case IncidentKind.SITE_SILENT:
            return f"{_of(evidence)} usually heard are silent, {begun}"
        case IncidentKind.CAUSE_SPREADING:
            usual = "" if evidence.usual is None else f", usually {evidence.usual:,}"
            return (
                f"{evidence.devices:,} devices at {evidence.sites:,} sites fail by {_code(key)}{usual},"
                f" {begun}"
            )


def _of(evidence: Evidence) -> str:
    return f"{evidence.devices:,} of the {evidence.of:,}"


def _code(key: IncidentKey) -> str:
    return "no code told" if key.code in {"", NO_CODE} else printable(key.code or "")


def _moment(moment: datetime, time_zone: str) -> str:
    local = moment.astimezone(zone(time_zone))
    return f"{local.day} {MONTHS[local.month - 1]} {local:%H:%M} {time_zone}"
