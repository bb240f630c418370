"""What PiSync asks of the store of dead letters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from pisync.domain.dead_letters import DeadLetter, Holds, Part
from pisync.domain.events import Reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """A replay that took a letter in: when, and how many of its events were stored, duplicates, rejected."""

    replayed_at: datetime
    stored: int
    duplicates: int
    rejected: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Correction:
    """How far the times of the events that were rejected for `reason` were moved when they were sent again.

    `stated` is how that was said, `confirmed_by` who is said to have confirmed it, and `confirmed_at` when;
    `offset_ms` of 0 is a replay with the device's own times. `outcome` counts those events in the latest
    replay that stored any of them, or, where none did, in the first that found any of them stored; None:
    whether they are stored is not known.
    """

    reason: Reason
    offset_ms: int
    stated: str
    confirmed_by: str | None
    confirmed_at: datetime
    outcome: Replay | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadLetterEntry:
    """A dead letter without the whole of its bytes.

    `head` are the first `HEAD_BYTES_MAX` of them; `received_at` is when it came first, `last_received_at`
    when last; `replay` is the latest replay that stored something of it, or, where none did, the first that
    found something of it stored; `corrections` are those that took something in or may have, one for a
    reason. The others are the letter's own.
    """

    dead_letter_id: str
    topic: str
    device_id: str | None
    holds: Holds
    parts: tuple[Part, ...]
    rejected: Mapping[Reason, int]
    received_at: datetime
    last_received_at: datetime
    size_bytes: int
    head: bytes
    replay: Replay | None
    corrections: tuple[Correction, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptDeadLetter:
    """A dead letter with all the bytes that are kept of it."""

    entry: DeadLetterEntry
    raw: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadLetterPosition:
    """Where a page ended. Rows are ordered by both, descending, and neither ever changes."""

    received_at: datetime
    dead_letter_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadLetterFilter:
    """Which dead letters are meant; `before` and `after` are exclusive bounds of `received_at`.

    `reason`: those with a part rejected for it. `replayed`: only those of which a replay took something in
    (True), or only the others (False).
    """

    reason: Reason | None = None
    device_id: str | None = None
    before: datetime | None = None
    after: datetime | None = None
    replayed: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadLetterQuery(DeadLetterFilter):
    """A page of dead letters, newest first."""

    limit: int
    position: DeadLetterPosition | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DroppedLetters:
    """How many letters of a device (None: of topics that name none) gave way to newer ones; and when last."""

    device_id: str | None
    dropped: int
    dropped_at: datetime


class LetterCounts(NamedTuple):
    """How many letters there are of which no replay took anything in, and how many came since a moment.

    Neither is counted beyond `DEAD_LETTERS_COUNTED_MAX`: one that has come to it means so many or more.
    """

    open: int
    received: int


class LetterTally(NamedTuple):
    """Letters counted: all of them, and by reason, where a letter of several reasons counts for each."""

    every: LetterCounts
    by_reason: Mapping[Reason, LetterCounts]


class DeviceTally(NamedTuple):
    """The same, and the open letters of each reason by device, None: of topics that name none."""

    tally: LetterTally
    open_of: Mapping[tuple[Reason, str | None], int]


class DeadLetterStore(Protocol):
    """Keeps dead letters, and remembers their replays.

    Of each device it keeps `DEVICE_DEAD_LETTERS_MAX` letters and `DEVICE_DEAD_LETTER_BYTES_MAX` bytes, and
    what comes between two looks; the oldest give way, and that is remembered.

    Each method raises `MongodbUnavailable` where MongoDB is unavailable; the call may then be repeated.
    """

    async def prepare(self) -> None:
        """Create what the store needs (indexes); may be repeated."""

    async def apply_retention(self, days: int | None) -> None:
        """From now on, forget a dead letter so many days after it last came; None: keep all for good."""

    async def add(self, dead_letters: Sequence[DeadLetter], received_at: datetime) -> list[DroppedLetters]:
        """Keep the dead letters, each once; returns once all are durable, with those that gave way.

        Of more letters of a device than are kept the first are not written, and are among those.
        """

    async def record_dropped(self, dropped: Mapping[str | None, int], now: datetime) -> None:
        """Remember how many messages of devices were left out without a letter, as if theirs gave way.

        Where it raises, some may be counted, so that a repetition counts these twice.
        """

    async def ping_writes(self) -> None:
        """Return when a write would be durable now; nothing is written."""

    async def find(self, query: DeadLetterQuery) -> list[DeadLetterEntry]:
        """One page of dead letters, newest first."""

    async def get(self, dead_letter_id: str) -> KeptDeadLetter | None:
        """One dead letter; None where there is none with this id."""

    async def dropped(self, device_id: str | None) -> list[DroppedLetters]:
        """Whose letters gave way, the latest first, at most `DROPS_LISTED_MAX`; None: of all devices."""

    async def record_replay(self, dead_letter_id: str, replay: Replay) -> None:
        """Record a replay that took something in; nothing where the letter is gone meanwhile.

        One that stored nothing, because all was there, leaves the one that is recorded.
        """

    async def claim_correction(self, dead_letter_id: str, correction: Correction, attempt: str) -> bool:
        """Write down, before it is sent, with which correction the letter's events of a reason are sent.

        False, and nothing is written, where they were sent with another offset that took some of them in, or
        of which that is not known: with two of them an event would be stored twice. Also where the letter is
        gone. With the same offset it is another attempt of the correction that is there.
        """

    async def settle_correction(
        self, dead_letter_id: str, correction: Correction, attempt: str, outcome: Replay | None
    ) -> None:
        """Record what the attempt took in; None: nothing for certain, so that another offset may be claimed.

        One that stored nothing, because all was there, leaves the outcome that is recorded.
        An attempt that is followed by another one leaves the latter as it is.
        """

    async def count(self, chosen: DeadLetterFilter) -> int:
        """How many dead letters there are of these."""

    async def tally(self, since: datetime) -> LetterTally:
        """How many are open, and how many came first after a moment; a reason that has none is left out."""

    async def tally_by_device(self, since: datetime) -> DeviceTally:
        """As `tally`; of each reason the open letters that are counted are those that are told by device."""

    async def purge(self, chosen: DeadLetterFilter) -> int:
        """Delete dead letters, at most `PURGE_MAX` of these; returns how many."""
