"""Since when failures have a code, and how many: what rollups know of causes, and None where they do not."""

from collections.abc import Collection, Mapping, Sequence

from pisync import limits
from pisync.domain.acknowledgements import NO_CODE
from pisync.domain.rollups import Progress, Span, Unit
from pisync.domain.trends import Standing, Trend, TrendSpans, standing_of, trend_of
from pisync.stores.interfaces.rollups import FailuresByCode, RollupReader


class CodeHistory:
    """What rollups know of some codes; the empty code stands for failures that gave none."""

    def __init__(
        self,
        *,
        first_and_last: Mapping[str, Span],
        progress: Progress,
        hours: Mapping[int, FailuresByCode],
        days: Mapping[int, FailuresByCode],
        now_ms: int,
    ) -> None:
        self._first_and_last = first_and_last
        self._progress = progress
        self._days = days
        self._now_ms = now_ms
        self._trend_spans = spans = TrendSpans.of(now_ms).known_by(progress)
        began_ms = 0 if spans is None else spans.recent.start_ms
        self._before = [hour.codes for start_ms, hour in hours.items() if start_ms < began_ms]
        self._recent = [hour.codes for start_ms, hour in hours.items() if start_ms >= began_ms]
        # Where one that is not there may be among those that are not told apart.
        self._unclear = [hour for hour in hours.values() if hour.other]

    def first_ms(self, code: str) -> int | None:
        """When the first was received, to the minute; None where that may be before what is counted."""
        span = self._first_and_last.get(code)
        return span.start_ms if span is not None and self._progress.reaches_back else None

    def last_ms(self, code: str) -> int | None:
        """When the last was received, to the minute; None where there may be newer ones."""
        span, covered = self._first_and_last.get(code), self._progress.covered
        is_counted = covered and self._now_ms - covered[-1].end_ms <= limits.ROLLUPS_LATE_S_MAX * 1000
        return (
            span.end_ms if span is not None and is_counted and span.end_ms >= covered[-1].start_ms else None
        )

    def trend(self, code: str) -> Trend | None:
        """Whether they become more."""
        spans = self._trend_spans
        if spans is None or any(_failures(hour, code) is None for hour in self._unclear):
            return None
        before, recent = (
            sum(codes.get(name, 0) for name in _names(code) for codes in hours)
            for hours in (self._before, self._recent)
        )
        return trend_of(spans, before=before, recent=recent, first_ms=self.first_ms(code))

    def on_day(self, code: str, day_ms: int) -> int | None:
        """How many were received on a day that begins then."""
        if not self._progress.knows(Unit.DAY, day_ms):
            return None
        day = self._days.get(day_ms)
        return 0 if day is None else _failures(day, code)

    def standing(self, code: str, days: Sequence[int]) -> Standing | None:
        """Whether they are new, go on, or are back, by these days, which begin then, today the last."""
        first_ms = self.first_ms(code)
        counted = [self.on_day(code, day_ms) for day_ms in days]
        return standing_of(counted, had_before=None if first_ms is None else first_ms < min(days))

    def is_known(self, code: str) -> bool:
        """Whether there ever was such a failure."""
        return code in self._first_and_last or any(_failures(day, code) for day in self._days.values())


async def history_of(
    rollups: RollupReader, codes: Collection[str], *, now_ms: int, days: Sequence[int] = ()
) -> CodeHistory:
    """What rollups know of these codes, day by day on these days; in two round trips.

    Raises:
        MongodbUnavailable: MongoDB is unavailable.
    """
    # In this order: what is known to be counted is there then.
    known = await rollups.known([code for code in codes if code])
    parts = [(Unit.HOUR, TrendSpans.of(now_ms).both)]
    if days:
        parts.append((Unit.DAY, Span(min(days), max(days) + 1)))
    hours, *others = await rollups.failures(parts)
    return CodeHistory(
        first_and_last=known.spans,
        progress=known.progress,
        hours=hours,
        days=others[0] if others else {},
        now_ms=now_ms,
    )


def _names(code: str) -> tuple[str, ...]:
    return (code,) if code else ("", NO_CODE)


def _failures(counted: FailuresByCode, code: str) -> int | None:
    """How many have the code; None where it may be among those that are not told apart."""
    names = _names(code)
    if counted.other and not any(name in counted.codes for name in names):
        return None
    return sum(counted.codes.get(name, 0) for name in names)
