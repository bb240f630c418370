"""Dead letters as operators see them: what is asked of their store, and a store in memory.

The bridge writes dead letters through `EventStore.add_dead_letters`; here they are listed, read, and marked
once a replay took them in.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Protocol

import msgspec

from pisync.events import Reason
from pisync.payloads import HEAD_BYTES_MAX
from pisync.stores.interfaces import DeadLetter

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

    letter_id: str
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
    letter_id: str


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
    """Shows dead letters, and remembers their replays.

    Each method raises `EventStoreUnavailable` where MongoDB is away; the call may then be repeated.
    """

    async def find(self, query: DeadLetterQuery) -> list[DeadLetterEntry]:
        """One page of dead letters, newest first."""

    async def get(self, letter_id: str) -> KeptDeadLetter | None:
        """One dead letter; None where there is none with this id."""

    async def mark(self, letter_id: str, replay: Replay) -> None:
        """Record a replay that took the letter in; nothing where the letter is gone meanwhile."""


class MemoryDeadLetterStore:
    """A `DeadLetterStore` that forgets when the process ends."""

    def __init__(self) -> None:
        self.letters: dict[str, KeptDeadLetter] = {}

    async def add_dead_letters(self, letters: Sequence[DeadLetter], received_at: datetime) -> None:
        """Keep the dead letters, as an `EventStore` does."""
        for letter in letters:
            letter_id = identity(letter)
            kept = self.letters.get(letter_id)
            if kept is None:
                self.letters[letter_id] = _kept(letter_id, letter, received_at)
            else:
                last = max(received_at, kept.entry.last_received_at)
                self.letters[letter_id] = replace(kept, entry=replace(kept.entry, last_received_at=last))

    async def find(self, query: DeadLetterQuery) -> list[DeadLetterEntry]:
        """One page, newest first."""
        rows = [kept.entry for kept in self.letters.values() if _matches(kept.entry, query)]
        rows.sort(key=lambda row: (row.received_at, row.letter_id), reverse=True)
        return rows[: query.limit]

    async def get(self, letter_id: str) -> KeptDeadLetter | None:
        """One dead letter."""
        return self.letters.get(letter_id)

    async def mark(self, letter_id: str, replay: Replay) -> None:
        """Record the replay."""
        kept = self.letters.get(letter_id)
        if kept is not None:
            self.letters[letter_id] = replace(kept, entry=replace(kept.entry, replay=replay))


def _kept(letter_id: str, letter: DeadLetter, received_at: datetime) -> KeptDeadLetter:
    return KeptDeadLetter(
        entry=DeadLetterEntry(
            letter_id=letter_id,
            topic=letter.topic,
            device_id=letter.device_id,
            reason=letter.reason,
            detail=letter.detail,
            received_at=received_at,
            last_received_at=received_at,
            size_bytes=len(letter.raw),
            head=letter.raw[:HEAD_BYTES_MAX],
            replay=None,
        ),
        raw=letter.raw,
    )


def _matches(entry: DeadLetterEntry, query: DeadLetterQuery) -> bool:
    end = query.position
    return (
        query.reason in {None, entry.reason}
        and query.device_id in {None, entry.device_id}
        and (query.before is None or entry.received_at < query.before)
        and (query.after is None or entry.received_at > query.after)
        and (query.replayed is None or query.replayed == (entry.replay is not None))
        and (end is None or (entry.received_at, entry.letter_id) < (end.received_at, end.letter_id))
    )
