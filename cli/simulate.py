"""What `pisync simulate` does: one simulation with its deadline, signals, live view, table and status."""

import asyncio
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

import uvloop
from rich.console import Console
from rich.table import Table

from cli.live import live_view
from device_sim import parts
from device_sim.certificates import DeviceCertificates
from device_sim.dialing import TlsContextOf, check_local_addresses, check_ports, local_addresses
from device_sim.fleet import Fleet, Scenario, schedule_of
from device_sim.report import Summary, summarize, to_json
from device_sim.scenario import Faults
from device_sim.tally import Tally
from pisync import clock
from pisync.clock import to_ms
from pisync.errors import ConfigurationError
from pisync.mqtt.tls import tls_context
from pisync.settings import CommonSettings

REFRESH_S: Final = 0.2
_LABELS: Final = {
    "devices": "Devices",
    "connected_most": "of them connected at once, at most",
    "events": "Events",
    "replayed": "Events published again after they were confirmed",
    "commanded": "Events that commands asked for",
    "overflowed": "Events that full spools did not take",
    "messages": "Messages published",
    "republished": "of them again, for want of a receipt",
    "confirmed": "Events confirmed",
    "stored": "of them stored",
    "duplicates": "of them there already",
    "rejected": "Events rejected",
    "must_be_rejected": "of them by wrong clocks, as they must be",
    "unconfirmed": "Events not confirmed",
    "rejected_expected": "Messages that had to be rejected, and were",
    "not_rejected": "Messages that had to be rejected, and were not",
    "strays": "Messages to topics that are no device's",
    "disconnects": "Connections that broke",
    "sessions_lost": "Sessions that the broker forgot",
    "repeated_failures": "Devices with more than 3 failures",
    "alerting": "Devices whose latest 3 syncs or more failed",
}
_ALWAYS: Final = frozenset(
    {"devices", "events", "messages", "confirmed", "stored", "duplicates", "rejected", "unconfirmed"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """How to simulate, and against which broker. Without `faults`, devices do what their stories say."""

    settings: CommonSettings
    certificates: Path | None = None
    connections: int
    timeout_s: float
    receipt_timeout_s: float
    connect_rate: float
    local_addresses: tuple[str, ...] = ()
    processes: int = 1
    speed: float | None = None
    faults: Faults | None = None
    stays: bool = False
    prints_json: bool = False
    report: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a simulation ended; its moments are epoch milliseconds, of the clock on the wall."""

    status: int
    summary: Summary
    began_ms: int
    ended_ms: int


class End(StrEnum):
    """Why a run ended."""

    COVERED = "covered"
    """A receipt covers every event."""
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"


class Simulation(Protocol):
    """A fleet, in this process or in several."""

    @property
    def tally(self) -> Tally:
        """How far it got."""

    async def run(self) -> None:
        """Return once a receipt covers every event."""


def run(what: Run, scenario: Scenario) -> Outcome:
    """Run the simulation.

    Raises:
        ConfigurationError: the broker refuses a device for good, the report cannot be written, or the system
            has too few file descriptors or ports.
    """
    console = Console()
    if not what.prints_json:
        console.print(
            f"{scenario.devices:,} devices with {scenario.events_total:,} events to {what.settings.mqtt},"
            f" seed {scenario.seed}",
            highlight=False,
        )
    began_ms = to_ms(clock.now())
    summary, end, trouble = _simulated(what, scenario)
    if what.prints_json:
        sys.stdout.buffer.write(to_json(summary))
    else:
        console.print(_table(summary))
    told = Console(stderr=True) if what.prints_json else console
    if end is End.TIMEOUT:
        told.print(f"Gave up after {what.timeout_s:g} s.", style="bold red", highlight=False)
    if trouble is not None and not summary.succeeded:
        told.print(f"The last trouble with the broker was: {trouble}", markup=False, highlight=False)
    if what.report is not None:
        _write(what.report, to_json(summary))
    status = 128 + signal.SIGINT if end is End.INTERRUPTED else int(not summary.succeeded)
    return Outcome(status=status, summary=summary, began_ms=began_ms, ended_ms=to_ms(clock.now()))


def _simulated(what: Run, scenario: Scenario) -> tuple[Summary, End, str | None]:
    """The summary, why the run ended, and the last trouble with the broker."""
    connections = min(what.connections, scenario.devices)
    local = what.local_addresses or local_addresses(what.settings.mqtt, connections)
    check_local_addresses(local)
    check_ports(connections, len(local))
    processes = min(what.processes, connections)
    schedule = None if what.speed is None else uvloop.run(schedule_of(scenario))
    tls = _tls_context_of(what)

    def make(number: int) -> Fleet:
        return Fleet(
            scenario,
            what.settings.mqtt,
            connections=connections // processes + (number < connections % processes),
            tls_context=tls,
            receipt_timeout_s=what.receipt_timeout_s,
            connect_rate=what.connect_rate / processes,
            local_addresses=local,
            places=range(number, scenario.devices, processes),
            speed=what.speed,
            schedule=schedule,
            faults=what.faults,
            stays=what.stays,
        )

    if processes == 1:
        return uvloop.run(_run(what, scenario, lambda: make(0)))
    forked = parts.fork([lambda number=number: make(number) for number in range(processes)])  # type: ignore[misc]
    try:
        return uvloop.run(_run(what, scenario, lambda: forked))
    finally:
        forked.end()


def _tls_context_of(what: Run) -> TlsContextOf:
    address, ca_file = what.settings.mqtt, what.settings.mqtt_ca_file
    if what.certificates is not None:
        return DeviceCertificates(what.certificates, address, ca_file).context
    context = tls_context(address, ca_file)
    return lambda _device_id: context


async def _run(
    what: Run, scenario: Scenario, make: Callable[[], Simulation]
) -> tuple[Summary, End, str | None]:
    simulation = make()
    loop = asyncio.get_running_loop()
    interrupted = asyncio.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, interrupted.set)
    started_s = loop.time()

    def so_far() -> tuple[Summary, Tally]:
        tally = simulation.tally
        elapsed_s = loop.time() - started_s
        return (
            summarize(seed=scenario.seed, devices=scenario.devices, tally=tally, elapsed_s=elapsed_s),
            tally,
        )

    working = asyncio.create_task(simulation.run(), name="fleet")
    waiting = asyncio.create_task(interrupted.wait(), name="interrupted")
    with live_view() as show:
        while not (working.done() or waiting.done()) and loop.time() - started_s < what.timeout_s:
            await asyncio.wait((working, waiting), timeout=REFRESH_S, return_when=asyncio.FIRST_COMPLETED)
            summary, tally = so_far()
            show(summary, tally.devices, tally.trouble)
    end = End.COVERED if working.done() else End.INTERRUPTED if waiting.done() else End.TIMEOUT
    waiting.cancel()
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working
    return summary, end, tally.trouble


def _table(summary: Summary) -> Table:
    """The summary as a table; what did not happen, and need not, is left out."""
    rate = summary.confirmed / summary.elapsed_s if summary.elapsed_s else 0.0
    table = Table(title=f"Fleet of seed {summary.seed}", show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    for name, label in _LABELS.items():
        value = getattr(summary, name)
        if not value and name not in _ALWAYS:
            continue
        is_part = label.startswith("of them")
        is_bad = value > 0 and name in {"unconfirmed", "not_rejected"}
        is_bad |= name == "rejected" and value != summary.must_be_rejected
        table.add_row(f"  {label}" if is_part else label, f"{value:,}", style="bold red" if is_bad else None)
    for name, count in summary.faults.items():
        table.add_row(f"Faults: {name.replace('_', ' ')}", f"{count:,}")
    if summary.receipt_p50_s is not None:
        percentiles = (summary.receipt_p50_s, summary.receipt_p95_s or 0, summary.receipt_p99_s or 0)
        table.add_row(
            "Receipts after (p50, p95, p99)",
            ", ".join(f"{seconds * 1000:,.0f}" for seconds in percentiles) + " ms",
        )
    table.add_row("Time", f"{summary.elapsed_s:,.1f} s ({rate:,.0f} events/s)")
    return table


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ConfigurationError(f"--report {path}: {error.strerror}") from None
