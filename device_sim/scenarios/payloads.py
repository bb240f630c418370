"""What a firmware with a bug publishes: each kind of payload that a bridge must reject, and why it does.

A kind makes bytes of a device and a moment; the same of the same. The moments need not be the device's own:
nothing of these is stored.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from pisync.clock import from_ms, rfc3339
from pisync.domain import topics
from pisync.domain.events import Reason, SyncEvent
from pisync.limits import MESSAGE_BYTES_MAX, MESSAGE_EVENTS_MAX

_DAY_MS: Final = 86_400_000
_AHEAD_MS: Final = 400 * _DAY_MS
_UNSET_MS: Final = 300_000
_DEPTH: Final = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Payload:
    """A message that is rejected for this reason. `topic`: where it goes; empty: where events go."""

    reason: Reason
    payload: bytes
    topic: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class PayloadKind:
    """A bug: what it makes, and why that is rejected.

    `contradicts`: it is made of an event that is stored when it goes out.
    """

    reason: Reason
    make: Callable[[SyncEvent], bytes]
    topic: Callable[[str], str] | None = None
    contradicts: bool = False

    def of(self, event: SyncEvent) -> Payload:
        """What comes of an event."""
        topic = "" if self.topic is None else self.topic(event.device_id)
        return Payload(reason=self.reason, payload=self.make(event), topic=topic)


def members(event: SyncEvent, **changed: object) -> dict[str, object]:
    """An event's members as a device writes them, with some of them changed."""
    return {
        "device_id": event.device_id,
        "timestamp": rfc3339(event.timestamp),
        "total_files_synced": event.total_files_synced,
        "total_errors": event.total_errors,
        "internet_speed": event.internet_speed,
        **changed,
    }


def _changed(**changed: object) -> Callable[[SyncEvent], bytes]:
    return lambda event: msgspec.json.encode(members(event, **changed))


def _good(event: SyncEvent) -> bytes:
    return msgspec.json.encode(members(event))


def _without_errors(event: SyncEvent) -> bytes:
    rest = members(event)
    del rest["total_errors"]
    return msgspec.json.encode(rest)


def _in_place(found: bytes, other: bytes) -> Callable[[SyncEvent], bytes]:
    def make(event: SyncEvent) -> bytes:
        return _good(event).replace(found, other, 1)

    return make


def _twice(event: SyncEvent) -> bytes:
    return _good(event)[:-1] + b',"total_errors":%d}' % (event.total_errors + 1)


def _moved(moment_ms: int) -> Callable[[SyncEvent], bytes]:
    return _changed(timestamp=rfc3339(from_ms(moment_ms)))


def _ahead(event: SyncEvent) -> bytes:
    return msgspec.json.encode(members(event, timestamp=rfc3339(event.timestamp + _AHEAD)))


_AHEAD: Final = from_ms(_AHEAD_MS) - from_ms(0)

PAYLOADS: Final[Mapping[str, PayloadKind]] = {
    "nothing": PayloadKind(reason=Reason.EMPTY, make=lambda _: b""),
    "white_space": PayloadKind(reason=Reason.EMPTY, make=lambda _: b" \r\n\t "),
    "empty_array": PayloadKind(reason=Reason.EMPTY, make=lambda _: b"[]"),
    "too_large": PayloadKind(reason=Reason.TOO_LARGE, make=_changed(log="x" * MESSAGE_BYTES_MAX)),
    "too_many_events": PayloadKind(
        reason=Reason.TOO_MANY_EVENTS,
        make=lambda event: b"[%s]" % b",".join([_good(event)] * (MESSAGE_EVENTS_MAX + 1)),
    ),
    "no_json": PayloadKind(
        reason=Reason.MALFORMED, make=lambda event: f"sync of {event.device_id} done".encode()
    ),
    "cut_off": PayloadKind(reason=Reason.MALFORMED, make=lambda event: _good(event)[:-30]),
    "not_a_number": PayloadKind(
        reason=Reason.MALFORMED, make=_in_place(b'"total_errors":', b'"speed":NaN,"total_errors":')
    ),
    "latin_1": PayloadKind(
        reason=Reason.MALFORMED, make=lambda event: _good(event)[:-1] + b',"school":"\xc9cole"}'
    ),
    "nested": PayloadKind(reason=Reason.MALFORMED, make=lambda _: b"[" * _DEPTH),
    "text": PayloadKind(reason=Reason.SCHEMA, make=lambda event: msgspec.json.encode(event.device_id)),
    "member_missing": PayloadKind(reason=Reason.SCHEMA, make=_without_errors),
    "count_as_text": PayloadKind(reason=Reason.SCHEMA, make=_changed(total_files_synced="20")),
    "count_negative": PayloadKind(reason=Reason.SCHEMA, make=_changed(total_errors=-1)),
    "count_with_fraction": PayloadKind(reason=Reason.SCHEMA, make=_changed(total_files_synced=1.5)),
    "time_without_offset": PayloadKind(reason=Reason.SCHEMA, make=_changed(timestamp="2026-05-08T12:00:00")),
    "time_as_number": PayloadKind(reason=Reason.SCHEMA, make=_changed(timestamp=1_778_241_600)),
    "member_twice": PayloadKind(reason=Reason.AMBIGUOUS, make=_twice),
    "another_device": PayloadKind(reason=Reason.DEVICE_MISMATCH, make=_changed(device_id="PB-COPIED")),
    "clock_of_1970": PayloadKind(reason=Reason.CLOCK_UNSET, make=_moved(_UNSET_MS)),
    "clock_of_next_year": PayloadKind(reason=Reason.CLOCK_AHEAD, make=_ahead),
    "another_value": PayloadKind(
        reason=Reason.CONFLICT,
        make=lambda event: msgspec.json.encode(
            members(event, total_files_synced=event.total_files_synced + 1)
        ),
        contradicts=True,
    ),
    "bad_token": PayloadKind(
        reason=Reason.TOKEN,
        make=_good,
        topic=lambda device_id: f"{topics.sync(device_id)}/not a token",
    ),
    "bad_topic": PayloadKind(
        reason=Reason.DEVICE_ID,
        make=_good,
        topic=lambda device_id: topics.sync(f"{device_id} (copy)"),
    ),
}
"""Every bug there is. Of what has a topic of its own nobody can be told, so no receipt is waited for."""
