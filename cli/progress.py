"""How far long work is, on standard error: a bar on a terminal, elsewhere a line now and then."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_INTERVAL_S: Final = 5.0

Item = TypeVar("Item")


class Update(Protocol):
    """Says how many are done, and of about how many, 0: not known; `note` stands beside it."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Say it."""


@contextmanager
def progress(description: str, unit: str) -> Iterator[Update]:
    """The progress of the work in the context, counted in this unit; the last state stays visible."""
    console = Console(stderr=True)
    shape = _bar if console.is_terminal else _lines
    with shape(console, description, unit) as update:
        yield update


def tracked(description: str, unit: str, items: Sequence[Item]) -> Iterator[Item]:
    """The items, one after the other, with the progress of the work on them."""
    with progress(description, unit) as update:
        update(0, len(items))
        for done, item in enumerate(items, 1):
            yield item
            update(done, len(items))


@contextmanager
def _bar(console: Console, description: str, unit: str) -> Iterator[Update]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(description, total=None, note=unit)

        def update(done: int, total: int, note: str = "") -> None:
            bar.update(
                task, completed=done, total=max(done, total) if total else None, note=_joined(unit, note)
            )

        yield update


@contextmanager
def _lines(console: Console, description: str, unit: str) -> Iterator[Update]:
    printed_s = time.monotonic()
    line = ""

    def update(done: int, total: int, note: str = "") -> None:
        nonlocal printed_s, line
        of = f"/{max(done, total):,}" if total else ""
        line = f"{description}: {done:,}{of} {_joined(unit, note)}"
        if time.monotonic() - printed_s >= LINE_INTERVAL_S:
            print_line()

    def print_line() -> None:
        nonlocal printed_s, line
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        printed_s, line = time.monotonic(), ""

    try:
        yield update
    finally:
        if line:
            print_line()


def _joined(unit: str, note: str) -> str:
    return f"{unit} · {note}" if note else unit
