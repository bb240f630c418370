"""The sync event, its outcome, and why one may be rejected."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from pisync import limits

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
    timestamp: Annotated[datetime, msgspec.Meta(tz=True)]
    total_files_synced: Count
    total_errors: Count
    internet_speed: Annotated[float, msgspec.Meta(ge=0)]
    device_type: Literal["PiBook", "PiBox"] | None = None
    sync_duration_ms: Count | None = None
    errors: list[ErrorDetail] | None = None


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


class Reason(StrEnum):
    """Why an event or a message was rejected; the codes of dead letters and receipts."""

    EMPTY = "empty"
    TOO_LARGE = "too_large"
    TOO_MANY_EVENTS = "too_many_events"
    MALFORMED = "malformed"
    SCHEMA = "schema"
    AMBIGUOUS = "ambiguous"
    DEVICE_ID = "device_id"
    DEVICE_MISMATCH = "device_mismatch"
    CLOCK_UNSET = "clock_unset"
    CLOCK_AHEAD = "clock_ahead"
    CONFLICT = "conflict"
    REFUSED = "refused"


class Rejection(msgspec.Struct, frozen=True, kw_only=True):
    """An event that was not taken in, by its place in the message (None: the message as a whole), and why."""

    index: int | None
    reason: Reason
    detail: str


def quotation_marks(event: SyncEvent) -> int:
    """The fewest that the event can be written with."""
    marks = 14  # five required members and two string values
    if event.device_type is not None:
        marks += 4
    if event.sync_duration_ms is not None:
        marks += 2
    if event.errors is not None:
        marks += 2 + 8 * len(event.errors)  # each error's two members and their values
    return marks
