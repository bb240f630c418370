"""The command line of the benchmark: `python -m bench`."""

import asyncio
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bench import markdown as markdowns
from bench import progress, rows
from bench.machine import Machine
from bench.progress import RowProgress
from bench.report import MeasuredRow, Report, from_json, table, to_json
from bench.scale import QUICK_FACTOR, Scale
from pisync.errors import PiSyncError

RESULTS: Final = Path("bench-results.json")
_LOG_WIDTH: Final = 160
_LINE_INTERVAL_S: Final = 10.0
_INTERRUPTED: Final[str | None] = "it was interrupted"
_ROWS: Final = "\n".join(f"  {row.name:<12} {row.what}" for row in rows.ALL)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(
    help="Measure PiSync next to what bounds it, on servers of its own that are gone afterwards."
    f"\n\nROWS, all of them unless named:\n\n\b\n{_ROWS}"
    "\n\nExits with 0 when every row was measured, whether or not targets are met; with 1 when one failed."
)
def bench(
    names: Annotated[list[str] | None, typer.Argument(metavar="ROW", show_default=False)] = None,
    *,
    scale: Annotated[float, typer.Option(min=0.001, help="Multiplies the sizes.")] = 1.0,
    quick: Annotated[bool, typer.Option("--quick", help=f"The same as --scale {QUICK_FACTOR:g}.")] = False,
    json: Annotated[Path, typer.Option(dir_okay=False, help="Write the results to this file.")] = RESULTS,
    markdown: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Write docs/benchmarks.md, or another file.", show_default=False),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            "--from",
            exists=True,
            dir_okay=False,
            help="Measure nothing: show the results in this file, of an earlier run.",
            show_default=False,
        ),
    ] = None,
    list_rows: Annotated[bool, typer.Option("--list", help="List the rows and exit.")] = False,
) -> None:
    """Measure; see the help above."""
    if list_rows:
        typer.echo(_ROWS)
        return
    try:
        chosen = rows.named(names or [])
    except rows.UnknownRow as error:
        raise typer.BadParameter(str(error), param_hint="ROW") from None
    for path in filter(None, (json, markdown)):
        if not path.absolute().parent.is_dir():  # better said now than after the last row
            raise typer.BadParameter(f"there is no directory {path.parent}", param_hint="--json, --markdown")
    console = Console()
    if not console.is_terminal:
        console.width = _LOG_WIDTH
    if results is None:
        report = _run(chosen, Scale(factor=QUICK_FACTOR if quick else scale), console, json)
    else:
        try:
            report = from_json(results.read_bytes())
        except msgspec.DecodeError as error:
            raise typer.BadParameter(f"{results} holds no results: {error}", param_hint="--from") from None
    console.print(table(report))
    if markdown is not None:
        markdown.write_text(markdowns.document(report))
    raise typer.Exit(1 if report.failed else 0)


def _run(chosen: Sequence[rows.Row], scale: Scale, console: Console, json: Path) -> Report:
    """Measure; what has been measured is written after every row, and where it is interrupted."""
    command = shlex.join(["python", "-m", "bench", *sys.argv[1:]])
    try:
        machine = Machine.here()
        console.print(machine.sentence(), highlight=False)
        report = Report(command=command, machine=machine, scale=scale, rows=[])
        asyncio.run(_measure_rows(chosen, report, console, json))
    except PiSyncError as error:
        console.print(f"bench: {error}", style="bold red", markup=False, highlight=False)
        raise typer.Exit(1) from None
    except asyncio.CancelledError:
        console.print(table(report))
        console.print("Interrupted; everything that was started has been stopped.", highlight=False)
        raise typer.Exit(128 + signal.SIGINT) from None
    return report


async def _measure_rows(chosen: Sequence[rows.Row], report: Report, console: Console, json: Path) -> None:
    """Measure one row after the other; one that fails does not keep the others from being measured.

    Raises:
        CancelledError: a signal came; what was running has been stopped.
    """
    task = asyncio.current_task()
    assert task is not None
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_number, task.cancel)
    for number, row in enumerate(chosen, 1):
        with _shown(console, f"{number}/{len(chosen)} {row.name}") as show, progress.of_row(show) as told:
            try:
                await _measure_row(row, report, told)
            finally:
                json.write_bytes(to_json(report))
        last = report.rows[-1]
        how = "measured" if last.error is None else f"FAILED: {last.error}"
        console.print(f"{row.name} {how} in {last.seconds:.1f} s", markup=False, highlight=False)


async def _measure_row(row: rows.Row, report: Report, told: RowProgress) -> None:
    """Measure one row; of one that fails or is interrupted the report has what it had found."""
    began = time.perf_counter()
    results, error = told.results, _INTERRUPTED
    try:
        results, error = await row.measure(report.scale), None
    except Exception as failure:  # noqa: BLE001 - whatever it is, it is reported in the row's place
        error = progress.why(failure)
    finally:
        seconds = time.perf_counter() - began
        report.rows.append(
            MeasuredRow(name=row.name, what=row.what, seconds=seconds, results=results, error=error)
        )


@contextmanager
def _shown(console: Console, what: str) -> Iterator[Callable[[str], None]]:
    """Show what is being measured, for how long, and how far it is.

    Where there is no terminal, a line now and then says how far it is.
    """
    if not console.is_terminal:
        said_at_s = -_LINE_INTERVAL_S

        def print_now_and_then(text: str) -> None:
            nonlocal said_at_s
            if time.monotonic() - said_at_s >= _LINE_INTERVAL_S:
                said_at_s = time.monotonic()
                console.print(f"{what}: {text}", markup=False, highlight=False)

        yield print_now_and_then
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task(what, total=None)
        yield lambda text: shown.update(task, description=f"{what}: {text}")


if __name__ == "__main__":
    app()
