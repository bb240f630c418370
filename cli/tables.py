"""How the commands that look at the fleet print: texts as data, moments, states with a shape, tables.

What a device or the directory says never steers the terminal and is never taken for markup; unknown is a
dash, and never 0.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from cli.api_client import Json
from pisync import clock
from pisync.clock import read_rfc3339
from pisync.domain.payloads import printable

UNKNOWN: Final = "\u2013"
# A column that may be broken keeps so much of a narrow terminal.
FOLDED_CHARS_MIN: Final = 9
# The shape of a state or outcome, that for a terminal which has ASCII only, and the colour.
_MARKS: Final = {
    "failing": ("✗", "X", "bold red"),
    "wobbly": ("▲", "!", "yellow"),
    "overdue": ("◔", "?", "magenta"),
    "never_heard": ("○", "o", "cyan"),
    "good": ("●", "*", "green"),
    "success": ("●", "*", "green"),
    "partial": ("◐", "/", "yellow"),
    "failed": ("✗", "X", "bold red"),
}
_MINUTE_S: Final = 60
_HOUR_S: Final = 60 * _MINUTE_S
_DAY_S: Final = 24 * _HOUR_S


def console() -> Console:
    """Where tables go: as wide as the terminal, and as wide as it takes where there is none."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")  # a name that the locale has no characters for
    return Console(highlight=False, markup=False, emoji=False)


def show(target: Console, content: RenderableType) -> None:
    """Print a table or text; in a pipe no line is broken or cut."""
    if target.is_terminal or target.is_dumb_terminal:
        target.print(content)
        return
    wide = Console(file=target.file, highlight=False, markup=False, emoji=False, width=10_000)
    needed = Measurement.get(wide, wide.options, content).maximum
    wide.width = max(needed, 1)
    for line in wide.render_lines(content, pad=False):
        target.file.write("".join(segment.text for segment in line).rstrip() + "\n")


def has_shapes(target: Console) -> bool:
    """Whether the terminal can show more than ASCII."""
    return target.encoding.lower().replace("-", "").startswith("utf")


def text(value: object, style: str = "") -> Text:
    """A value as data: numbers with separators, lists joined, unknown as a dash."""
    if value is None or value in ("", []):
        return Text(UNKNOWN)
    if isinstance(value, bool):
        return Text("yes" if value else "no", style)
    if isinstance(value, int):
        return Text(f"{value:,}", style)
    if isinstance(value, float):
        return Text(f"{value:,.1f}", style)
    if isinstance(value, (list, tuple)):
        return Text(" ".join(printable(str(each)) for each in value), style)
    return Text(printable(str(value)), style)


def state(value: str, target: Console) -> Text:
    """A state or an outcome: its shape and its word, which do without colour."""
    shape, plain, style = _MARKS.get(value, ("·", ".", ""))
    return Text(f"{shape if has_shapes(target) else plain} {printable(value).replace('_', ' ')}", style)


def parsed(moment: object) -> datetime | None:
    """The moment of an answer; None where it is null, or no moment."""
    try:
        return read_rfc3339(moment)[0]
    except (msgspec.ValidationError, OverflowError):
        return None


def moment(value: object, now: datetime | None = None) -> Text:
    """A moment as `2026-05-03 08:12Z (2 d ago)`."""
    read = parsed(value)
    if read is None:
        return text(value)
    return Text(f"{clock.rfc3339(read)[:16].replace('T', ' ')}Z ({age(read, now or clock.now())})")


def short_moment(value: object) -> Text:
    """A moment as `2 d ago`."""
    read = parsed(value)
    return text(value) if read is None else Text(age(read, clock.now()))


def age(then: datetime, now: datetime) -> str:
    """How long ago in one unit, rounded down; or `in 3 h`, which is a clock that is ahead."""
    difference = now - then
    if difference < timedelta(0):
        return f"in {span(-difference)}"
    return f"{span(difference)} ago"


def span(length: timedelta) -> str:
    """A length of time in its largest unit, days from two on."""
    seconds = int(length.total_seconds())
    for unit, size_s, least in (("d", _DAY_S, 2), ("h", _HOUR_S, 1), ("min", _MINUTE_S, 1)):
        if seconds >= least * size_s:
            return f"{seconds // size_s:,} {unit}"
    return f"{seconds} s"


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of a list: its heading, and the cell of a row; shorter ones where there is little room.

    `whole`: its cells are never broken.
    """

    heading: str
    cell: Callable[[Json], Text]
    right: bool = False
    whole: bool = True
    short: Callable[[Json], Text] | None = None
    short_heading: str | None = None


def member(
    name: str,
    heading: str | None = None,
    *,
    right: bool = False,
    whole: bool = True,
    short_heading: str | None = None,
) -> Column:
    """The column of one member, as it is."""
    return Column(
        heading=heading or name.replace("_", " "),
        cell=lambda row: text(row.get(name)),
        right=right,
        whole=whole,
        short_heading=short_heading,
    )


def moments(name: str, heading: str | None = None, *, short_heading: str | None = None) -> Column:
    """The column of one moment."""
    return Column(
        heading=heading or name.replace("_", " "),
        cell=lambda row: moment(row.get(name)),
        short=lambda row: short_moment(row.get(name)),
        short_heading=short_heading,
    )


def table(columns: Sequence[Column], rows: Sequence[Json], target: Console) -> Table:
    """The rows as a table; where a terminal has no room for it with shorter cells, and no empty columns."""
    made = _table(columns, rows, shortened=False)
    is_too_wide = Measurement.get(target, target.options, made).maximum >= target.width
    return _table(columns, rows, shortened=True) if target.is_terminal and is_too_wide else made


def _table(columns: Sequence[Column], rows: Sequence[Json], *, shortened: bool) -> Table:
    made = Table(box=None, pad_edge=False, header_style="bold")
    shown = []
    for column in columns:
        cells = [((shortened and column.short) or column.cell)(row) for row in rows]
        longest = max((cell.cell_len for cell in cells), default=0)
        if shortened and not longest:
            continue
        shown.append(cells)
        made.add_column(
            (shortened and column.short_heading) or column.heading,
            justify="right" if column.right else "left",
            no_wrap=column.whole,
            overflow="ellipsis" if column.whole else "fold",
            min_width=None if column.whole else min(FOLDED_CHARS_MIN, longest),
        )
    for line in zip(*shown, strict=True):
        made.add_row(*line)
    return made


def facts(pairs: Iterable[tuple[str, Text | Any]]) -> Table:
    """Names with their values, below one another."""
    made = Table(box=None, pad_edge=False, show_header=False)
    made.add_column(no_wrap=True, style="bold")
    made.add_column(overflow="fold")
    for name, value in pairs:
        made.add_row(name, value if isinstance(value, Text) else text(value))
    return made


def joined(parts: Iterable[Text | str], separator: str = " · ") -> Text:
    """Texts behind one another."""
    return Text(separator).join(part if isinstance(part, Text) else Text(part) for part in parts)
