"""Dead letters in memory."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pisync import limits
from pisync.domain.dead_letters import DeadLetter, distinct, newest
from pisync.domain.events import Reason
from pisync.domain.payloads import HEAD_BYTES_MAX
from pisync.stores.interfaces.dead_letters import (
    Correction,
    DeadLetterEntry,
    DeadLetterFilter,
    DeadLetterQuery,
    DeviceTally,
    DroppedLetters,
    KeptDeadLetter,
    LetterCounts,
    LetterTally,
    Replay,
)


class MemoryDeadLetterStore:
    """A `DeadLetterStore` that forgets when the process ends."""

    def __init__(self) -> None:
        self.dead_letters: dict[str, KeptDeadLetter] = {}
        self._kept_bytes: dict[str, int] = {}
        self._dropped: dict[str | None, DroppedLetters] = {}
        self._claims: dict[str, dict[Reason, _Claim]] = {}

    async def prepare(self) -> None:
        """Nothing to create."""

    async def apply_retention(self, days: int | None) -> None:
        """Nothing outlives the process."""

    async def add(self, dead_letters: Sequence[DeadLetter], received_at: datetime) -> list[DroppedLetters]:
        """Keep the dead letters."""
        new, dropped = newest(distinct(dead_letters))
        for letter in new:
            kept = self.dead_letters.get(letter.dead_letter_id)
            if kept is None:
                kept = _kept(letter, received_at)
                self._kept_bytes[letter.dead_letter_id] = letter.kept_bytes
            last = max(received_at, kept.entry.last_received_at)
            self.dead_letters[letter.dead_letter_id] = replace(
                kept, entry=replace(kept.entry, last_received_at=last)
            )
        for device_id in {letter.device_id for letter in new}:
            dropped[device_id] += self._make_room(device_id)
        return [self._told(device_id, count, received_at) for device_id, count in (+dropped).items()]

    async def record_dropped(self, dropped: Mapping[str | None, int], now: datetime) -> None:
        """Remember how many messages of devices were left out without a letter."""
        for device_id, count in dropped.items():
            self._told(device_id, count, now)

    def _told(self, device_id: str | None, count: int, now: datetime) -> DroppedLetters:
        before = self._dropped.get(device_id)
        sum_ = count + (0 if before is None else before.dropped)
        self._dropped[device_id] = DroppedLetters(device_id=device_id, dropped=sum_, dropped_at=now)
        return DroppedLetters(device_id=device_id, dropped=count, dropped_at=now)

    def _make_room(self, device_id: str | None) -> int:
        own = [kept.entry for kept in self.dead_letters.values() if kept.entry.device_id == device_id]
        own.sort(key=lambda entry: (entry.received_at, entry.dead_letter_id), reverse=True)
        size, dropped = 0, 0
        for place, entry in enumerate(own):
            size += self._kept_bytes[entry.dead_letter_id]
            if place >= limits.DEVICE_DEAD_LETTERS_MAX or size > limits.DEVICE_DEAD_LETTER_BYTES_MAX:
                self._forget(entry.dead_letter_id)
                dropped += 1
        return dropped

    def _forget(self, dead_letter_id: str) -> None:
        del self.dead_letters[dead_letter_id], self._kept_bytes[dead_letter_id]
        self._claims.pop(dead_letter_id, None)

    async def ping_writes(self) -> None:
        """Return: memory always takes writes."""

    async def find(self, query: DeadLetterQuery) -> list[DeadLetterEntry]:
        """One page, newest first."""
        rows = self._chosen(query)
        end = query.position
        if end is not None:
            last = (end.received_at, end.dead_letter_id)
            rows = [row for row in rows if (row.received_at, row.dead_letter_id) < last]
        rows.sort(key=lambda row: (row.received_at, row.dead_letter_id), reverse=True)
        return rows[: query.limit]

    async def get(self, dead_letter_id: str) -> KeptDeadLetter | None:
        """One dead letter."""
        return self.dead_letters.get(dead_letter_id)

    async def dropped(self, device_id: str | None) -> list[DroppedLetters]:
        """Whose letters gave way."""
        found = [drop for drop in self._dropped.values() if device_id in {None, drop.device_id}]
        found.sort(key=lambda drop: drop.dropped_at, reverse=True)
        return found[: limits.DROPS_LISTED_MAX]

    async def record_replay(self, dead_letter_id: str, replay: Replay) -> None:
        """Record the replay, but not over another one where it stored nothing."""
        kept = self.dead_letters.get(dead_letter_id)
        if kept is not None and (replay.stored or kept.entry.replay is None):
            self.dead_letters[dead_letter_id] = replace(kept, entry=replace(kept.entry, replay=replay))

    async def claim_correction(self, dead_letter_id: str, correction: Correction, attempt: str) -> bool:
        """Write down with which correction they are sent."""
        if dead_letter_id not in self.dead_letters:
            return False
        claims = self._claims.setdefault(dead_letter_id, {})
        claim = claims.get(correction.reason)
        if claim is None or claim.is_free:
            claims[correction.reason] = _Claim(correction, attempt)
        elif claim.correction.offset_ms == correction.offset_ms:
            claim.attempt = attempt
        else:
            return False
        self._show_corrections(dead_letter_id)
        return True

    async def settle_correction(
        self, dead_letter_id: str, correction: Correction, attempt: str, outcome: Replay | None
    ) -> None:
        """Record what the attempt took in."""
        claim = self._claims.get(dead_letter_id, {}).get(correction.reason)
        if claim is None or claim.correction.offset_ms != correction.offset_ms:
            return
        if outcome is not None and (outcome.stored or claim.correction.outcome is None):
            claim.correction = replace(claim.correction, outcome=outcome)
        if claim.attempt == attempt:
            claim.attempt = None
        self._show_corrections(dead_letter_id)

    def _show_corrections(self, dead_letter_id: str) -> None:
        kept = self.dead_letters[dead_letter_id]
        claims = self._claims[dead_letter_id].values()
        corrections = tuple(claim.correction for claim in claims if not claim.is_free)
        self.dead_letters[dead_letter_id] = replace(kept, entry=replace(kept.entry, corrections=corrections))

    async def count(self, chosen: DeadLetterFilter) -> int:
        """How many there are of these."""
        return len(self._chosen(chosen))

    async def tally(self, since: datetime) -> LetterTally:
        """How many are open, and how many came after a moment."""

        def counts(reason: Reason | None) -> LetterCounts:
            is_open = DeadLetterFilter(reason=reason, replayed=False)
            chosen = (is_open, DeadLetterFilter(reason=reason, after=since))
            most = limits.DEAD_LETTERS_COUNTED_MAX
            return LetterCounts(*(min(len(self._chosen(each)), most) for each in chosen))

        by_reason = {reason: counts(reason) for reason in Reason}
        return LetterTally(counts(None), {reason: each for reason, each in by_reason.items() if any(each)})

    async def tally_by_device(self, since: datetime) -> DeviceTally:
        """The same, by device."""
        open_of: Counter[tuple[Reason, str | None]] = Counter()
        for reason in Reason:
            found = self._chosen(DeadLetterFilter(reason=reason, replayed=False))
            open_of.update((reason, one.device_id) for one in found[: limits.DEAD_LETTERS_COUNTED_MAX])
        return DeviceTally(await self.tally(since), dict(open_of))

    async def purge(self, chosen: DeadLetterFilter) -> int:
        """Delete these."""
        found = self._chosen(chosen)[: limits.PURGE_MAX]
        for entry in found:
            self._forget(entry.dead_letter_id)
        return len(found)

    def _chosen(self, chosen: DeadLetterFilter) -> list[DeadLetterEntry]:
        return [kept.entry for kept in self.dead_letters.values() if _matches(kept.entry, chosen)]


@dataclass
class _Claim:
    """A correction, and the latest attempt with it that has not ended."""

    correction: Correction
    attempt: str | None

    @property
    def is_free(self) -> bool:
        """Whether nothing is stored with it for certain."""
        return self.attempt is None and self.correction.outcome is None


def _kept(letter: DeadLetter, received_at: datetime) -> KeptDeadLetter:
    return KeptDeadLetter(
        entry=DeadLetterEntry(
            dead_letter_id=letter.dead_letter_id,
            topic=letter.topic,
            device_id=letter.device_id,
            holds=letter.holds,
            parts=letter.parts,
            rejected=letter.rejected,
            received_at=received_at,
            last_received_at=received_at,
            size_bytes=letter.size_bytes,
            head=letter.raw[:HEAD_BYTES_MAX],
            replay=None,
        ),
        raw=letter.raw,
    )


def _matches(entry: DeadLetterEntry, chosen: DeadLetterFilter) -> bool:
    return (
        (chosen.reason is None or chosen.reason in entry.rejected)
        and chosen.device_id in {None, entry.device_id}
        and (chosen.before is None or entry.received_at < chosen.before)
        and (chosen.after is None or entry.received_at > chosen.after)
        and (chosen.replayed is None or chosen.replayed == (entry.replay is not None))
    )
