"""What `pisync simulate` does: one simulation with its deadline, signals, progress, table and exit status."""

import asyncio
import secrets
import signal
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import uvloop
from rich.console import Console
from rich.table import Table

from cli.progress import progress
from device_sim.fleet import Fleet
from device_sim.report import Summary, summarize, to_json
from device_sim.scenario import Scenario
from pisync import clock
from pisync.errors import ConfigurationError
from pisync.mqtt.tls import tls_context
from pisync.settings import CommonSettings

REFRESH_S: Final = 0.2
_LABELS: Final = {
    "devices": "Devices",
    "events": "Events",
    "replayed": "Events published again after they were confirmed",
    "messages": "Messages published",
    "republished": "of them again, for want of a receipt",
    "confirmed": "Events confirmed",
    "stored": "of them stored",
    "duplicates": "of them there already",
    "rejected": "Events rejected",
    "unconfirmed": "Events not confirmed",
    "repeated_failures": "Devices with more than 3 failures",
    "alerting": "Devices whose latest 3 syncs or more failed",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What to simulate, and against which broker. Without a seed, one is drawn."""

    settings: CommonSettings
    devices: int
    events: int
    seed: int | None
    connections: int
    timeout_s: float
    failing: float
    array_events: int
    receipt_timeout_s: float
    report: Path | None


class End(StrEnum):
    """Why a run ended."""

    COVERED = "covered"
    """A receipt covers every event."""
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"


def run(what: Run) -> int:
    """Run the simulation; returns the exit status of the process.

    Raises:
        ConfigurationError: the broker refuses a device for good, the report cannot be written, or file
            descriptors are too few.
    """
    console = Console()
    scenario = Scenario(
        seed=secrets.randbits(32) if what.seed is None else what.seed,
        now=clock.now(),
        devices=what.devices,
        events=what.events,
        failing=what.failing,
        array_events=what.array_events,
    )
    console.print(
        f"{scenario.devices:,} devices with {scenario.events:,} events each to {what.settings.mqtt},"
        f" seed {scenario.seed}",
        highlight=False,
    )
    summary, end, trouble = uvloop.run(_run(what, scenario))
    console.print(_table(summary))
    if end is End.TIMEOUT:
        console.print(f"Gave up after {what.timeout_s:g} s.", style="bold red", highlight=False)
    if trouble is not None and not summary.succeeded:
        console.print(f"The last trouble with the broker was: {trouble}", markup=False, highlight=False)
    if what.report is not None:
        _write(what.report, to_json(summary))
    if end is End.INTERRUPTED:
        return 128 + signal.SIGINT
    return 0 if summary.succeeded else 1


async def _run(what: Run, scenario: Scenario) -> tuple[Summary, End, str | None]:
    """The summary, why the run ended, and the last trouble with the broker."""
    fleet = Fleet(
        scenario,
        what.settings.mqtt,
        connections=min(what.connections, what.devices),
        tls_context=tls_context(what.settings.mqtt, what.settings.mqtt_ca_file),
        receipt_timeout_s=what.receipt_timeout_s,
    )
    loop = asyncio.get_running_loop()
    interrupted = asyncio.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, interrupted.set)
    started_s = loop.time()
    working = asyncio.create_task(fleet.run(), name="fleet")
    waiting = asyncio.create_task(interrupted.wait(), name="interrupted")
    with progress("Simulating", "events confirmed") as update:
        while not (working.done() or waiting.done()) and loop.time() - started_s < what.timeout_s:
            await asyncio.wait((working, waiting), timeout=REFRESH_S, return_when=asyncio.FIRST_COMPLETED)
            note = _note(fleet, loop.time() - started_s)
            update(fleet.tally.counters.confirmed, fleet.expected, note)
    end = End.COVERED if working.done() else End.INTERRUPTED if waiting.done() else End.TIMEOUT
    summary = summarize(scenario, fleet, loop.time() - started_s)
    waiting.cancel()
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working
    return summary, end, fleet.tally.trouble


def _table(summary: Summary) -> Table:
    """The summary as a table."""
    rate = summary.confirmed / summary.elapsed_s if summary.elapsed_s else 0.0
    table = Table(title=f"Fleet of seed {summary.seed}", show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    for name, label in _LABELS.items():
        value = getattr(summary, name)
        is_part = label.startswith("of them")
        bad = name in {"rejected", "unconfirmed"} and value > 0
        table.add_row(f"  {label}" if is_part else label, f"{value:,}", style="bold red" if bad else None)
    table.add_row("Time", f"{summary.elapsed_s:,.1f} s ({rate:,.0f} events/s)")
    return table


def _note(fleet: Fleet, elapsed_s: float) -> str:
    tally = fleet.tally
    rate = tally.counters.confirmed / elapsed_s if elapsed_s else 0.0
    note = f"{rate:,.0f}/s · {tally.online:,} devices online"
    return f"{note} · {tally.trouble}" if tally.trouble and not tally.online else note


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ConfigurationError(f"--report {path}: {error.strerror}") from None
