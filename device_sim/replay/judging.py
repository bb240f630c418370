"""Whether a record is an event, by the bridge's own rules: what it would reject is not sent."""

from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec

from device_sim.replay.items import Entry, Fault, Status
from device_sim.replay.lines import Line
from pisync.clock import to_ms
from pisync.domain import decoding
from pisync.domain.events import Rejection


class Judge:
    """Makes entries of JSON that should be an event, all of whose times are moved by the same amount."""

    def __init__(self, now: Callable[[], datetime], shift: timedelta) -> None:
        self._now = now
        self._shift = shift

    def entry(self, raw: bytes, line: Line) -> Entry | Fault:
        """The event in this JSON, or why it is none."""
        claimed = decoding.claim(raw, 0).device
        if isinstance(claimed, Rejection):
            return left_out(line, claimed.reason, claimed.detail)
        decoded = decoding.decode(raw, claimed, self._now())
        if not decoded.events:
            rejection = decoded.rejections[0]
            return left_out(line, rejection.reason, rejection.detail, claimed)
        event = decoded.events[0]
        if self._shift:
            event = msgspec.structs.replace(event, timestamp=event.timestamp + self._shift)
        return Entry(
            line=line.number,
            device_id=claimed,
            at_ms=to_ms(event.timestamp - self._shift),
            payload=msgspec.json.encode(event),
        )


def left_out(line: Line, reason: str, detail: str, device_id: str = "") -> Fault:
    """The fault of a line of which nothing is sent."""
    return Fault(
        line=line.number,
        status=Status.LEFT_OUT,
        reason=reason,
        detail=detail,
        device_id=device_id,
        text=line.text,
    )
