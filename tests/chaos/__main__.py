"""`python -m tests.chaos`: a chaos run from the command line, with its figures."""

import secrets
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console
from rich.table import Table

from tests.chaos.faults import Kind
from tests.chaos.run import ChaosResult, Plan, run
from tests.chaos.stack import Bug

LINES_MAX = 20


def main(
    *,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of faults, quiet and audit.")] = 5,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Makes the same faults and fleets again; drawn without it."),
    ] = None,
    faults: Annotated[int, typer.Option(min=0, help="Faults in a round.")] = 4,
    devices: Annotated[int, typer.Option(min=1, help="Devices in a round.")] = 140,
    events: Annotated[int, typer.Option(min=1, help="Events of each device.")] = 50,
    kinds: Annotated[
        list[Kind] | None, typer.Option("--kind", help="Only these kinds of faults.", show_default=False)
    ] = None,
    bug: Annotated[
        Bug | None, typer.Option(help="Run bridges with this deliberate bug.", show_default=False)
    ] = None,
    retained: Annotated[bool, typer.Option(help="Audit the alerts that the broker retains too.")] = False,
    keep: Annotated[bool, typer.Option(help="Keep data and logs even when all went well.")] = False,
) -> None:
    """Run the stack under faults and let the auditor judge. Exits with 1 when anything is wrong."""
    plan = Plan(
        seed=secrets.randbelow(1_000_000) if seed is None else seed,
        rounds=rounds,
        devices=devices,
        events=events,
        faults=faults,
        kinds=kinds or tuple(Kind),
        bug=bug,
        retained=retained,
    )
    console = Console(highlight=False, markup=False)
    console.print(
        f"chaos: seed {plan.seed}, {rounds} rounds of {faults} faults and {devices * events:,} events"
    )
    data = Path(tempfile.mkdtemp(prefix="pisync-chaos-"))
    started_s = time.monotonic()
    result = uvloop.run(run(plan, data, console.print))
    console.print(_table(result, time.monotonic() - started_s))
    for line in result.wrong[:LINES_MAX]:
        console.print(line, style="red")
    if len(result.wrong) > LINES_MAX:
        console.print(f"… and {len(result.wrong) - LINES_MAX:,} more")
    if result.wrong or keep:
        console.print(f"data and logs: {data}")
        again = sys.argv[1:] if seed is not None else [*sys.argv[1:], "--seed", str(plan.seed)]
        console.print(f"the same again: python -m tests.chaos {shlex.join(again)}")
    else:
        shutil.rmtree(data)
    raise typer.Exit(1 if result.wrong else 0)


def _table(result: ChaosResult, elapsed_s: float) -> Table:
    table = Table(title=f"Chaos of seed {result.seed}", show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    table.add_row("Rounds that went well", str(result.rounds))
    table.add_row("Faults injected", f"{sum(result.injected.values()):,}")
    for name, count in sorted(result.injected.items()):
        table.add_row(f"  {name}", str(count))
    table.add_row("Messages published", f"{result.published:,}")
    table.add_row("  of them again, for want of a receipt", f"{result.republished:,}")
    if result.books is not None:
        books = result.books
        table.add_row("Events sent", f"{books.sent:,}")
        table.add_row("  of them again after they were confirmed", f"{result.replayed:,}")
        table.add_row("Events confirmed", f"{books.confirmed:,}")
        table.add_row("Events stored", f"{books.stored:,}")
        table.add_row("Events lost", f"{len(books.lost):,}")
        table.add_row("Events doubled", f"{len(books.doubled):,}")
        others = len(result.wrong) - len(books.lost) - len(books.doubled)
        table.add_row("Differences", f"{others:,}")
    table.add_row("Longest from quiet to a right projection", f"{result.converged_s:,.1f} s")
    table.add_row("Time", f"{elapsed_s:,.0f} s")
    return table


if __name__ == "__main__":
    typer.run(main)
