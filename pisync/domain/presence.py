"""Presence: whether a device is connected, and what waits in its spool, as its `status` topic tells; pure.

What is known is a maximum, so that messages may come twice and in any order: of the newest connection, by
when it began, its end counts more than its beginning. It is no projection: MongoDB holds no events of it, and
what a device does not say nobody knows. What waits is believed of a device that is `online`: the `offline` of
a last will was written when the connection began.
"""

from datetime import datetime, timedelta
from typing import Annotated, Final, Literal

import msgspec

from pisync import limits
from pisync.clock import Moment, from_ms, to_ms
from pisync.domain.payloads import printable

_EARLIEST: Final = from_ms(limits.CLOCK_EARLIEST_MS)
_AHEAD_MAX: Final = timedelta(milliseconds=limits.CLOCK_AHEAD_MS_MAX)


class StatusMessage(msgspec.Struct, frozen=True):
    """What a device says: `since` is when its connection began, `pending` what is in its spool, counted."""

    state: Literal["online", "offline"]
    since: Moment | None = None
    pending: Annotated[int, msgspec.Meta(ge=0, le=limits.COUNT_MAX)] | None = None
    oldest_pending: Moment | None = None
    firmware: str | None = None


class Pending(msgspec.Struct, frozen=True, order=True, array_like=True):
    """What waited in a spool when that was said; `oldest` is the time of an event, EPOCH: not told."""

    began_at: datetime
    heard_at: datetime
    count: int
    oldest: datetime


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a device's connection.

    `began_at` is when it began: as the device says (`is_told`), or when we heard of it. `heard_at` is when
    that was said.
    """

    device_id: str
    began_at: datetime
    is_offline: bool
    heard_at: datetime
    is_told: bool
    firmware: str = ""
    pending: Pending | None = None

    @property
    def rank(self) -> tuple[datetime, bool, datetime, bool, str]:
        """By which the greater of two is what is known."""
        return self.began_at, self.is_offline, self.heard_at, self.is_told, self.firmware

    def says_more_than(self, other: "Presence | None") -> bool:
        """Whether it is worth writing down in place of the other, which it was joined with."""
        if other is None:
            return True
        if self.heard_at - other.heard_at > timedelta(seconds=limits.PRESENCE_WRITTEN_S):
            return True
        return _content(self) != _content(other)


def read_status(payload: bytes) -> StatusMessage | None:
    """What a payload says: a word, or a JSON object; None where it is neither."""
    if payload in {b"online", b"offline"}:
        return msgspec.convert({"state": payload.decode()}, StatusMessage)
    if len(payload) > limits.STATUS_BYTES_MAX:
        return None
    try:
        return msgspec.json.decode(payload, type=StatusMessage)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def presence_of(device_id: str, said: StatusMessage, now: datetime) -> Presence:
    """What a message that came now tells. A device whose clock is wrong does not know when it connected."""
    since = None if said.since is None else from_ms(to_ms(said.since))
    is_told = since is not None and _EARLIEST <= since <= now + _AHEAD_MAX
    began_at = since if is_told and since is not None else now
    pending = None
    if said.pending is not None and said.state == "online":
        oldest = from_ms(0 if said.oldest_pending is None else max(0, to_ms(said.oldest_pending)))
        pending = Pending(began_at, now, said.pending, oldest)
    firmware = printable((said.firmware or "")[: limits.FIRMWARE_CHARS_MAX])[: limits.FIRMWARE_CHARS_MAX]
    return Presence(
        device_id=device_id,
        began_at=began_at,
        is_offline=said.state == "offline",
        heard_at=now,
        is_told=is_told,
        firmware=firmware,
        pending=pending,
    )


def join(one: Presence, other: Presence | None) -> Presence:
    """What both together tell of a device."""
    if other is None:
        return one
    pendings = [each.pending for each in (one, other) if each.pending is not None]
    newest = max(one, other, key=lambda each: each.rank)
    return msgspec.structs.replace(newest, pending=max(pendings, default=None))


def _content(presence: Presence) -> tuple[object, ...]:
    pending = presence.pending
    return (
        presence.is_offline,
        presence.began_at if presence.is_told else None,
        presence.firmware,
        None if pending is None else (pending.count, pending.oldest),
    )
