"""What the `pisync bridges` commands print and do around the work."""

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

import uvloop
from rich.console import Console
from rich.text import Text

from bridge.projection.forget import forget, is_running
from cli import listing, tables
from cli.progress import progress
from cli.retiring import beyond
from cli.tables import Column, member, moments
from pisync import clock, limits
from pisync.clock import from_ms, rfc3339, to_ms
from pisync.settings import CommonSettings
from pisync.stores.interfaces.bridges import BridgeRecord
from pisync.stores.interfaces.projection import Mark
from pisync.stores.opening import open_stores

_COLUMNS: Final = (
    member("bridge_id", "bridge"),
    moments("last_started"),
    moments("watermark"),
    Column(heading="behind", cell=lambda row: _seconds(row["behind_s"]), right=True),
    member("listening"),
    member("state", whole=False),
)
_BEYOND: Final = Column(heading="beyond", cell=lambda row: tables.text(row["beyond"]))


def run_list(settings: CommonSettings, *, name: str, wanted: int | None, as_json: bool) -> None:
    """Print every bridge that MongoDB or Redis knows; of each whether it is beyond the wanted number.

    Raises:
        PiSyncError: a store is unavailable.
    """
    rows = uvloop.run(_rows(settings))
    if wanted is not None:
        surplus = beyond([row["bridge_id"] for row in rows], name=name, wanted=wanted)
        rows = [row | {"beyond": row["bridge_id"] in surplus} for row in rows]
    if as_json:
        listing.print_object(rows)
        return
    target = tables.console()
    columns = _COLUMNS if wanted is None else (*_COLUMNS, _BEYOND)
    tables.show(target, tables.table(columns, rows, target) if rows else Text("There never was a bridge."))


def run_forget(settings: CommonSettings, bridge_id: str) -> None:
    """Forget a bridge, and say how many events were merged for it.

    Raises:
        PiSyncError: it is not forgotten, and why.
    """
    uvloop.run(_forget(settings, bridge_id))


async def _rows(settings: CommonSettings) -> list[dict[str, Any]]:
    now_ms = to_ms(clock.now())
    since_ms = round(now_ms - limits.LISTENING_GAP_MIN_S * 1000)
    async with open_stores(settings) as stores:
        records = {record.bridge_id: record for record in await stores.bridges.records()}
        intervals = await stores.listening.intervals_since(since_ms)
        marks = await stores.projection.marks()
    return told(records, marks, {each.bridge_id for each in intervals})


def told(
    records: Mapping[str, BridgeRecord], marks: Mapping[str, Mark], listening: Collection[str]
) -> list[dict[str, Any]]:
    """What is known of each bridge, by id; what is not known is None. Members are those of `/api/health`."""
    rows = []
    for bridge_id in sorted({*records, *marks}, key=_by_number):
        record, mark = records.get(bridge_id), marks.get(bridge_id)
        has_mark = mark is not None and mark.watermark_ms
        behind_ms = None if mark is None else mark.merged_ms_ago
        rows.append(
            {
                "bridge_id": bridge_id,
                "last_started": None if record is None else rfc3339(record.claimed_at),
                "watermark": rfc3339(from_ms(mark.watermark_ms)) if mark is not None and has_mark else None,
                "behind_s": None if behind_ms is None else max(0, behind_ms) / 1000,
                "running": mark is not None and is_running(mark),
                "listening": bridge_id in listening and not _has_stopped(record, mark),
                "stopped": _has_stopped(record, mark),
                "state": _state(record, mark),
            }
        )
    return rows


def _by_number(bridge_id: str) -> str:
    """What ids are sorted by: numbers in them as numbers, bridge-2 before bridge-10."""
    return re.sub(r"[0-9]+", lambda number: number[0].zfill(64), bridge_id)


def _has_stopped(record: BridgeRecord | None, mark: Mark | None) -> bool:
    """Whether it ended with nothing left to merge."""
    return mark is not None and record is not None and mark.has_stopped(record.instance)


def _seconds(seconds: float | None) -> Text:
    return tables.text(None) if seconds is None else Text(f"{seconds:,.1f} s")


def _state(record: BridgeRecord | None, mark: Mark | None) -> str:
    """In words: whether the projection may lack events of the bridge."""
    if mark is None:
        return "never reached Redis; its events may be missing"
    if mark.catching_up:
        return "catching up"
    if _has_stopped(record, mark):
        return "stopped in order, nothing left to merge"
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
