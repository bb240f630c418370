"""What PiSync asks of the store of rollups, and of the events that they are counted from."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pisync.domain.rollups import Figures, Progress, Rollup, Span, Unit


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """The figures of a span's events by the minute in which they were received; a minute without has none.

    The span may be shorter than was asked for, and end within a minute; all codes are there.
    """

    span: Span
    minutes: Mapping[int, Figures]


class ReceivedEvents(Protocol):
    """Counts events by when they were received, in epoch milliseconds.

    Each method raises `MongodbUnavailable` where MongoDB is unavailable; the call may then be repeated.
    """

    async def counted(self, span: Span) -> Counted:
        """The figures of the first `ROLLUP_EVENTS_AT_ONCE` events of a span, about, and where those end."""

    async def count(self, span: Span) -> int:
        """How many events were received in a span; no event is read for it."""

    async def newest_before(self, moment_ms: int) -> int | None:
        """When the newest event before a moment was received; None where there is none."""

    async def enriched_minutes(self, span: Span) -> list[int]:
        """The minutes in which those events were received to which something was added in a span."""

    async def received_then(self, device_ids: Collection[str], moment_ms: int) -> dict[str, int]:
        """The newest timestamp, in epoch ms, of the events of each of these devices received just then."""


class Part(NamedTuple):
    """The figures of the units that begin in a span; those without had no events."""

    unit: Unit
    span: Span
    figures: Mapping[int, Figures]


class KnownCodes(NamedTuple):
    """The first and the last minute of codes that were counted, and for which times that is known."""

    spans: Mapping[str, Span]
    progress: Progress


class FailuresByCode(NamedTuple):
    """The failures of a unit of time by their code; `other`: with codes that are not told apart."""

    codes: Mapping[str, int]
    other: int


class RollupReader(Protocol):
    """Reads rollups. Each method raises `MongodbUnavailable` where MongoDB is unavailable."""

    async def read(self, unit: Unit, span: Span, *, with_breakdown: bool = True) -> list[Rollup]:
        """One for every unit that begins in a span of at most `ROLLUPS_READ_MAX`, ascending.

        Without the breakdown by device type, speed and code it is several times as quick.
        """

    async def progress(self) -> Progress:
        """For which times rollups are there."""

    async def known(self, codes: Collection[str]) -> KnownCodes:
        """When failures with each of these codes were first and last received, in one round trip."""

    async def failures(self, parts: Sequence[tuple[Unit, Span]]) -> list[dict[int, FailuresByCode]]:
        """For each part the failures of the units that begin in its span, in one round trip.

        Those without had none, or are not counted yet: what `known` said before is all there.
        """

    async def codes(self, limit: int) -> dict[str, Span]:
        """The first and the last minute of each code, those that came last first, `limit` at most."""


class RollupStore(RollupReader, Protocol):
    """Keeps rollups; the side of the worker that has the duty in a term of its lease.

    A method that writes raises `LeaseLost` where a later term has begun, or `reset` was called since: what
    that would replace stays as it is.
    """

    async def begin(self, term: int) -> Progress:
        """Write in this term from now on; returns how far the last one came."""

    async def save(self, progress: Progress, term: int) -> None:
        """Write down how far the rollups go that were written before."""

    async def figures(self, unit: Unit, span: Span) -> dict[int, Figures]:
        """The figures that are stored of units that begin in a span, known to be whole or not."""

    async def replace(self, parts: Sequence[Part], term: int) -> None:
        """Have exactly the figures of each part for the units that begin in its span."""

    async def add_codes(self, codes: Mapping[str, Span]) -> None:
        """Have each code's first minute no later, and its last no earlier, than in these."""

    async def fix(self, before_ms: int) -> bool:
        """Have nothing counted again that was received before the beginning of a day; its events may go then.

        False where not all of that is counted for good (`Progress.may_fix`): nothing changed.
        """

    async def reset(self) -> None:
        """Know nothing any more but what is fixed, so that whoever has the duty counts all the rest anew."""
