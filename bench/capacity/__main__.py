"""The command line of the planner: `python -m bench.capacity`."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
import uvloop
from typer.testing import CliRunner

from bench.capacity import documents, measuring
from bench.capacity.checking import Line, checked, middle
from bench.capacity.costs import FILE, Costs
from bench.capacity.plan import Inputs, outcome_of, planned
from pisync.errors import PiSyncError

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "capacity.md"
PICTURE: Final = DOCUMENT.with_suffix(".svg")
_DRAWN: Final = {"as planned": 1.0, "half of it behind the brokers": 0.5, "a quarter": 0.25}
_UNSET: Final = Inputs(devices=1)
# Beyond these nobody could check what the model says, or it takes very long to say it.
DEVICES_MAX: Final = 1_000_000_000
SYNCS_MAX: Final = 86_400.0
BACKLOG_MAX: Final = 10_000
WITHIN_S_MAX: Final = 604_800.0
RETENTION_DAYS_MAX: Final = 36_500

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def capacity(
    *,
    devices: Annotated[int, typer.Option(min=1, max=DEVICES_MAX, help="Devices of the fleet.")] = 20_000,
    syncs: Annotated[
        float,
        typer.Option(min=0, max=SYNCS_MAX, help="Syncs of a device a day."),
    ] = _UNSET.syncs,
    backlog: Annotated[
        int, typer.Option(min=1, max=BACKLOG_MAX, help="Events of each device after an outage.")
    ] = _UNSET.backlog,
    within: Annotated[
        float,
        typer.Option(min=1, max=WITHIN_S_MAX, help="Seconds within which all devices come back."),
    ] = _UNSET.within_s,
    array: Annotated[
        int, typer.Option(min=1, max=500, help="Events in a message of a backlog; 1: single ones.")
    ] = _UNSET.array_events,
    retention: Annotated[
        int, typer.Option(min=1, max=RETENTION_DAYS_MAX, help="Days for which events are kept.")
    ] = _UNSET.retention_days,
    receipts: Annotated[bool, typer.Option(help="Whether devices ask for receipts.")] = _UNSET.receipts,
    tls: Annotated[
        bool, typer.Option(help="Whether devices connect with TLS and a certificate of their own.")
    ] = _UNSET.tls,
    failing: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of the devices that have failures."),
    ] = _UNSET.failing,
    viewers: Annotated[int, typer.Option(min=0, help="Pages that people have open.")] = _UNSET.viewers,
    members: Annotated[int, typer.Option(min=1, help="Members of each replica set.")] = _UNSET.members,
    json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure what each part costs on this machine, in minutes.")
    ] = False,
    document: Annotated[
        bool, typer.Option("--document", help="Write docs/capacity.md's blocks and its picture anew.")
    ] = False,
    costs: Annotated[
        Path, typer.Option(dir_okay=False, help="The file of costs that is read, or written by --measure.")
    ] = FILE,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Compare the model with real runs at a thousandth; 1 beyond 25 %, in minutes."
        ),
    ] = False,
    rounds: Annotated[
        int, typer.Option(min=1, help="How often --check runs each of them; the round in the middle counts.")
    ] = 1,
) -> None:
    """Plan an installation: cores, memory, disks and counts of each part, and what limits first."""
    try:
        if measure:
            uvloop.run(measuring.measured(_tell)).write(costs)
            typer.echo(f"written: {costs}")
            if not check:
                return
        if check:
            found = uvloop.run(checked(_tell, rounds, Costs.read(costs).parts if measure else None))
            raise typer.Exit(0 if _print_check(found) else 1)
        known = Costs.read(costs)
    except (PiSyncError, OSError, msgspec.DecodeError) as error:
        typer.echo(f"capacity: {error}", err=True)
        raise typer.Exit(1) from None
    if document:
        _write_document(known)
        return
    inputs = Inputs(
        devices=devices,
        syncs=syncs,
        backlog=backlog,
        within_s=within,
        array_events=array,
        retention_days=retention,
        receipts=receipts,
        tls=tls,
        failing=failing,
        viewers=viewers,
        members=members,
    )
    try:
        plan = planned(inputs, known)
    except OverflowError as error:
        typer.echo(f"capacity: {error}", err=True)
        raise typer.Exit(1) from None
    except KeyError as error:
        typer.echo(f"capacity: {costs} lacks {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(msgspec.json.format(msgspec.json.encode(plan)) if json else documents.plan_text(plan))


def _write_document(costs: Costs) -> None:
    """Run each command that stands in the document, and draw the picture."""

    def output_of(arguments: str) -> str:
        return CliRunner().invoke(app, shlex.split(arguments)).output.rstrip()

    DOCUMENT.write_text(documents.renewed(DOCUMENT.read_text(), output_of))
    PICTURE.write_text(drawn(costs))


def drawn(costs: Costs) -> str:
    """The picture of the document: a million devices, with all that is planned for them, and with less."""
    inputs = Inputs(devices=1_000_000)
    found = {name: outcome_of(inputs, costs, share) for name, share in _DRAWN.items()}
    return documents.picture(found, inputs.within_s)


def _tell(text: str) -> None:
    typer.echo(text, err=True)


def _print_check(found: Mapping[str, Sequence[Sequence[Line]]]) -> bool:
    """Print each round, and what they come to; returns whether that holds."""
    for what, rounds in found.items():
        for number, lines in enumerate(rounds, 1):
            typer.echo(f"{what[0].upper()}{what[1:]}, round {number}:")
            typer.echo("\n".join(documents.check_text(lines)))
    verdict = {what: middle(rounds) for what, rounds in found.items()}
    for what, lines in verdict.items():
        wrong = [line.name for line in lines if not line.holds]
        typer.echo(f"{what[0].upper()}{what[1:]}: {'beyond 25 %: ' + ', '.join(wrong) if wrong else 'holds'}")
    return all(line.holds for lines in verdict.values() for line in lines)


if __name__ == "__main__":
    app()
