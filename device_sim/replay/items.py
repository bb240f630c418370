"""What a file is made of: what is to be sent, what is left out, and what is passed over."""

from enum import StrEnum
from typing import NamedTuple

import msgspec


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is to be sent: an event as JSON, or, where it has a topic, a message as it was recorded.

    `at_ms` is what its place in the play goes by: an event's own time, or when a message was recorded.
    """

    line: int
    device_id: str
    at_ms: int
    payload: bytes
    topic: str | None = None


class Status(StrEnum):
    """What became of a line that is not confirmed."""

    LEFT_OUT = "left_out"
    """Nothing of it was sent."""
    REJECTED = "rejected"
    """A receipt says that it was not taken in."""


class Fault(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line that is not confirmed, and why; also a line of the report. `text` is how the line begins."""

    line: int
    status: Status
    reason: str
    detail: str
    file: str = ""
    device_id: str = ""
    text: str = ""


class PassedOver(StrEnum):
    """Why a line that is in order is not sent."""

    NOT_ASKED_FOR = "not asked for (--devices, --from, --until)"
    NO_SYNC = "messages of other topics than sync"
    HEADER = "a header once more"


Content = Entry | Fault | PassedOver


class Item(NamedTuple):
    """A record of the file, the byte after it and the number of its last line."""

    content: Content
    end: int
    line: int
