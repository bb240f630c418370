"""The geometry of charts as SVG: pure functions from numbers to paths, which templates only write down.

All of it is attributes, because the content security policy allows no style. Lengths are in units of the
view box, which the style sheet scales.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from functools import lru_cache
from typing import Final, NamedTuple

from api.pages.texts import day
from pisync import clock
from pisync.domain.days import Days

STRIP_DAYS: Final = 60
STRIP_DAY: Final = 3
CELL_WIDTH: Final = 13
CELL_HEIGHT: Final = 23
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
    weeks = _weeks(today, days, height)
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
    level: float | None


class Point(NamedTuple):
    """A value at a moment, both as numbers; None: not known. `title` says it in words."""

    at: float
    value: float | None
    title: str


def line(
    points: Sequence[Point],
    across: Sequence[tuple[float, str]],
    *,
    level: float | None = None,
    width: int = 720,
    height: int = 120,
) -> Line:
    """A line over moments, in their order; `across` are moments with what stands below them.

    `level`: a value that has a rule of its own.
    """
    known = [each.value for each in points if each.value is not None]
    known += [] if level is None else [level]
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
        None if level is None else y(level),
    )


class Cells(NamedTuple):
    """A row of a matrix: days of a device, a path for each kind of day, and the same in words.

    Rows without room between them make columns: failures fill the height of theirs, successes do not.
    """

    width: int
    height: int
    ok: str
    bad: str
    heard: str
    label: str


def cells(days: str) -> Cells:
    """A row by its characters, as `/api/site/{site_id}` tells them, today the last."""
    paths: dict[str, list[str]] = {"ok": [], "bad": [], "heard": []}
    for place, kind in enumerate(days):
        x = place * CELL_WIDTH
        if kind in "xm":
            paths["bad"].append(
                f"M{x} 0h{CELL_WIDTH - 1}v{CELL_HEIGHT if kind == 'x' else 12}h-{CELL_WIDTH - 1}z"
            )
        if kind in "om":
            paths["ok"].append(f"M{x + 2} {8 if kind == 'o' else 14}h{CELL_WIDTH - 5}v7h-{CELL_WIDTH - 5}z")
        if kind == "h":
            paths["heard"].append(f"M{x + 4} 10h4v4h-4z")
    named = (("o", "succeeded"), ("x", "failed"), ("m", "both"), ("h", "heard only"), (".", "nothing"))
    counted = ", ".join(f"{words} on {days.count(kind)}" for kind, words in named if kind in days)
    return Cells(
        len(days) * CELL_WIDTH,
        CELL_HEIGHT,
        "".join(paths["ok"]),
        "".join(paths["bad"]),
        "".join(paths["heard"]),
        f"{len(days)} days up to today: {counted}",
    )


def weeks_of(days: Sequence[str]) -> list[Tick]:
    """Where in a matrix weeks begin, and their dates, of days as answers tell them."""
    found = []
    for place, each in enumerate(days):
        if date.fromisoformat(each).weekday() == 0:
            found.append(Tick(place * CELL_WIDTH, day(each)))
    return found


class Share(NamedTuple):
    """A part of a bar, by its place among the parts."""

    place: int
    x: float
    width: float


def shares(amounts: Sequence[int], *, width: int = 120) -> list[Share]:
    """A bar cut into parts; each that there is can be seen."""
    total = sum(amounts) or 1
    found, x = [], 0.0
    for place, amount in enumerate(amounts):
        if amount:
            part = max(amount / total * width, 3.0)
            found.append(Share(place, _round(x), _round(part)))
            x += part
    # What the smallest parts took more is taken from all alike.
    by = min(1.0, width / x) if x else 1.0
    return [Share(each.place, _round(each.x * by), _round(each.width * by)) for each in found]


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


@lru_cache(maxsize=16)
def _weeks(today: int, days: int, height: int) -> str:
    """A line where each week begins."""
    # 1970-01-01 was a Thursday.
    mondays = [day for day in range(today - days + 1, today + 1) if day % 7 == 4]
    return "".join(f"M{(day - today + days - 1) * STRIP_DAY} 0v{height}" for day in mondays)


# Many devices have the same days: those of the school, or none.
@lru_cache(maxsize=4096)
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
