"""What a stated correction makes of a dead letter: which events, with which times, and what to expect."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from api import corrections, replaying
from api.replaying import Corrected
from pisync.clock import from_ms, to_ms
from pisync.domain.dead_letters import Holds
from pisync.domain.events import Reason, Rejection, SyncEvent, add_content, additions
from pisync.stores.interfaces.dead_letters import Correction, KeptDeadLetter
from pisync.stores.interfaces.events import EventStore, HistoryQuery

_MILLISECOND: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a correction sends of a letter: the events that were rejected for `reason`, and no others."""

    kept: KeptDeadLetter
    device_id: str
    reason: Reason
    stated: str
    offset_ms: int
    events: Sequence[Corrected]

    @property
    def confirm(self) -> str:
        """What stands for exactly these events with these times."""
        return replaying.confirmation(self.kept.entry.dead_letter_id, self.reason, self.events)


def plan(kept: KeptDeadLetter, stated: str, only: str | None, now: datetime) -> Plan:
    """What the correction sends, of the events that were rejected for the one reason named.

    Raises:
        HTTPException: 409, the letter cannot be sent, or was sent with another correction.
        RequestValidationError: it has no events of that kind, or of both kinds and none is named.
        RecursionError: an event of it is nested too deeply to be read here.
    """
    device_id = device(kept)
    reason = _reason(kept, only)
    events = replaying.rejected_for(kept, device_id, reason)
    if not events:
        raise HTTPException(HTTPStatus.CONFLICT, "It cannot be told which of its events those are.")
    if stated == corrections.RECEIVED_AT:
        offset_ms = replaying.offset_to_receipt(events, to_ms(kept.entry.received_at))
    else:
        offset_ms = corrections.parse_offset(stated)
    for other in kept.entry.corrections:
        if other.reason is reason and other.offset_ms != offset_ms:
            raise HTTPException(HTTPStatus.CONFLICT, told(other))
    return Plan(
        kept=kept,
        device_id=device_id,
        reason=reason,
        stated=stated,
        offset_ms=offset_ms,
        events=replaying.correct(events, offset_ms, device_id, now),
    )


def device(kept: KeptDeadLetter) -> str:
    """The device whose letter it is, where all of it is kept.

    Raises:
        HTTPException: 409, there is none, or only the head is kept.
    """
    if kept.entry.device_id is None:
        raise HTTPException(
            HTTPStatus.CONFLICT, "The letter's topic named no device, so there is none to publish it for."
        )
    if kept.entry.holds is Holds.HEAD:
        raise HTTPException(
            HTTPStatus.CONFLICT,
            f"The message had {kept.entry.size_bytes} bytes; only the first {len(kept.raw)} are kept.",
        )
    return kept.entry.device_id


def told(other: Correction) -> str:
    """What stands in the way of sending events with other times than these."""
    how = f"with the correction {other.stated}" if other.offset_ms else "with the device's own times"
    events = f"Events rejected as {other.reason}"
    if other.outcome is None:
        return f"{events} were sent {how}, and no receipt came: repeat that first, or they may count twice."
    return f"{events} were taken in {how}: with other times they would count twice."


def fault(parameter: str, message: str) -> RequestValidationError:
    """A parameter of the query is at fault."""
    return RequestValidationError([{"loc": ("query", parameter), "msg": message}])


async def expected(events: EventStore, planned: Plan) -> list[dict[str, Any]]:
    """The events before and after, and what becomes of each by what is stored, and by those before it."""
    rows = []
    known: dict[int, Mapping[str, Any]] = {}
    for one in planned.events:
        expect, rejection = "stored", one.rejection
        if one.event is not None:
            moment_ms = to_ms(one.event.timestamp)
            content = add_content(one.event, {})
            other = known.get(moment_ms) or await _stored(events, one.event)
            added = None if other is None else additions(other, content)
            if other is None:
                known[moment_ms] = content
            elif added is not None:
                expect = "duplicate"
                known[moment_ms] = {**other, **added}
            else:
                detail = "an event of this time with other content is stored, or stands before it"
                rejection = Rejection(index=one.index, reason=Reason.CONFLICT, detail=detail)
        rows.append(
            {
                "index": one.index,
                "timestamp": one.own_time,
                "corrected": one.time,
                "expect": expect if rejection is None else "rejected",
                "reason": None if rejection is None else rejection.reason,
                "detail": None if rejection is None else rejection.detail,
            }
        )
    return rows


async def _stored(events: EventStore, event: SyncEvent) -> Mapping[str, Any] | None:
    """The content of the event of this identity that is stored."""
    moment = from_ms(to_ms(event.timestamp))
    query = HistoryQuery(
        device_id=event.device_id, limit=1, before=moment + _MILLISECOND, after=moment - _MILLISECOND
    )
    rows = (await events.page(query)).rows
    return rows[0] if rows else None


def _reason(kept: KeptDeadLetter, only: str | None) -> Reason:
    """The reason whose events are corrected: for those of the other the clock was wrong in another way."""
    rejected = kept.entry.rejected
    there = [reason for reason in replaying.CLOCK_REASONS if rejected.get(reason)]
    if not there:
        raise fault(
            "correction", f"nothing in this letter was rejected for a clock, but as {', '.join(rejected)}"
        )
    if only is not None:
        if only not in there:
            raise fault("reason", f"nothing in this letter was rejected as {only}, but as {there[0]}")
        return Reason(only)
    if len(there) > 1:
        raise fault(
            "reason",
            "is needed: the letter has events of both, clock_ahead and clock_unset; a correction is for one",
        )
    return there[0]
