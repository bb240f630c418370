"""Rollups in memory, and the events in memory counted."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import msgspec

from pisync import limits
from pisync.clock import to_ms
from pisync.domain.events import outcome
from pisync.domain.rollups import (
    MINUTE_MS,
    NO_EVENTS,
    Alike,
    Figures,
    Progress,
    Rollup,
    Span,
    Unit,
    figures_of,
    rollups,
    without_breakdown,
)
from pisync.errors import LeaseLost
from pisync.stores.interfaces.events import HistoryEntry
from pisync.stores.interfaces.rollups import Counted, FailuresByCode, KnownCodes, Part
from pisync.stores.memory.events import MemoryEventStore


class MemoryReceivedEvents:
    """`ReceivedEvents` of a store in memory."""

    def __init__(self, events: MemoryEventStore) -> None:
        self._events = events

    async def counted(self, span: Span) -> Counted:
        """The figures of the first events of a span."""
        found = self._within(span)
        if len(found) > limits.ROLLUP_EVENTS_AT_ONCE:
            beyond_ms = to_ms(found[limits.ROLLUP_EVENTS_AT_ONCE].received_at)
            span = Span(span.start_ms, max(beyond_ms, span.start_ms + 1))
            found = self._within(span)
        parts: defaultdict[int, list[Alike]] = defaultdict(list)
        for entry in found:
            parts[Unit.MINUTE.floor(to_ms(entry.received_at))].append(_alike(entry))
        return Counted(span=span, minutes={minute: figures_of(same) for minute, same in parts.items()})

    def _within(self, span: Span) -> list[HistoryEntry]:
        entries = sorted(self._events.events.values(), key=lambda entry: entry.received_at)
        return [entry for entry in entries if span.start_ms <= to_ms(entry.received_at) < span.end_ms]

    async def count(self, span: Span) -> int:
        """How many events were received in a span."""
        return len(self._within(span))

    async def newest_before(self, moment_ms: int) -> int | None:
        """When the newest event before a moment was received."""
        found = self._within(Span(0, moment_ms))
        return to_ms(found[-1].received_at) if found else None

    async def enriched_minutes(self, span: Span) -> list[int]:
        """The minutes of those to which something was added."""
        enriched = self._events.enriched_at.items()
        keys = [key for key, moment in enriched if span.start_ms <= to_ms(moment) < span.end_ms]
        return sorted({Unit.MINUTE.floor(to_ms(self._events.events[key].received_at)) for key in keys})

    async def received_then(self, device_ids: Collection[str], moment_ms: int) -> dict[str, int]:
        """The newest event of each device that was received then."""
        found: dict[str, int] = {}
        for (device_id, timestamp_ms), entry in self._events.events.items():
            if device_id in device_ids and to_ms(entry.received_at) == moment_ms:
                found[device_id] = max(timestamp_ms, found.get(device_id, timestamp_ms))
        return found


def _alike(entry: HistoryEntry) -> Alike:
    event = entry.event
    return Alike(
        events=1,
        files=event.total_files_synced,
        outcome=outcome(event.total_files_synced, event.total_errors),
        device_type=event.device_type,
        lateness=bisect_left(limits.LATENESS_MS, to_ms(entry.received_at) - to_ms(event.timestamp)),
        speed=bisect_left(limits.SPEEDS_MBIT, event.internet_speed),
        code=event.errors[0].code[: limits.ERROR_CODE_CHARS_MAX] if event.errors else "",
    )


class MemoryRollupStore:
    """A `RollupStore` that forgets when the process ends."""

    def __init__(self) -> None:
        self._stored: dict[tuple[Unit, int], tuple[Figures, int]] = {}
        self._codes: dict[str, Span] = {}
        self._progress = Progress()
        self._term = 0
        self._was_reset = False

    async def read(self, unit: Unit, span: Span, *, with_breakdown: bool = True) -> list[Rollup]:
        """One for every unit that begins in a span."""
        stored = await self.figures(unit, span)
        if not with_breakdown:
            stored = {start_ms: without_breakdown(figures) for start_ms, figures in stored.items()}
        return rollups(unit, span, stored, self._progress)

    async def known(self, codes: Collection[str]) -> KnownCodes:
        """When failures with each of these codes were first and last received."""
        return KnownCodes({code: self._codes[code] for code in codes if code in self._codes}, self._progress)

    async def failures(self, parts: Sequence[tuple[Unit, Span]]) -> list[dict[int, FailuresByCode]]:
        """For each part the failures of the units that begin in its span."""
        return [
            {
                start_ms: FailuresByCode(figures.codes, figures.other_codes)
                for start_ms, figures in (await self.figures(unit, span)).items()
            }
            for unit, span in parts
        ]

    async def progress(self) -> Progress:
        """For which times rollups are there."""
        return self._progress

    async def codes(self, limit: int) -> dict[str, Span]:
        """The first and the last minute of each code."""
        ranked = sorted(self._codes.items(), key=lambda item: (-item[1].end_ms, item[0]))
        return dict(ranked[:limit])

    async def begin(self, term: int) -> Progress:
        """Write in this term from now on."""
        if term < self._term:
            raise LeaseLost
        self._term, self._was_reset = term, False
        return self._progress

    async def save(self, progress: Progress, term: int) -> None:
        """Write down how far the rollups go."""
        if term != self._term or self._was_reset:
            raise LeaseLost
        self._progress = msgspec.structs.replace(progress, fixed_ms=self._progress.fixed_ms)

    async def figures(self, unit: Unit, span: Span) -> dict[int, Figures]:
        """The figures that are stored."""
        return {
            start_ms: figures
            for (of, start_ms), (figures, _) in self._stored.items()
            if of is unit and span.start_ms <= start_ms < span.end_ms
        }

    async def replace(self, parts: Sequence[Part], term: int) -> None:
        """Have exactly the figures of each part."""
        is_refused = False
        for unit, span, figures in parts:
            there = {(unit, start_ms) for start_ms in await self.figures(unit, span)}
            for key in there | {(unit, start_ms) for start_ms in figures}:
                if self._stored.get(key, (NO_EVENTS, term))[1] > term:
                    is_refused = is_refused or key[1] in figures
                elif key[1] in figures:
                    self._stored[key] = figures[key[1]], term
                else:
                    del self._stored[key]
        if is_refused:
            raise LeaseLost

    async def add_codes(self, codes: Mapping[str, Span]) -> None:
        """Have each code's first minute no later, and its last no earlier."""
        for code, span in codes.items():
            kept = self._codes.get(code, span)
            self._codes[code] = Span(min(kept.start_ms, span.start_ms), max(kept.end_ms, span.end_ms))

    async def fix(self, before_ms: int) -> bool:
        """Have nothing counted again that was received before then."""
        if not self._progress.may_fix(before_ms):
            return False
        fixed_ms = max(before_ms, self._progress.fixed_ms)
        self._progress = msgspec.structs.replace(self._progress, fixed_ms=fixed_ms)
        return True

    async def reset(self) -> None:
        """Know nothing any more but what is fixed."""
        fixed_ms, self._was_reset = self._progress.fixed_ms, True
        self._progress = Progress(covered=(Span(0, fixed_ms),) if fixed_ms else (), fixed_ms=fixed_ms)
        last_ms = fixed_ms - MINUTE_MS
        self._codes = {
            code: Span(span.start_ms, min(span.end_ms, last_ms))
            for code, span in self._codes.items()
            if span.start_ms < fixed_ms
        }
