"""What `pisync replay` prints: the summary, what was rejected or left out, and what a replay would send."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import typer

from device_sim.replay.checkpoint import Counts
from device_sim.replay.items import Fault
from device_sim.replay.preview import Preview
from device_sim.replay.reading import counted
from pisync.clock import from_ms, rfc3339
from pisync.domain.payloads import printable

_MINUTE_S: Final = 60
_HOUR_S: Final = 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a replay came to, with the counts of its earlier runs."""

    counts: Counts
    first_faults: Sequence[Fault]
    unused: dict[str, list[str]]
    twice: int
    never: int
    fell_back: int
    elapsed_s: float
    is_whole: bool
    report: Path | None
    checkpoint_file: Path | None

    @property
    def exit_code(self) -> int:
        """0 when every event was confirmed."""
        return 1 if self.counts.rejected or self.counts.left_out else 0

    def summary(self) -> dict[str, Any]:
        """As the report ends."""
        found: dict[str, Any] = msgspec.to_builtins(self.counts)
        return {"confirmed": self.counts.confirmed, **found, "elapsed_s": round(self.elapsed_s, 3)}


def show(result: Result) -> None:
    """Print what a replay came to."""
    counts = result.counts
    typer.echo(
        f"{counted(counts.confirmed, 'event')} confirmed: {counts.stored:,} stored,"
        f" {counts.duplicates:,} there already; {counts.rejected:,} rejected,"
        f" {counted(counts.left_out, 'line')} left out; {result.elapsed_s:,.1f} s"
    )
    _show_passed_over(counts)
    _show_faults(counts, result.first_faults, result.report)
    for file, names in result.unused.items():
        typer.echo(f"{printable(file)}: not used: {printable(', '.join(names))}")
    _show_clock(result.twice, result.never)
    if result.fell_back:
        typer.echo(
            f"{result.fell_back:,} events are older than one before them, and were sent at once:"
            " with --speed a file should be in the order of time"
        )
    if not result.is_whole and result.checkpoint_file is not None:
        typer.echo(f"Interrupted. Repeat the command to go on ({result.checkpoint_file}).")
    elif not result.is_whole:
        typer.echo("Interrupted. A repetition begins anew, and tells what is stored as there already.")


def show_preview(seen: Preview) -> None:
    """Print what a replay would do."""
    what = "message" if any(entry.topic for entry in seen.first) else "event"
    typer.echo(
        f"{counted(seen.span.entries, what)} of {counted(len(seen.devices), 'device')} would be sent;"
        f" {counted(seen.counts.left_out, 'line')} left out"
    )
    if seen.span.oldest_ms is not None and seen.span.newest_ms is not None:
        times = [rfc3339(from_ms(at_ms)) for at_ms in (seen.span.oldest_ms, seen.span.newest_ms)]
        typer.echo(f"From {times[0]} to {times[1]}")
    for file, head in seen.heads.items():
        unused = f"; not used: {printable(', '.join(head.unused))}" if head.unused else ""
        typer.echo(f"{printable(file)}: {head.format.value}{unused}")
    show_empty(seen)
    for entry in seen.first:
        payload = printable(entry.payload[:500].decode(errors="replace"))
        typer.echo(f"  line {entry.line}: {payload}")
    _show_passed_over(seen.counts)
    _show_faults(seen.counts, seen.first_faults, None)
    _show_clock(seen.twice, seen.never)
    typer.echo("Nothing was sent.")


def show_empty(seen: Preview) -> None:
    """Say which files hold nothing: an export that failed may have left one."""
    for file in seen.empty:
        typer.echo(f"{printable(file)}: it is empty")


def time_left(seconds: float) -> str:
    """About how long it still takes."""
    if seconds < _MINUTE_S:
        return f"{seconds:.0f} s left"
    if seconds < _HOUR_S:
        return f"{seconds / _MINUTE_S:.0f} min left"
    return f"{seconds / _HOUR_S:.1f} h left"


def _show_passed_over(counts: Counts) -> None:
    for why, number in counts.passed_over.items():
        typer.echo(f"{number:,} lines passed over: {why}")


def _show_faults(counts: Counts, first: Sequence[Fault], report: Path | None) -> None:
    for fault in first:
        place = f"{printable(fault.file)}:{fault.line}"
        device = f" {fault.device_id}" if fault.device_id else ""
        text = f"  | {printable(fault.text[:80])}" if fault.text else ""
        status = fault.status.value.replace("_", " ")
        typer.echo(f"  {place}{device} {status}: {fault.reason}: {printable(fault.detail)}{text}")
    if counts.rejected + counts.left_out > len(first):
        by_reason = ", ".join(
            f"{number:,} {why.replace('left_out', 'left out')}" for why, number in counts.faults.items()
        )
        where = f"all are in {report}" if report is not None else "--report FILE writes all"
        typer.echo(f"In all {by_reason}; {where}")


def _show_clock(twice: int, never: int) -> None:
    if twice:
        typer.echo(
            f"{twice:,} times come twice by the zone's clock: the first, until a device's times fell back"
        )
    if never:
        typer.echo(f"{never:,} times never come by the zone's clock: as if it had not been put forward")
