"""Whether a cause spreads: by its failures in the last 24 hours and in the 7 days before."""

import pytest

from pisync.clock import to_ms
from pisync.domain.rollups import Progress, Span, Unit
from pisync.domain.trends import Trend, TrendSpans, standing_of, trend_of
from tests.support.samples import NOW

HOUR_MS, DAY_MS = Unit.HOUR.ms, Unit.DAY.ms
NOW_MS = Unit.HOUR.floor(to_ms(NOW)) + HOUR_MS // 2
SPANS = TrendSpans.of(NOW_MS)


@pytest.mark.parametrize(
    ("days", "had_before", "standing"),
    [
        ([0] * 27 + [3], False, "new"),
        ([0] * 21 + [1, 0, 0, 0, 2, 0, 0], False, "new"),
        ([0] * 27 + [3], True, "back"),
        ([4] + [0] * 26 + [3], None, "back"),
        ([1] * 13 + [0] * 7 + [1] * 7 + [0], True, "ongoing"),  # it came again 8 days ago
        ([1] * 14 + [0] * 7 + [1] * 7, True, "back"),
        ([1] * 15 + [0] * 6 + [1] * 7, True, "ongoing"),  # six days are no week
        ([0] * 20 + [1] * 8, False, "ongoing"),
        ([2] * 28, True, "ongoing"),
        ([0] * 28, True, None),
        ([], None, None),
        ([0] * 27 + [3], None, None),  # whether it was there before is not known
        ([None] * 20 + [0] * 7 + [3], False, None),
        ([None] * 20 + [0] * 7 + [3], True, "back"),
        ([None] * 24 + [0] * 3 + [3], True, None),
        ([None] * 18 + [1] * 10, True, "ongoing"),
    ],
)
def test_a_cause_is_new_goes_on_or_is_back(
    days: list[int | None], had_before: bool | None, standing: str | None
) -> None:
    assert standing_of(days, had_before=had_before) == standing


@pytest.mark.parametrize(
    ("before", "recent", "trend"),
    [
        (0, 0, Trend.STEADY),
        (0, 2, Trend.STEADY),  # chance
        (0, 3, Trend.SPREADING),
        (700, 98, Trend.STEADY),
        (700, 140, Trend.STEADY),
        (700, 170, Trend.SPREADING),
        (700, 60, Trend.EBBING),
        (700, 0, Trend.EBBING),
        (7, 0, Trend.STEADY),  # chance
        (7, 4, Trend.SPREADING),
    ],
)
def test_a_cause_spreads_or_ebbs_beyond_what_chance_explains(before: int, recent: int, trend: Trend) -> None:
    assert trend_of(SPANS, before=before, recent=recent, first_ms=None) is trend
    assert trend_of(SPANS, before=before, recent=recent, first_ms=SPANS.before.start_ms - 1) is trend


@pytest.mark.parametrize(
    ("before", "recent", "first_ms", "is_new"),
    [
        (0, 1, SPANS.recent.start_ms, True),
        (0, 1, SPANS.recent.start_ms - 1, False),
        (1, 1, SPANS.recent.start_ms, False),
        (0, 0, SPANS.recent.start_ms, False),
        (0, 9, None, False),
    ],
)
def test_a_cause_is_new_where_its_first_failure_is_known_to_be_of_the_last_day(
    before: int, recent: int, first_ms: int | None, is_new: bool
) -> None:
    found = trend_of(SPANS, before=before, recent=recent, first_ms=first_ms)
    assert (found is Trend.NEW) is is_new


def test_whole_hours_are_compared() -> None:
    assert SPANS.recent.end_ms == NOW_MS
    assert SPANS.recent.start_ms == Unit.HOUR.floor(NOW_MS) - 23 * HOUR_MS
    assert SPANS.before == Span(SPANS.recent.start_ms - 7 * DAY_MS, SPANS.recent.start_ms)


@pytest.mark.parametrize(
    ("covered", "end_ms"),
    [
        ([SPANS.both], NOW_MS),
        ([Span(0, NOW_MS - 5000)], NOW_MS - 5000),
        ([Span(0, NOW_MS - HOUR_MS - 1)], None),
        ([Span(SPANS.before.start_ms + 1, NOW_MS)], None),
        ([Span(0, NOW_MS - DAY_MS), Span(NOW_MS - DAY_MS + 60_000, NOW_MS)], None),
        ([], None),
    ],
)
def test_nothing_is_told_of_times_that_are_not_counted(covered: list[Span], end_ms: int | None) -> None:
    """The newest seconds are never counted yet; a worker that stands still for an hour is told."""
    known = SPANS.known_by(Progress(covered=tuple(covered)))
    assert (None if known is None else known.recent.end_ms) == end_ms
