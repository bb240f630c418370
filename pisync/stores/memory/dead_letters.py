"""Dead letters in memory."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from pisync.domain.payloads import HEAD_BYTES_MAX
from pisync.stores.interfaces.dead_letters import (
    DeadLetter,
    DeadLetterEntry,
    DeadLetterQuery,
    KeptDeadLetter,
    Replay,
    identity,
)


class MemoryDeadLetterStore:
    """A `DeadLetterStore` that forgets when the process ends."""

    def __init__(self) -> None:
        self.dead_letters: dict[str, KeptDeadLetter] = {}

    async def prepare(self) -> None:
        """Nothing to create."""

    async def apply_retention(self, days: int | None) -> None:
        """Nothing outlives the process."""

    async def add(self, dead_letters: Sequence[DeadLetter], received_at: datetime) -> None:
        """Keep the dead letters."""
        for letter in dead_letters:
            dead_letter_id = identity(letter)
            kept = self.dead_letters.get(dead_letter_id)
            if kept is None:
                self.dead_letters[dead_letter_id] = _kept(dead_letter_id, letter, received_at)
            else:
                last = max(received_at, kept.entry.last_received_at)
                self.dead_letters[dead_letter_id] = replace(
                    kept, entry=replace(kept.entry, last_received_at=last)
                )

    async def ping_writes(self) -> None:
        """Return: memory always takes writes."""

    async def find(self, query: DeadLetterQuery) -> list[DeadLetterEntry]:
        """One page, newest first."""
        rows = [kept.entry for kept in self.dead_letters.values() if _matches(kept.entry, query)]
        rows.sort(key=lambda row: (row.received_at, row.dead_letter_id), reverse=True)
        return rows[: query.limit]

    async def get(self, dead_letter_id: str) -> KeptDeadLetter | None:
        """One dead letter."""
        return self.dead_letters.get(dead_letter_id)

    async def record_replay(self, dead_letter_id: str, replay: Replay) -> None:
        """Record the replay."""
        kept = self.dead_letters.get(dead_letter_id)
        if kept is not None:
            self.dead_letters[dead_letter_id] = replace(kept, entry=replace(kept.entry, replay=replay))


def _kept(dead_letter_id: str, letter: DeadLetter, received_at: datetime) -> KeptDeadLetter:
    return KeptDeadLetter(
        entry=DeadLetterEntry(
            dead_letter_id=dead_letter_id,
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
        and (end is None or (entry.received_at, entry.dead_letter_id) < (end.received_at, end.dead_letter_id))
    )
