"""What `pisync rebuild` does around the work: opens the stores, shows the progress, says what came of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from bridge.alerts.judge import Alerts
from bridge.metrics import Metrics
from bridge.projection.check import Check, Findings
from bridge.projection.rebuild import rebuild
from pisync.settings import Settings
from pisync.stores.opening import Stores, open_stores

ROWS_SHOWN_MAX: Final = 20
# A table is no narrower than this, also in a pipe, so that times stay whole.
TABLE_WIDTH_MIN: Final = 160


def run(settings: Settings, *, check: bool) -> int:
    """Rebuild the projection, or check it; returns the exit code.

    Raises:
        PiSyncError: a store is unavailable, or somebody else rebuilds the projection.
    """
    return uvloop.run(_main(settings, check=check))


async def _main(settings: Settings, *, check: bool) -> int:
    async with open_stores(settings) as stores:
        events, projection = stores.events, stores.projection
        await events.ping()
        await projection.ping()
        if check:
            return await _check(stores)
        await stores.alerts.prepare()
        handler = Alerts(store=stores.alerts, events=events, projection=projection, metrics=Metrics(settings))
        with _bar("Rebuilding") as progress:
            replayed = await rebuild(events=events, projection=projection, alerts=handler, progress=progress)
        Console().print(f"The projection is rebuilt from {replayed:,} events.", highlight=False)
        return 0


async def _check(stores: Stores) -> int:
    if not (await stores.projection.status()).complete:
        Console(stderr=True).print("The projection is catching up: differences are to be expected.")
    with _bar("Checking") as progress:
        check = Check(events=stores.events, streaks=stores.projection, alerts=stores.alerts)
        findings = await check.run(progress)
    _show(findings)
    return 1 if findings.differing else 0


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error; call what it gives with how many events are done, and of about how many."""
    with Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("events"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as progress:
        task = progress.add_task(what, total=None)

        def update(done: int, total: int) -> None:
            progress.update(task, completed=done, total=max(done, total))

        yield update


def _show(findings: Findings) -> None:
    """Print the first differences, and how many there are."""
    console = Console(highlight=False, width=max(Console().width, TABLE_WIDTH_MIN))
    if findings.differences:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("device", "what", "by its events", "found"):
            table.add_column(heading, overflow="fold")
        for each in findings.differences[:ROWS_SHOWN_MAX]:
            # From the stores, so not trusted to be free of markup.
            table.add_row(*map(Text, (each.device_id, each.what, each.expected, each.found)))
        console.print(table)
    console.print(
        f"{findings.events:,} events of {findings.devices:,} devices: {findings.differing:,} devices differ."
    )
