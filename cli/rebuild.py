"""What `pisync rebuild` does around the work: opens the stores, shows the progress, prints the result."""

import gc
from typing import Final

import uvloop
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bridge.alerts.judge import Judge
from bridge.alerts.rules import all_rules
from bridge.projection.check import Check, Findings
from bridge.projection.rebuild import rebuild
from cli.progress import progress
from pisync import limits
from pisync.clock import from_ms, rfc3339, to_ms
from pisync.domain.rollups import Span
from pisync.settings import CommonSettings
from pisync.stores.opening import Stores, open_stores
from worker.check import check_rollups
from worker.rollups import DUTY

TABLE_ROWS_MAX: Final = 20
# A table is no narrower than this, also in a pipe, so that times stay whole.
TABLE_WIDTH_MIN: Final = 160


def run(settings: CommonSettings, *, check: bool) -> int:
    """Rebuild the projection, or check it; returns the exit code.

    Raises:
        PiSyncError: a store is unavailable, or somebody else rebuilds the projection.
    """
    gc.set_threshold(*limits.GC_THRESHOLDS)  # as in a bridge: very many events are read
    return uvloop.run(_main(settings, check=check))


async def _main(settings: CommonSettings, *, check: bool) -> int:
    async with open_stores(settings) as stores:
        events, projection = stores.events, stores.projection
        await events.check_version()
        await projection.ping()
        if check:
            return await _check(stores)
        await stores.alerts.prepare()
        judge = Judge(store=stores.alerts, rules=all_rules(events=events, projection=projection))
        with progress("Rebuilding", "events") as update:
            replayed = await rebuild(events=events, projection=projection, alerts=judge, progress=update)
        await stores.rollups.reset()
        _say(f"The projection is rebuilt from {replayed:,} events.")
        await _tell_left(stores)
        return 0


async def _tell_left(stores: Stores) -> None:
    """Print what is left to be made of the events, by whom, and what says how it went."""
    fixed_ms, now_ms = (await stores.rollups.progress()).fixed_ms, to_ms(await stores.bridges.server_time())
    left = await stores.received.count(Span(fixed_ms, now_ms + 1))
    is_counted = any(lease.duty == DUTY and lease.is_held for lease in await stores.leases.leases())
    _say("Left to do:")
    if left:
        who = "the worker that runs does it" if is_counted else "no worker runs that would; start one"
        _say(f"  Rollups of {left:,} events are to be counted anew: {who}.")
        if not is_counted:
            _say("    pisync worker")
        _say("  Until it has, charts and figures by time lack them. How far it is:")
        _say("    pisync status")
    _say("  Whether the projection, and what is counted of the rollups, is what the events say:")
    _say("    pisync rebuild --check")


def _say(text: str) -> None:
    Console(soft_wrap=True).print(text, highlight=False, markup=False)


async def _check(stores: Stores) -> int:
    await stores.known_bridges.refresh()
    if not (await stores.projection.status()).complete:
        Console(stderr=True).print("The projection is catching up: differences are to be expected.")
    with progress("Checking", "events") as update:
        check = Check(events=stores.events, projection=stores.projection, alerts=stores.alerts)
        findings = await check.run(update)
    _print(findings)
    rollups = await check_rollups(stores.received, stores.rollups)
    for unit, start_ms in rollups.differing[:TABLE_ROWS_MAX]:
        Console().print(f"{unit} of {rfc3339(from_ms(start_ms))}: counted otherwise", highlight=False)
    Console().print(
        f"{rollups.events:,} events in closed rollups: {len(rollups.differing):,} rollups differ.",
        highlight=False,
    )
    return 1 if findings.differing or rollups.differing else 0


def _print(findings: Findings) -> None:
    """Print the first differences, and how many there are."""
    console = Console(highlight=False, width=max(Console().width, TABLE_WIDTH_MIN))
    if findings.differences:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("device", "what", "by its events", "found"):
            table.add_column(heading, overflow="fold")
        for difference in findings.differences[:TABLE_ROWS_MAX]:
            # From the stores, so not trusted to be free of markup.
            cells = (difference.device_id, difference.what, difference.expected, difference.found)
            table.add_row(*map(Text, cells))
        console.print(table)
    console.print(
        f"{findings.events:,} events of {findings.devices:,} devices: {findings.differing:,} devices differ."
    )
