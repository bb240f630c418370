"""The geometry of charts as SVG: pure functions from numbers to paths, which templates only write down.

All of it is attributes, because the content security policy allows no style. Lengths are in units of the
view box, which the style sheet scales.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Final, NamedTuple

from pisync import clock
from pisync.domain.days import Days

STRIP_DAYS: Final = 60
STRIP_DAY: Final = 3
_LANE: Final = 4
_LANE_STEP: Final = 5
# Beside the bars or the line: room for the numbers of the axes.
_LEFT: Final = 44
_BOTTOM: Final = 22
_TOP: Final = 10
_TICKS: Final = (1, 2, 5)


class Strip(NamedTuple):
    """Days of a device, the oldest first, in three lanes: paths, their sizes, and the same in words."""

    width: int
    height: int
    ok: str
    bad: str
    heard: str
    weeks: str
    label: str


def strip(ok: Days, bad: Days, heard: Days, today: int, days: int = STRIP_DAYS) -> Strip:
    """The days up to today, which counts from 1970-01-01."""
    lanes = [_bits(each, today, days) for each in (ok, bad, heard)]
    in_order = [_lane(bits, place * _LANE_STEP, days) for place, bits in enumerate(lanes)]
    width, height = days * STRIP_DAY, 3 * _LANE_STEP - 1
    # A Monday begins a week: 1970-01-01 was a Thursday.
    mondays = [day for day in range(today - days + 1, today + 1) if day % 7 == 4]
    weeks = "".join(f"M{(day - today + days - 1) * STRIP_DAY} 0v{height}" for day in mondays)
    counts = [bits.bit_count() for bits in lanes]
    label = f"{days} days up to today: syncs succeeded on {counts[0]}, failed on {counts[1]},"
    label += f" heard on {counts[2]}"
    return Strip(width, height, in_order[0], in_order[1], in_order[2], weeks, label)


def days_of(known: Iterable[dict[str, object]], name: str) -> Days:
    """The days of one kind, as the answer for one device tells them."""
    first = clock.EPOCH.date()
    return Days.of(
        [(first.fromisoformat(str(each["day"])) - first) // timedelta(days=1) for each in known if each[name]]
    )


class Tick(NamedTuple):
    """A place on an axis, and what stands there."""

    at: float
    text: str


class Bar(NamedTuple):
    """A bar of two parts on top of each other, from the axis up; `title` says its numbers in words.

    One that `is_flagged` has a mark at the axis: what it stands for is no amount.
    """

    x: float
    width: float
    lower_y: float
    lower_height: float
    upper_y: float
    upper_height: float
    is_known: bool
    is_flagged: bool
    title: str


class Bars(NamedTuple):
    """A chart of bars: its size, the place of its axis, its ticks."""

    width: int
    height: int
    left: int
    floor: float
    bars: list[Bar]
    across: list[Tick]
    up: list[Tick]


class Amount(NamedTuple):
    """What a bar shows: two amounts, None where they are not known, a label under it or none, and words."""

    lower: int | None
    upper: int | None
    label: str
    title: str
    is_flagged: bool = False


def bars(amounts: Sequence[Amount], *, width: int = 720, height: int = 150) -> Bars:
    """Bars with an axis from 0."""
    most = max(((each.lower or 0) + (each.upper or 0) for each in amounts), default=0)
    top, up = _scale(most)
    floor = height - _BOTTOM
    step = (width - _LEFT) / max(len(amounts), 1)
    per_unit = (floor - _TOP) / top
    found, across = [], []
    for place, each in enumerate(amounts):
        x = _LEFT + place * step
        lower, upper = ((part or 0) * per_unit for part in (each.lower, each.upper))
        found.append(
            Bar(
                _round(x + step * 0.12),
                _round(step * 0.76),
                _round(floor - lower),
                _round(lower),
                _round(floor - lower - upper),
                _round(upper),
                each.lower is not None,
                each.is_flagged,
                each.title,
            )
        )
        if each.label:
            across.append(Tick(_round(x + step / 2), each.label))
    ticks = [Tick(_round(floor - value * per_unit), _short(value)) for value in up]
    return Bars(width, height, _LEFT, floor, found, across, ticks)


class Mark(NamedTuple):
    """A point of a line."""

    x: float
    y: float
    title: str


class Line(NamedTuple):
    """A chart of points that a line joins, broken where a value is not known."""

    width: int
    height: int
    left: int
    floor: float
    path: str
    points: list[Mark]
    across: list[Tick]
    up: list[Tick]


class Point(NamedTuple):
    """A value at a moment, both as numbers; None: not known. `title` says it in words."""

    at: float
    value: float | None
    title: str


def line(
    points: Sequence[Point], across: Sequence[tuple[float, str]], *, width: int = 720, height: int = 120
) -> Line:
    """A line over moments, in their order; `across` are moments with what stands below them."""
    known = [each.value for each in points if each.value is not None]
    top, up = _scale(max(known, default=0))
    floor = height - _BOTTOM
    first = min((each.at for each in points), default=0)
    extent = max((each.at for each in points), default=1) - first or 1

    def x(at: float) -> float:
        return _round(_LEFT + 4 + (at - first) / extent * (width - _LEFT - 10))

    def y(value: float) -> float:
        return _round(floor - value / top * (floor - _TOP))

    path: list[str] = []
    marks: list[Mark] = []
    is_broken = True
    for each in points:
        if each.value is None:
            is_broken = True
            continue
        path.append(f"{'M' if is_broken else 'L'}{x(each.at)} {y(each.value)}")
        is_broken = False
        marks.append(Mark(x(each.at), y(each.value), each.title))
    return Line(
        width,
        height,
        _LEFT,
        floor,
        "".join(path),
        marks,
        [Tick(x(at), text) for at, text in across],
        [Tick(y(value), _short(value)) for value in up],
    )


class Cell(NamedTuple):
    """A day of a device in a matrix: `kind` names its class, and `title` says it in words."""

    x: int
    y: int
    kind: str
    title: str


def matrix(rows: Sequence[Sequence[tuple[str, str]]], *, size: int = 12) -> tuple[int, int, list[Cell]]:
    """Width, height and cells of rows of kinds and titles: a column of one kind stands out."""
    cells = [
        Cell(column * size, row * size, kind, title)
        for row, kinds in enumerate(rows)
        for column, (kind, title) in enumerate(kinds)
    ]
    return size * max(map(len, rows), default=0), size * len(rows), cells


def sparkline(values: Sequence[int | None], *, width: int = 84, height: int = 18) -> str:
    """The path of small bars, for a table: of those that are not known there is none."""
    most = max((value or 0 for value in values), default=0) or 1
    step = width / max(len(values), 1)
    return "".join(
        f"M{_round(place * step)} {height}v-{max(1.0, _round(value / most * height))}h{_round(step - 1)}"
        f"V{height}z"
        for place, value in enumerate(values)
        if value
    )


def _bits(days: Days, today: int, count: int) -> int:
    """Bit n stands for the day n days before today."""
    behind = today - days.newest
    bits = days.bits << behind if behind >= 0 else days.bits >> -behind
    return bits & ((1 << count) - 1)


def _lane(bits: int, y: int, days: int) -> str:
    """Rectangles of days that follow each other, as one path."""
    return "".join(
        f"M{(days - newest - length) * STRIP_DAY} {y}h{length * STRIP_DAY - 1}v{_LANE}"
        f"h-{length * STRIP_DAY - 1}z"
        for newest, length in _runs(bits)
    )


def _runs(bits: int) -> Iterator[tuple[int, int]]:
    """The lowest bit of each run of set bits, and how many they are."""
    place = 0
    while bits:
        gap = (bits & -bits).bit_length() - 1
        bits >>= gap
        length = ((bits + 1) & ~bits).bit_length() - 1
        yield place + gap, length
        bits >>= length
        place += gap + length


def _scale(most: float) -> tuple[float, list[float]]:
    """The top of an axis that shows so much, and about three numbers at it."""
    if most <= 0:
        return 1, [0]
    magnitude = 10.0 ** (len(str(int(most))) - 1) if most >= 1 else 0.1
    step = next(
        (
            factor * power
            for power in (magnitude / 10, magnitude)
            for factor in _TICKS
            if most <= 4 * factor * power
        ),
        magnitude * 10,
    )
    if most >= 1 and step < 1:
        step = 1.0
    count = int(most / step) + (most % step > 0)
    return count * step, [place * step for place in range(count + 1)]


def _short(value: float) -> str:
    if value >= 1_000_000:
        return f"{value / 1_000_000:g} m"
    if value >= 1000:
        return f"{value / 1000:g} k"
    return f"{value:g}"


def _round(value: float) -> float:
    return round(value, 1)
