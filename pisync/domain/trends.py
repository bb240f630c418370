"""Whether a cause of failures is new, spreads or ebbs, by how many failures had its code, hour by hour."""

from collections.abc import Sequence
from enum import StrEnum
from math import sqrt
from typing import Final, NamedTuple, Self

from pisync import limits
from pisync.domain.rollups import Progress, Span, Unit

_DAY_MS: Final = Unit.DAY.ms


class Trend(StrEnum):
    """How often failures have a code in the last 24 hours, compared with the 7 days before."""

    NEW = "new"
    SPREADING = "spreading"
    STEADY = "steady"
    EBBING = "ebbing"


class Standing(StrEnum):
    """Whether failures have a code for the first time, all along, or again after they had it no more."""

    NEW = "new"
    ONGOING = "ongoing"
    BACK = "back"


class TrendSpans(NamedTuple):
    """The times that are compared, in whole hours: the recent one may be up to an hour shorter than a day."""

    before: Span
    recent: Span

    @classmethod
    def of(cls, now_ms: int) -> Self:
        """Those for a moment."""
        start_ms = Unit.HOUR.ceil(now_ms - _DAY_MS)
        return cls(Span(start_ms - limits.TREND_DAYS_BEFORE * _DAY_MS, start_ms), Span(start_ms, now_ms))

    @property
    def both(self) -> Span:
        """All of it."""
        return Span(self.before.start_ms, self.recent.end_ms)

    def known_by(self, progress: Progress) -> "TrendSpans | None":
        """As far as it is counted; None where the newest lacks more than some time."""
        end_ms = min(self.recent.end_ms, progress.until_ms)
        counted = Span(self.before.start_ms, end_ms)
        late_ms = round(limits.ROLLUPS_LATE_S_MAX * 1000)
        if end_ms < self.recent.end_ms - late_ms or progress.within(counted) != [counted]:
            return None
        return TrendSpans(self.before, Span(self.recent.start_ms, end_ms))


def standing_of(days: Sequence[int | None], *, had_before: bool | None) -> Standing | None:
    """By the failures day by day, today the last, and whether there were any before these days.

    What began in the last week, after a week without, is new, or back where it had been there before that;
    all else goes on. None: that is not known, or there were none.
    """
    start, quiet = None, 0
    for place in reversed(range(len(days))):
        failures = days[place]
        if failures is None:
            break
        if failures:
            start, quiet = place, 0
        elif start is not None:
            quiet += 1
        if start is not None and quiet == limits.BACK_AFTER_DAYS:
            if len(days) - start > limits.BACK_AFTER_DAYS:
                return Standing.ONGOING
            earlier = days[:place]
            if any(earlier) or had_before:
                return Standing.BACK
            return Standing.NEW if had_before is False and None not in earlier else None
    if start is None or len(days) - start <= limits.BACK_AFTER_DAYS:
        return None
    return Standing.ONGOING


def trend_of(spans: TrendSpans, *, before: int, recent: int, first_ms: int | None) -> Trend:
    """By the failures in both times, and when the first of all was received, where that is known.

    What chance alone explains is steady: the recent number must differ from what the mean of the days before
    lets expect by half of it, and by more than twice the square root, at least by 3.
    """
    if recent and not before and first_ms is not None and first_ms >= spans.recent.start_ms:
        return Trend.NEW
    recent_ms = spans.recent.end_ms - spans.recent.start_ms
    expected = before * recent_ms / (spans.before.end_ms - spans.before.start_ms)
    noise = 2 * sqrt(max(expected, 1))
    if recent > 1.5 * expected and recent - expected > noise:
        return Trend.SPREADING
    if 1.5 * recent < expected and expected - recent > noise:
        return Trend.EBBING
    return Trend.STEADY
