"""What PiSync asks of the store of dead letters."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

import msgspec

from pisync.domain.events import Reason


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadLetter:
    """Something that could not be taken in, with its bytes.

    The same bytes from the same topic for the same reason are one dead letter, however often they come.
    """

    topic: str
    device_id: str | None
    reason: Reason
    detail: str
    raw: bytes


ID_PATTERN: Final = "[0-9a-f]{32}"


def identity(letter: DeadLetter) -> str:
    """The letter's id: its content, so that a redelivered message adds nothing."""
    content = msgspec.json.encode((letter.topic, letter.reason)) + letter.raw
    return hashlib.sha256(content).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """A replay that took a letter in: when, and how many of its events were stored, duplicates, rejected."""

    replayed_at: datetime
    stored: int
    duplicates: int
    rejected: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadLetterEntry:
    """A dead letter without the whole of its payload.

    `head` are the first `HEAD_BYTES_MAX` bytes of the `size_bytes` that it has; `received_at` is when it came
    first, `last_received_at` when last; `replay` is the latest replay that took it in.
    """

    dead_letter_id: str
    topic: str
    device_id: str | None
    reason: Reason
    detail: str
    received_at: datetime
    last_received_at: datetime
    size_bytes: int
    head: bytes
    replay: Replay | None


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptDeadLetter:
    """A dead letter with its whole payload."""

    entry: DeadLetterEntry
    raw: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadLetterPosition:
    """Where a page ended. Rows are ordered by both, descending, and neither ever changes."""

    received_at: datetime
    dead_letter_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadLetterQuery:
    """A page of dead letters, newest first; `before` and `after` are exclusive bounds of `received_at`.

    `replayed`: only those that a replay took in (True), or only the others (False).
    """

    limit: int
    reason: Reason | None = None
    device_id: str | None = None
    before: datetime | None = None
    after: datetime | None = None
    replayed: bool | None = None
    position: DeadLetterPosition | None = None


class DeadLetterStore(Protocol):
    """Keeps dead letters, and remembers their replays.

    Each method raises `MongodbUnavailable` where MongoDB is unavailable; the call may then be repeated.
    """

    async def prepare(self) -> None:
        """Create what the store needs (indexes); may be repeated."""

    async def apply_retention(self, days: int | None) -> None:
        """From now on, forget a dead letter so many days after it last came; None: keep all for good."""

    async def add(self, dead_letters: Sequence[DeadLetter], received_at: datetime) -> None:
        """Keep the dead letters, each once; returns once all are durable."""

    async def ping_writes(self) -> None:
        """Return when a write would be durable now; nothing is written."""

    async def find(self, query: DeadLetterQuery) -> list[DeadLetterEntry]:
        """One page of dead letters, newest first."""

    async def get(self, dead_letter_id: str) -> KeptDeadLetter | None:
        """One dead letter; None where there is none with this id."""

    async def record_replay(self, dead_letter_id: str, replay: Replay) -> None:
        """Record a replay that took the letter in; nothing where the letter is gone meanwhile."""
