"""Rollups: what was received in a minute, an hour or a day, counted, and for which times that is known.

Rollups are counted from events and replaced, never counted up: any of them may be counted again at any time.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from pisync import limits
from pisync.domain.events import Outcome

MINUTE_MS: Final = 60_000


class Unit(StrEnum):
    """How long the time is that a rollup counts; it begins at a whole unit of UTC."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"

    @property
    def ms(self) -> int:
        """Its length in milliseconds."""
        return _UNITS_MS[self]

    def floor(self, moment_ms: int) -> int:
        """When the unit began in which a moment lies."""
        return moment_ms - moment_ms % self.ms

    def ceil(self, moment_ms: int) -> int:
        """The first beginning of a unit that is not before a moment."""
        return -self.floor(-moment_ms)


_UNITS_MS: Final = {Unit.MINUTE: MINUTE_MS, Unit.HOUR: 60 * MINUTE_MS, Unit.DAY: 1440 * MINUTE_MS}


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What the events of some time come to.

    `partial` are those of the failures with which files got through. `device_types` leaves out events that
    name none. `lateness` has a number of events for each bound of `limits.LATENESS_MS`, and one beyond;
    `speeds` likewise for `limits.SPEEDS_MBIT`. `codes`: failures by the code of their first error, empty
    where they name none; those that are not kept are in `other_codes`.
    """

    events: int = 0
    failures: int = 0
    partial: int = 0
    files: int = 0
    device_types: dict[str, int] = {}
    lateness: tuple[int, ...] = (0,) * (len(limits.LATENESS_MS) + 1)
    speeds: tuple[int, ...] = (0,) * (len(limits.SPEEDS_MBIT) + 1)
    codes: dict[str, int] = {}
    other_codes: int = 0

    @property
    def in_time(self) -> int:
        """Events that were received soon enough after they happened (`limits.IN_TIME_BOUNDS`)."""
        return sum(self.lateness[: limits.IN_TIME_BOUNDS])


NO_EVENTS: Final = Figures()


class Alike(NamedTuple):
    """Events that differ in nothing that is counted but their files, which are `files` together.

    `lateness` and `speed` are the places of the first bounds that they do not exceed.
    """

    events: int
    files: int
    outcome: Outcome
    device_type: str | None
    lateness: int
    speed: int
    code: str


def figures_of(groups: Iterable[Alike]) -> Figures:
    """The figures of groups of events."""
    events = failures = partial = files = 0
    types, codes = Counter[str](), Counter[str]()
    lateness, speeds = list(NO_EVENTS.lateness), list(NO_EVENTS.speeds)
    for group in groups:
        events += group.events
        files += group.files
        lateness[group.lateness] += group.events
        speeds[group.speed] += group.events
        if group.device_type is not None:
            types[group.device_type] += group.events
        if group.outcome is not Outcome.SUCCESS:
            failures += group.events
            codes[group.code] += group.events
            partial += group.events if group.outcome is Outcome.PARTIAL else 0
    return Figures(
        events=events,
        failures=failures,
        partial=partial,
        files=min(files, limits.COUNT_MAX),
        device_types=dict(types),
        lateness=tuple(lateness),
        speeds=tuple(speeds),
        codes=dict(codes),
    )


def total(parts: Iterable[Figures]) -> Figures:
    """The figures of all of them together, in whatever order; more files than `COUNT_MAX` are so many."""
    parts = list(parts)
    if len(parts) == 1:
        return parts[0]
    types, codes = Counter[str](), Counter[str]()
    for part in parts:
        types.update(part.device_types)
        codes.update(part.codes)
    return Figures(
        events=sum(part.events for part in parts),
        failures=sum(part.failures for part in parts),
        partial=sum(part.partial for part in parts),
        files=min(sum(part.files for part in parts), limits.COUNT_MAX),
        device_types=dict(types),
        lateness=tuple(map(sum, zip(NO_EVENTS.lateness, *(part.lateness for part in parts), strict=True))),
        speeds=tuple(map(sum, zip(NO_EVENTS.speeds, *(part.speeds for part in parts), strict=True))),
        codes=dict(codes),
        other_codes=sum(part.other_codes for part in parts),
    )


def with_codes(figures: Figures, most: int) -> Figures:
    """The figures with so many codes at most, the most frequent; of equals, the first by name."""
    if len(figures.codes) <= most:
        return figures
    ranked = sorted(figures.codes.items(), key=lambda item: (-item[1], item[0]))
    others = figures.other_codes + sum(count for _, count in ranked[most:])
    return msgspec.structs.replace(figures, codes=dict(ranked[:most]), other_codes=others)


def without_breakdown(figures: Figures) -> Figures:
    """The figures without what is told apart by device type, speed and code."""
    return msgspec.structs.replace(figures, device_types={}, speeds=NO_EVENTS.speeds, codes={}, other_codes=0)


def by_unit(unit: Unit, parts: Mapping[int, Figures]) -> dict[int, Figures]:
    """The figures of a unit from those of shorter ones, each by when it begins."""
    groups: dict[int, list[Figures]] = {}
    for start_ms, figures in parts.items():
        groups.setdefault(unit.floor(start_ms), []).append(figures)
    return {start: with_codes(total(group), limits.ROLLUP_CODES_MAX) for start, group in groups.items()}


class Span(msgspec.Struct, frozen=True, array_like=True, order=True):
    """From `start_ms` until before `end_ms`."""

    start_ms: int
    end_ms: int


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """For which times rollups are there, and how final they are.

    `covered`: apart from each other, ascending; a minute in them without a rollup had no events. Minutes that
    end by `closed_ms` were counted once more when no event could come to them any more; by `confirmed_ms`, a
    while after that again. What was added to events before `enriched_ms` is in them. 0: not begun. Events
    received before `fixed_ms` may be deleted: what was counted of that time is never counted again.
    """

    covered: tuple[Span, ...] = ()
    closed_ms: int = 0
    confirmed_ms: int = 0
    enriched_ms: int = 0
    fixed_ms: int = 0

    def may_fix(self, before_ms: int) -> bool:
        """Whether all that was received before a moment is counted for good, back to the first event."""
        if before_ms <= self.fixed_ms:
            return True
        is_counted = self.within(Span(0, before_ms)) == [Span(0, before_ms)]
        return is_counted and before_ms <= min(self.confirmed_ms, self.enriched_ms)

    @property
    def until_ms(self) -> int:
        """Until when events are counted: the end of what is covered."""
        return self.covered[-1].end_ms if self.covered else 0

    def with_covered(self, added: Span) -> "Progress":
        """The same, with this time covered, too."""
        spans: list[Span] = []
        for span in sorted([*self.covered, added]):
            if spans and span.start_ms <= spans[-1].end_ms:
                spans[-1] = Span(spans[-1].start_ms, max(spans[-1].end_ms, span.end_ms))
            else:
                spans.append(span)
        return msgspec.structs.replace(self, covered=tuple(spans))

    def within(self, span: Span) -> list[Span]:
        """What of a time is covered."""
        parts = [
            Span(max(span.start_ms, mine.start_ms), min(span.end_ms, mine.end_ms)) for mine in self.covered
        ]
        return [part for part in parts if part.start_ms < part.end_ms]

    def knows(self, unit: Unit, start_ms: int) -> bool:
        """Whether all of a unit is counted; of the one that goes on, all up to `until_ms`."""
        whole = Span(start_ms, min(start_ms + unit.ms, self.until_ms))
        return whole.start_ms < whole.end_ms and self.within(whole) == [whole]

    @property
    def reaches_back(self) -> bool:
        """Whether all events before `until_ms` are counted, back to the first."""
        return len(self.covered) == 1 and self.covered[0].start_ms == 0

    def newest_gap(self) -> Span | None:
        """The newest time before `until_ms` that is not covered, from a whole minute on."""
        if not self.covered or self.covered[-1].start_ms == 0:
            return None
        before = self.covered[-2].end_ms if len(self.covered) > 1 else 0
        return Span(Unit.MINUTE.floor(before), self.covered[-1].start_ms)


class Rollup(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one unit of time; None: not known, because it is not counted yet.

    `closed`: no event comes to it any more. One that is not goes as far as events are counted.
    """

    unit: Unit
    start_ms: int
    closed: bool
    figures: Figures | None


def rollups(unit: Unit, span: Span, stored: Mapping[int, Figures], progress: Progress) -> list[Rollup]:
    """One for every unit that begins in the span.

    Raises:
        ValueError: more than `ROLLUPS_READ_MAX`.
    """
    starts = range(unit.ceil(span.start_ms), span.end_ms, unit.ms)
    if len(starts) > limits.ROLLUPS_READ_MAX:
        raise ValueError(f"at most {limits.ROLLUPS_READ_MAX} rollups at once, not {len(starts)}")
    found = []
    for start_ms in starts:
        known = progress.knows(unit, start_ms)
        found.append(
            Rollup(
                unit=unit,
                start_ms=start_ms,
                closed=known and start_ms + unit.ms <= progress.closed_ms,
                figures=stored.get(start_ms, NO_EVENTS) if known else None,
            )
        )
    return found
