"""What a run comes to: a table for people and JSON for programs."""

from collections.abc import Sequence
from typing import Final

import msgspec
from rich import box
from rich.table import Table

from bench.machine import Machine
from bench.results import Result, figure_text
from bench.scale import Scale

PROCESSES: Final = ("bridge", "mosquitto", "mongod", "redis")
CPU_ORDER: Final = f"CPU µs/event of {' / '.join(PROCESSES)}"
HEAD: Final = ("what", "value", "against", "ratio", "target", "met", "CPU µs/event")


class MeasuredRow(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a row: its results, or the error that ended it."""

    name: str
    what: str
    seconds: float
    results: Sequence[Result] = ()
    error: str | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A run: the command that made it, on which machine, at which scale, and what became of the rows."""

    command: str
    machine: Machine
    scale: Scale
    rows: list[MeasuredRow]

    @property
    def failed(self) -> list[MeasuredRow]:
        """The rows that ended in an error."""
        return [row for row in self.rows if row.error is not None]

    @property
    def results(self) -> list[Result]:
        """The results of all rows."""
        return [result for row in self.rows for result in row.results]


def to_json(report: Report) -> bytes:
    """The report; each result has its ratio and whether the target is met beside what was measured."""
    content = msgspec.to_builtins(report)
    for row, as_json in zip(report.rows, content["rows"], strict=True):
        for result, result_as_json in zip(row.results, as_json["results"], strict=True):
            result_as_json |= {"ratio": result.ratio, "met": result.met}
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def from_json(content: bytes) -> Report:
    """The report that was written as JSON.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return msgspec.json.decode(content, type=Report)


def table(report: Report) -> Table:
    """The report for a terminal."""
    made = Table(*HEAD, box=box.SIMPLE, caption=CPU_ORDER)
    for name in ("value", "ratio"):
        made.columns[HEAD.index(name)].justify = "right"
    styles = {None: "", True: "green", False: "yellow"}
    for row in report.rows:
        if row.error is not None:
            made.add_row(row.name, "failed", row.error, "", "", "", "", style="red")
        for result in row.results:
            made.add_row(*cells(result), style=styles[result.met])
    return made


def cells(result: Result) -> tuple[str, ...]:
    """One result as the cells of its line."""
    against, ratio, target, met = "", "", "", ""
    if result.against is not None:
        figure = "" if result.against_value is None else f"{figure_text(result.against_value)}: "
        against = f"{figure}{result.against}"
    if result.ratio is not None:
        ratio = f"{result.ratio:.2f}"
    if result.target is not None:
        target = f"{'≥' if result.target.bound == 'at least' else '≤'} {result.target.ratio:g}"
    if result.met is not None:
        met = "yes" if result.met else "no"
    return (
        result.name,
        f"{figure_text(result.value)} {result.unit}",
        against,
        ratio,
        target,
        met,
        _cpu(result),
    )


def _cpu(result: Result) -> str:
    """The processes' CPU in the order of the head, then any others by name."""
    used = result.cpu_us_per_event
    if not used:
        return ""
    known = " / ".join(f"{used[name]:.1f}" if name in used else "-" for name in PROCESSES)
    others = (f"{name} {value:.1f}" for name, value in used.items() if name not in PROCESSES)
    return "; ".join([known, *others])
