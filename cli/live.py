"""What a simulation shows while it runs, on standard error: a live table on a terminal, elsewhere lines."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from device_sim.report import Summary
from device_sim.tally import State

LINE_INTERVAL_S: Final = 5.0
_BAR_WIDTH: Final = 40

Show = Callable[[Summary, dict[State, int], str | None], None]
"""Shows how far the fleet is: the summary so far, devices by state, the last trouble with the broker."""


@contextmanager
def live_view() -> Iterator[Show]:
    """Show what is told in the context; the last state stays visible."""
    console = Console(stderr=True)
    shape = _drawn if console.is_terminal else _lines
    with shape(console) as show:
        yield show


def view(summary: Summary, devices: dict[State, int], trouble: str | None) -> Table:
    """One frame."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    covered = summary.confirmed + summary.rejected
    expected = covered + summary.unconfirmed
    table.add_row("events", ProgressBar(total=max(expected, 1), completed=covered, width=_BAR_WIDTH))
    table.add_row("", _events(summary))
    table.add_row("devices", _devices(devices))
    table.add_row("receipts", _receipts(summary))
    errors = _errors(summary)
    table.add_row("errors", errors or "none", style=None if not errors else "yellow")
    if trouble is not None:
        table.add_row("last trouble", trouble)
    return table


def line(summary: Summary, devices: dict[State, int], trouble: str | None) -> str:
    """The same in one line."""
    parts = [_events(summary), f"devices: {_devices(devices)}", f"receipts: {_receipts(summary)}"]
    parts += [one for one in (_errors(summary), trouble) if one]
    return " · ".join(parts)


@contextmanager
def _drawn(console: Console) -> Iterator[Show]:
    with Live(console=console, auto_refresh=False) as screen:

        def show(summary: Summary, devices: dict[State, int], trouble: str | None) -> None:
            screen.update(view(summary, devices, trouble), refresh=True)

        yield show


@contextmanager
def _lines(console: Console) -> Iterator[Show]:
    printed_s = time.monotonic()
    text = ""

    def print_line() -> None:
        nonlocal printed_s, text
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        printed_s, text = time.monotonic(), ""

    def show(summary: Summary, devices: dict[State, int], trouble: str | None) -> None:
        nonlocal text
        text = line(summary, devices, trouble)
        if time.monotonic() - printed_s >= LINE_INTERVAL_S:
            print_line()

    try:
        yield show
    finally:
        if text:
            print_line()


def _events(summary: Summary) -> str:
    covered = summary.confirmed + summary.rejected
    expected = covered + summary.unconfirmed
    rate = summary.confirmed / summary.elapsed_s if summary.elapsed_s else 0.0
    return (
        f"{summary.confirmed:,}/{expected:,} confirmed, {summary.sent:,} sent,"
        f" {summary.sent - covered:,} waiting, {rate:,.0f}/s"
    )


def _devices(devices: dict[State, int]) -> str:
    return ", ".join(f"{devices.get(state, 0):,} {state}" for state in State)


def _receipts(summary: Summary) -> str:
    found = (
        ("p50", summary.receipt_p50_s),
        ("p95", summary.receipt_p95_s),
        ("p99", summary.receipt_p99_s),
    )
    told = [f"{name} {_duration(value)}" for name, value in found if value is not None]
    return ", ".join(told) or "none yet"


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _errors(summary: Summary) -> str:
    counted = {
        "rejected": summary.rejected - min(summary.rejected, summary.must_be_rejected),
        "not rejected, though it should have been": summary.not_rejected,
        "overflowed": summary.overflowed,
        "disconnects": summary.disconnects,
        "sessions lost": summary.sessions_lost,
        "published again": summary.republished,
    }
    return ", ".join(f"{count:,} {what}" for what, count in counted.items() if count)
