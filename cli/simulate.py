"""One simulation from start to summary: the deadline, the signals, the progress and the exit status."""

import asyncio
import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from device_sim.fleet import Fleet
from device_sim.report import Summary, summarize, table, to_json
from device_sim.scenario import Scenario
from pisync import clock
from pisync.errors import ConfigurationError
from pisync.mqtt.tls import tls_context
from pisync.settings import Settings

REFRESH_S: Final = 0.2
LINE_S: Final = 5.0
"""Between two lines of progress where there is no terminal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What to simulate, and against which broker. Without a seed, one is drawn."""

    settings: Settings
    devices: int
    events: int
    seed: int | None
    connections: int
    timeout_s: float
    failing: float
    array_events: int
    report: Path | None


class End(StrEnum):
    """Why a run ended."""

    SETTLED = "settled"
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
    summary, end, trouble = uvloop.run(_run(what, scenario, console))
    console.print(table(summary))
    if end is End.TIMEOUT:
        console.print(f"Gave up after {what.timeout_s:g} s.", style="bold red", highlight=False)
    if trouble is not None and not summary.succeeded:
        console.print(f"The last trouble with the broker was: {trouble}", markup=False, highlight=False)
    if what.report is not None:
        _write(what.report, to_json(summary))
    if end is End.INTERRUPTED:
        return 128 + signal.SIGINT
    return 0 if summary.succeeded else 1


async def _run(what: Run, scenario: Scenario, console: Console) -> tuple[Summary, End, str | None]:
    """The summary, why the run ended, and the last trouble with the broker."""
    fleet = Fleet(
        scenario,
        what.settings.mqtt,
        connections=min(what.connections, what.devices),
        tls_context=tls_context(what.settings.mqtt, what.settings.mqtt_ca_file),
    )
    loop = asyncio.get_running_loop()
    interrupted = asyncio.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, interrupted.set)
    started_s = loop.time()
    working = asyncio.create_task(fleet.run(), name="fleet")
    waiting = asyncio.create_task(interrupted.wait(), name="interrupted")
    with _display(console, fleet) as show:
        while not (working.done() or waiting.done()) and loop.time() - started_s < what.timeout_s:
            await asyncio.wait((working, waiting), timeout=REFRESH_S, return_when=asyncio.FIRST_COMPLETED)
            show(loop.time() - started_s)
    end = End.SETTLED if working.done() else End.INTERRUPTED if waiting.done() else End.TIMEOUT
    summary = summarize(scenario, fleet, loop.time() - started_s)
    waiting.cancel()
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working
    return summary, end, fleet.tally.trouble


@contextmanager
def _display(console: Console, fleet: Fleet) -> Iterator[Callable[[float], None]]:
    """Gives a function that shows how far the fleet is after so many seconds."""
    if not console.is_terminal:
        yield _lines(console, fleet)
        return
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("events confirmed · {task.fields[note]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=fleet.expected, note="")

        def show(elapsed_s: float) -> None:
            confirmed = fleet.tally.counters.confirmed
            progress.update(task, completed=confirmed, total=fleet.expected, note=_note(fleet, elapsed_s))

        yield show


def _lines(console: Console, fleet: Fleet) -> Callable[[float], None]:
    """Progress for a log file: a line now and then."""
    next_s = LINE_S

    def show(elapsed_s: float) -> None:
        nonlocal next_s
        if elapsed_s >= next_s:
            next_s = elapsed_s + LINE_S
            confirmed = f"{fleet.tally.counters.confirmed:,}/{fleet.expected:,} events confirmed"
            console.print(f"{confirmed} · {_note(fleet, elapsed_s)}", markup=False, highlight=False)

    return show


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
