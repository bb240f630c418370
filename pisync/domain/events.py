"""The sync event: the one list of its members, its outcome, and why one may be rejected.

A new optional member is written in this file alone: in `SyncEvent`, `quotation_marks`, `add_content`,
`from_content` and `rows`. Stores, pages and schemas follow from these.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, get_args, get_type_hints

import msgspec

from pisync import limits
from pisync.clock import Moment
from pisync.domain import error_details

Count = Annotated[int, msgspec.Meta(ge=0, le=limits.COUNT_MAX)]


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One error a device met during a sync."""

    code: str
    message: str


class SyncEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One attempt of one device to upload its files.

    `internet_speed` is in Mbit/s, `sync_duration_ms` in milliseconds. The pair of `device_id` and
    `timestamp` (to the millisecond) is the event's identity.
    """

    device_id: str
    timestamp: Moment
    total_files_synced: Count
    total_errors: Count
    internet_speed: Annotated[float, msgspec.Meta(ge=0)]
    device_type: Literal["PiBook", "PiBox"] | None = None
    sync_duration_ms: Count | None = None
    errors: list[ErrorDetail] | None = None


COUNTS: Final = tuple(
    name
    for name, hint in get_type_hints(SyncEvent, include_extras=True).items()
    if Count in (hint, *get_args(hint))
)


def quotation_marks(event: SyncEvent) -> int:
    """The fewest quotation marks that JSON of the event can have: what an encoder writes, but for escapes."""
    marks = 14  # five required members and two string values
    if event.device_type is not None:
        marks += 4
    if event.sync_duration_ms is not None:
        marks += 2
    if event.errors is not None:
        marks += 2 + 8 * len(event.errors)  # each error's two members and their values
    return marks


# The members beside the identity.
CONTENT: Final = tuple(name for name in SyncEvent.__struct_fields__ if name not in {"device_id", "timestamp"})


def add_content(event: SyncEvent, document: dict[str, Any]) -> dict[str, Any]:
    """Write what is kept of an event beside its identity into a document, and return that.

    Members that the event lacks are left out. Members are named one by one, and no second dictionary is made,
    because this is done for every event that comes in.
    """
    document["total_files_synced"] = event.total_files_synced
    document["total_errors"] = event.total_errors
    document["internet_speed"] = event.internet_speed
    if event.device_type is not None:
        document["device_type"] = event.device_type
    if event.sync_duration_ms is not None:
        document["sync_duration_ms"] = event.sync_duration_ms
    if event.errors is not None:
        errors = [{"code": error.code, "message": error.message} for error in event.errors]
        document["errors"] = error_details.kept(errors) if errors else errors
    return document


_OPTIONAL: Final = frozenset(field.name for field in msgspec.structs.fields(SyncEvent) if not field.required)


def additions(kept: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any] | None:
    """The members that the content of an event adds to the content that is kept under its identity.

    None where a member has another value, which is a conflict. What is absent on either side is no
    difference, and neither is another spelling of a number (20, 20.0) or an `errors` that was kept before it
    was cut.
    """
    added = {}
    for name in CONTENT:
        value, before = given.get(name), kept.get(name)
        if value == before or value is None:
            continue
        if before is None and name in _OPTIONAL:
            added[name] = value
        elif before is None or name != "errors" or error_details.kept(before) != value:
            return None
    return added


def from_content(device_id: str, timestamp: datetime, content: Mapping[str, Any]) -> SyncEvent:
    """The event of which this content is kept; other fields of the content are ignored.

    Nothing is checked: what was valid when it was stored must stay readable.
    """
    errors = content.get("errors")
    return SyncEvent(
        device_id=device_id,
        timestamp=timestamp,
        total_files_synced=content["total_files_synced"],
        total_errors=content["total_errors"],
        internet_speed=content["internet_speed"],
        device_type=content.get("device_type"),
        sync_duration_ms=content.get("sync_duration_ms"),
        errors=None if errors is None else [ErrorDetail(**error) for error in errors],
    )


class Outcome(StrEnum):
    """How a sync went. Partial and failed both count as failures."""

    SUCCESS = "success"
    PARTIAL = "partial"
    FAILED = "failed"


def outcome(total_files_synced: int, total_errors: int) -> Outcome:
    """The outcome of a sync that uploaded so many files and met so many errors."""
    if total_errors == 0:
        return Outcome.SUCCESS
    return Outcome.PARTIAL if total_files_synced > 0 else Outcome.FAILED


def rows(entries: Iterable[tuple[Mapping[str, Any], str, str]]) -> list[dict[str, Any]]:
    """Stored events as pages show them, ready to be encoded.

    Args:
        entries: the content of each event, its timestamp and when it was received, both as RFC 3339 text.

    Returns:
        For each event its timestamp, its outcome, all members of `CONTENT` and when it was received. Members
        that it lacks are None, and other fields of the content are left out. Members are named one by one,
        because this is done for every row of every page.
    """
    found = []
    for content, timestamp, received_at in entries:
        optional = content.get
        found.append(
            {
                "timestamp": timestamp,
                "outcome": outcome(content["total_files_synced"], content["total_errors"]),
                "total_files_synced": content["total_files_synced"],
                "total_errors": content["total_errors"],
                "internet_speed": optional("internet_speed"),
                "device_type": optional("device_type"),
                "sync_duration_ms": optional("sync_duration_ms"),
                "errors": optional("errors"),
                "received_at": received_at,
            }
        )
    return found


class Reason(StrEnum):
    """Why an event or a message was rejected; the codes of dead letters and receipts."""

    EMPTY = "empty"
    TOO_LARGE = "too_large"
    TOO_MANY_EVENTS = "too_many_events"
    MALFORMED = "malformed"
    SCHEMA = "schema"
    AMBIGUOUS = "ambiguous"
    DEVICE_ID = "device_id"
    TOKEN = "token"  # noqa: S105 - no secret: it tells messages of a device apart
    DEVICE_MISMATCH = "device_mismatch"
    CLOCK_UNSET = "clock_unset"
    CLOCK_AHEAD = "clock_ahead"
    CONFLICT = "conflict"
    REFUSED = "refused"
    RATE_EXCEEDED = "rate_exceeded"
    """The device sends more than is taken of one; nothing in the message was looked at."""
    UNKNOWN_DEVICE = "unknown_device"
    """The device is not in the directory, and the bridge is told to take no such device in."""
    SEVERAL = "several"
    """Only in a receipt that has no room for each reason."""


class Rejection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event that was not taken in, by its place in the message (None: the message as a whole), and why.

    In a bounded receipt it may be a group of them: `index` is the first one's place, `indexes` all of them.
    """

    index: int | None
    reason: Reason
    detail: str = ""
    indexes: str | None = None
