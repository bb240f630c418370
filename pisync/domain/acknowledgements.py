"""Acknowledgements: what an operator knows of is quiet until something happens; whether it has, and what.

What is acknowledged is one alert, one incident, or a cause: the code that devices fail by now. An alert or an
incident that was closed is over, and so is what was said of it; the next one is another. A cause goes on and
comes back under its code.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from pisync import limits
from pisync.clock import rfc3339
from pisync.domain.directory import Fault, read_moment, text_reader

NO_CODE: Final = "-"
"""How operators name the cause of devices whose newest failure gave no code."""

RECOVERY: Final = "recovery"
_MEMBERS: Final = ("until", "reason")
_MORE_DEVICES: Final = "more_devices"


class SubjectKind(StrEnum):
    """What can be acknowledged."""

    ALERTS = "alerts"
    CAUSES = "causes"
    INCIDENTS = "incidents"

    @property
    def singular(self) -> str:
        """The word for one of them."""
        return self.value.removesuffix("s")


class Why(StrEnum):
    """Why an acknowledgement ended: what it was to last until came, or an operator acted."""

    RECOVERY = "recovery"
    MOMENT = "moment"
    MORE_DEVICES = "more_devices"
    REPLACED = "replaced"
    TAKEN_BACK = "taken_back"


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What is acknowledged: the id of an alert or an incident, or the code of a cause."""

    kind: SubjectKind
    target: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Until:
    """How long it lasts: until a moment, or so many more devices, or, with neither, until recovery."""

    moment: datetime | None = None
    more_devices: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """When an acknowledgement ended, and why; `who` did it, None: nobody."""

    at: datetime
    why: Why
    who: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Acknowledgement:
    """That somebody knows of an alert, an incident or a cause, and how long it is to be quiet.

    `devices` failed by the cause, or were in the incident, when it was acknowledged; None: of an alert, or
    not known. Ids sort by the time, and are those of the actions. `ended` is what was written down of it.
    """

    acknowledgement_id: str
    subject: Subject
    who: str
    at: datetime
    reason: str
    until: Until
    devices: int | None = None
    ended: Ended | None = None

    @property
    def back_at(self) -> int | None:
        """How many devices are too many for it; None: it does not go by their number."""
        if self.until.more_devices is None or self.devices is None:
            return None
        return self.devices + self.until.more_devices

    def says(self, until: Until, reason: str) -> bool:
        """Whether this is what it says already."""
        return (self.until, self.reason) == (until, reason)


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What is known of the subject now.

    An alert or an incident was closed at a moment, or is open; so many devices fail by a cause, or are in an
    incident, None: nobody knows.
    """

    closed_at: datetime | None = None
    devices: int | None = None


def end_of(acknowledgement: Acknowledgement, known: Known, now: datetime) -> Ended | None:
    """When it ended, and why; None: its subject is quiet.

    What nobody knows ends nothing. Where nothing tells when it happened, it is now.
    """
    if acknowledgement.ended is not None:
        return acknowledgement.ended
    until, ends = acknowledgement.until, list[tuple[datetime, Why]]()
    if until.moment is not None and until.moment <= now:
        ends.append((until.moment, Why.MOMENT))
    if known.closed_at is not None:
        ends.append((known.closed_at, Why.RECOVERY))
    if known.devices is not None:
        is_cause = acknowledgement.subject.kind is SubjectKind.CAUSES
        if is_cause and until == Until() and known.devices == 0:
            ends.append((now, Why.RECOVERY))
        if acknowledgement.back_at is not None and known.devices >= acknowledgement.back_at:
            ends.append((now, Why.MORE_DEVICES))
    if not ends:
        return None
    # The clocks of two programs may differ: nothing ends before it began.
    at, why = min(ends)
    return Ended(at=max(at, acknowledgement.at), why=why)


def until_as_json(until: Until) -> Any:
    """How long it lasts, as a request says it."""
    if until.moment is not None:
        return rfc3339(until.moment)
    return RECOVERY if until.more_devices is None else {_MORE_DEVICES: until.more_devices}


def read(kind: SubjectKind, given: Mapping[str, object], now: datetime) -> tuple[Until, str, list[Fault]]:
    """How long to be quiet, and the reason, from the members of a request, and what is wrong with them."""
    until, reason, faults = Until(), "", list[Fault]()
    for name in given:
        if name not in _MEMBERS:
            faults.append(Fault(name, f"is no member of an acknowledgement; there are {', '.join(_MEMBERS)}"))
    try:
        until = _until(kind, given.get("until"), now)
    except ValueError as error:
        faults.append(Fault("until", str(error)))
    try:
        reason = _read_reason(given.get("reason", ""))
    except ValueError as error:
        faults.append(Fault("reason", str(error)))
    return until, reason, faults


_read_reason: Final = text_reader(limits.ACKNOWLEDGEMENT_REASON_CHARS_MAX)


def _until(kind: SubjectKind, value: object, now: datetime) -> Until:
    if value == RECOVERY:
        return Until()
    if isinstance(value, dict) and kind is not SubjectKind.ALERTS:
        return Until(more_devices=_more_devices(value))
    try:
        moment = read_moment(value)
    except ValueError:
        forms = f"{RECOVERY!r}, or an RFC 3339 time with an offset, such as 2026-12-01T00:00:00Z"
        if kind is not SubjectKind.ALERTS:
            forms += f', or an object such as {{"{_MORE_DEVICES}": 10}}'
        raise ValueError(f"must be {forms}") from None
    if moment <= now:
        raise ValueError(f"lies in the past ({rfc3339(moment)}; it is {rfc3339(now)} now): name a later time")
    return Until(moment=moment)


def _more_devices(value: Mapping[str, object]) -> int:
    number = value.get(_MORE_DEVICES)
    most = limits.ACKNOWLEDGEMENT_MORE_DEVICES_MAX
    if (
        value.keys() != {_MORE_DEVICES}
        or not isinstance(number, int)
        or isinstance(number, bool)
        or not 1 <= number <= most
    ):
        raise ValueError(f"must have one member, {_MORE_DEVICES!r}, which is a whole number from 1 to {most}")
    return number
