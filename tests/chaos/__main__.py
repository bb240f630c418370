"""`python -m tests.chaos`: a chaos run from the command line, with its figures."""

import math
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
from tests.chaos.poller import FALSE
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
    replica_rounds: Annotated[
        int | None,
        typer.Option(min=0, help="Rounds with a replica set; every third without it.", show_default=False),
    ] = None,
    hostile: Annotated[bool, typer.Option(help="Have hostile neighbours beside the fleet.")] = True,
    retained: Annotated[bool, typer.Option(help="Audit the alerts that the broker retains too.")] = True,
    secure: Annotated[
        bool, typer.Option("--secure", help="With TLS, a certificate for each device, and access control.")
    ] = False,
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
        hostile=hostile,
        replica_rounds=replica_rounds,
        secure=secure,
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
    table.add_row("Messages published", f"{result.published:,}")
    table.add_row("  of them again, for want of a receipt", f"{result.republished:,}")
    table.add_row("Messages of hostile neighbours", f"{result.hostile_messages:,}")
    table.add_row("Events sent", f"{result.count('sent'):,}")
    table.add_row("  of them again after they were confirmed", f"{result.replayed:,}")
    table.add_row("Events confirmed", f"{result.count('confirmed'):,}")
    table.add_row("Events stored", f"{result.count('stored'):,}")
    table.add_row("Events lost", f"{result.count('lost'):,}")
    table.add_row("Events doubled", f"{result.count('doubled'):,}")
    table.add_row("Answers of the api", f"{result.answers.total():,}")
    for name, count in sorted(result.answers.items()):
        if name != FALSE:
            table.add_row(f"  {name}", f"{count:,}")
    table.add_row("Answers falsely called complete", f"{result.answers[FALSE]:,}")
    table.add_row("Retained alerts wrong", f"{result.retained_wrong:,}")
    for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
        table.add_row(f"Neighbour's receipt, {name}", _quantile(result.neighbours_s, share))
    others = len(result.wrong) - result.count("lost") - result.count("doubled") - len(result.false_complete)
    table.add_row("Other differences", f"{others - result.retained_wrong:,}")
    table.add_row("Faults injected", f"{result.injected.total():,}")
    for name, count in sorted(result.injected.items()):
        table.add_row(f"  {name}", str(count))
    table.add_row("Longest from quiet to a right projection", f"{result.converged_s:,.1f} s")
    table.add_row("Time", f"{elapsed_s:,.0f} s")
    return table


def _quantile(seconds: list[float], share: float) -> str:
    """The least time within which this share of them was."""
    if not seconds:
        return "-"
    return f"{sorted(seconds)[max(0, math.ceil(share * len(seconds)) - 1)] * 1000:,.0f} ms"


if __name__ == "__main__":
    typer.run(main)
