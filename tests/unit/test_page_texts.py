"""How pages write values, and the geometry of their charts: pure functions."""

from datetime import UTC, datetime, timedelta
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from api.pages import charts, texts
from api.pages.charts import STRIP_DAY, STRIP_DAYS
from pisync import clock
from pisync.domain.days import Days

NOW = datetime(2026, 5, 8, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize("write", [texts.number, texts.age, texts.moment, texts.span, texts.text])
def test_what_is_not_known_is_a_dash(write: object) -> None:
    assert write(None) == texts.UNKNOWN  # type: ignore[operator]
    assert texts.DASH in texts.UNKNOWN


@pytest.mark.parametrize(
    ("back", "words"),
    [
        (timedelta(seconds=0), "just now"),
        (timedelta(seconds=59), "just now"),
        (timedelta(seconds=60), "1 min ago"),
        (timedelta(minutes=119), "119 min ago"),
        (timedelta(hours=2), "2 h ago"),
        (timedelta(hours=47), "47 h ago"),
        (timedelta(days=2), "2 days ago"),
        (timedelta(days=60), "60 days ago"),
        (timedelta(days=61), "8 Mar 2026"),
        (timedelta(seconds=-30), "just now"),
        (timedelta(days=-3), "in 3 days"),
        (timedelta(days=-300), "4 Mar 2027"),
    ],
)
def test_ages_are_rough_and_moments_exact(
    back: timedelta, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "now", lambda: NOW)
    written = texts.age(NOW - back)
    assert written.striptags() == words
    assert f'title="{texts.exact(NOW - back)} UTC"' in written


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (5.44, "5.4 s"), (12.3, "12 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h")],
)
def test_spans_are_in_their_largest_unit(seconds: float, words: str) -> None:
    assert texts.span(seconds) == words


@given(st.text(max_size=300), st.integers(2, 100))
def test_texts_show_what_cannot_be_seen_and_keep_the_whole(given_text: str, chars: int) -> None:
    shown = texts.text(given_text, chars)
    if isinstance(shown, Markup):
        title, _, beginning = str(shown).removeprefix('<span title="').partition('">')
        visible = unescape(beginning.removesuffix("</span>"))
        whole = unescape(title)
        assert visible.endswith("\N{HORIZONTAL ELLIPSIS}")
        assert whole.startswith(visible[:-1])
    else:
        visible = str(shown)
    assert visible.isprintable()
    assert len(visible) <= chars


days = st.builds(Days, st.integers(20_000, 20_200), st.integers(0, 2**64 - 1))


@given(days, st.integers(20_000, 20_200))
def test_a_strip_has_each_day_in_its_place(known: Days, today: int) -> None:
    """Held against the days one by one."""
    drawn = charts.strip(known, Days(), Days(), today)
    found = set()
    for piece in drawn.ok.split("M")[1:]:
        x, rest = piece.split(" 0h", 1)
        width = int(rest.split("v")[0]) + 1
        first = int(x) // STRIP_DAY
        found |= set(range(first, first + width // STRIP_DAY))
    days_there = {STRIP_DAYS - 1 - (today - day) for day in known if 0 <= today - day < STRIP_DAYS}
    assert found == days_there
    assert f"succeeded on {len(days_there)}," in drawn.label


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)) | st.none(), min_size=1, max_size=30))
def test_bars_stay_within_and_add_up(amounts: list[tuple[int, int] | None]) -> None:
    drawn = charts.bars([charts.Amount(each and each[0], each and each[1], "", "") for each in amounts])
    for each, bar in zip(amounts, drawn.bars, strict=True):
        assert bar.is_known == (each is not None)
        assert bar.upper_y >= 0
        assert bar.x + bar.width <= drawn.width
        assert abs(bar.lower_y - (bar.upper_y + bar.upper_height)) < 0.2
        assert abs(bar.lower_y + bar.lower_height - drawn.floor) < 0.2
    assert 1 <= len(drawn.up) <= 6


@given(st.floats(0, 1e7))
def test_an_axis_reaches_what_it_shows_with_few_numbers(most: float) -> None:
    drawn = charts.line([charts.Point(0, most, ""), charts.Point(1, None, "")], [])
    assert all(point.y >= 0 for point in drawn.points)
    assert 1 <= len(drawn.up) <= 6
    assert len(set(drawn.up)) == len(drawn.up)


def test_a_line_breaks_where_nothing_is_known() -> None:
    values = [1.0, 2.0, None, 3.0]
    drawn = charts.line([charts.Point(at, value, "") for at, value in enumerate(values)], [])
    assert drawn.path.count("M") == 2
    assert drawn.path.count("L") == 1


def test_what_is_not_known_has_no_bar_in_a_sparkline() -> None:
    assert charts.sparkline([None, 0, 3]).count("M") == 1
    assert charts.sparkline([]) == ""


def test_a_row_of_a_matrix_has_a_column_for_each_day() -> None:
    row = charts.cells("oxm.h")
    assert (row.width, row.height) == (5 * charts.CELL_WIDTH, charts.CELL_HEIGHT)
    assert [path.count("M") for path in (row.ok, row.bad, row.heard)] == [2, 2, 1]
    # A failure fills its column from the top to the bottom.
    assert f"M{charts.CELL_WIDTH} 0h{charts.CELL_WIDTH - 1}v{charts.CELL_HEIGHT}" in row.bad
    assert row.label.endswith("succeeded on 1, failed on 1, both on 1, heard only on 1, nothing on 1")


@given(st.lists(st.integers(0, 10**6), max_size=8))
def test_shares_fill_a_bar_and_each_can_be_seen(amounts: list[int]) -> None:
    parts = charts.shares(amounts, width=120)
    assert [each.place for each in parts] == [place for place, amount in enumerate(amounts) if amount]
    assert all(each.width >= 2 for each in parts)
    if parts:
        assert abs(parts[-1].x + parts[-1].width - 120) < 0.5


def test_weeks_of_a_matrix_begin_on_mondays() -> None:
    days = [f"2026-11-{day:02}" for day in range(1, 29)]
    ticks = [(tick.at / charts.CELL_WIDTH, tick.text) for tick in charts.weeks_of(days)]
    assert ticks == [(1, "2 Nov"), (8, "9 Nov"), (15, "16 Nov"), (22, "23 Nov")]
