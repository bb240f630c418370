"""What `pisync bridges` prints and does around the work."""

from typing import Final

import uvloop
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bridge.projection.forget import forget, is_running
from cli.progress import progress
from pisync.clock import from_ms, rfc3339
from pisync.settings import CommonSettings
from pisync.stores.interfaces.bridges import BridgeRecord
from pisync.stores.interfaces.projection import Mark
from pisync.stores.opening import open_stores

# A table is no narrower than this, also in a pipe, so that times stay whole.
TABLE_WIDTH_MIN: Final = 120


def run_list(settings: CommonSettings) -> None:
    """Print every bridge that MongoDB or Redis knows.

    Raises:
        PiSyncError: a store is unavailable.
    """
    uvloop.run(_list(settings))


def run_forget(settings: CommonSettings, bridge_id: str) -> None:
    """Forget a bridge, and say how many events were merged for it.

    Raises:
        PiSyncError: it is not forgotten, and why.
    """
    uvloop.run(_forget(settings, bridge_id))


async def _list(settings: CommonSettings) -> None:
    async with open_stores(settings) as stores:
        records = {record.bridge_id: record for record in await stores.bridges.records()}
        marks = await stores.projection.marks()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("bridge", "last started", "watermark", "state"):
        table.add_column(heading, overflow="fold")
    for bridge_id in sorted({*records, *marks}):
        record, mark = records.get(bridge_id), marks.get(bridge_id)
        cells = (
            bridge_id,
            "-" if record is None else rfc3339(record.claimed_at),
            "-" if mark is None or not mark.watermark_ms else rfc3339(from_ms(mark.watermark_ms)),
            _state(record, mark),
        )
        table.add_row(*map(Text, cells))  # from the stores, so not trusted to be free of markup
    Console(highlight=False, width=max(Console().width, TABLE_WIDTH_MIN)).print(table)


def _state(record: BridgeRecord | None, mark: Mark | None) -> str:
    """In words: whether the projection may lack events of the bridge."""
    if mark is None:
        return "never reached Redis; its events may be missing"
    if mark.catching_up:
        return "catching up"
    if mark.stopped is not None and record is not None and mark.stopped == record.instance:
        return "stopped, nothing left to merge"
    if is_running(mark):
        return "running, all merged"
    if mark.merged_ms_ago is None:
        return "never caught up since it last started; its events may be missing"
    return f"merged everything {mark.merged_ms_ago / 1000:,.0f} s ago; later events may be missing"


async def _forget(settings: CommonSettings, bridge_id: str) -> None:
    async with open_stores(settings) as stores:
        await stores.events.check_version()
        with progress("Merging", "events") as update:
            merged = await forget(
                bridge_id,
                events=stores.events,
                projection=stores.projection,
                registry=stores.bridges,
                progress=update,
            )
    Console().print(
        f"{bridge_id} is forgotten; {merged:,} events were merged.", highlight=False, markup=False
    )
