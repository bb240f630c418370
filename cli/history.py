"""What `pisync history` prints: one device's syncs, newest first."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final
from urllib.parse import quote

from rich.console import Console
from rich.text import Text

from cli import tables
from cli.api_client import Json
from cli.listing import Listing
from cli.tables import Column, member, moments
from pisync.domain.payloads import printable

# A sync that came in sooner is not called late in the table.
LATE: Final = timedelta(minutes=10)


def path(device_id: str) -> str:
    """Where the api has the device."""
    return f"/api/device/{quote(device_id, safe='')}"


def listing(device_id: str) -> Listing:
    """The syncs of a device."""
    return Listing(
        path=f"{path(device_id)}/sync-history",
        rows="events",
        columns=columns,
        empty="No such syncs.",
        truth=lambda _page: None,
    )


def columns(target: Console) -> Sequence[Column]:
    """Of one sync: when, how it went, and when it came in."""
    return (
        moments("timestamp", "when"),
        Column(heading="outcome", cell=lambda row: tables.state(row["outcome"], target)),
        member("total_files_synced", "files", right=True),
        member("total_errors", "errors", right=True),
        Column(heading="Mbit/s", cell=_speed, right=True),
        Column(heading="took", cell=_duration, right=True),
        Column(heading="came in", cell=_lateness),
        Column(heading="codes", cell=_codes, whole=False),
    )


def _duration(row: Json) -> Text:
    took_ms = row.get("sync_duration_ms")
    return tables.text(None if took_ms is None else took_ms / 1000) + Text("" if took_ms is None else " s")


def _speed(row: Json) -> Text:
    speed = row.get("internet_speed")
    return tables.text(None if speed is None else f"{speed:,.2f}")


def _lateness(row: Json) -> Text:
    happened, received = (tables.parsed(row.get(name)) for name in ("timestamp", "received_at"))
    if happened is None or received is None:
        return tables.text(None)
    late = received - happened
    if late < timedelta(0):
        return Text(f"{tables.span(-late)} before its time")
    return Text(f"{tables.span(late)} late" if late > LATE else "at once")


def _codes(row: Json) -> Text:
    return Text(", ".join(codes(row)))


def codes(row: Json) -> list[str]:
    """The codes of its errors, each once; the message of an error that told none."""
    told = (str(error.get("code") or error.get("message") or "") for error in row.get("errors") or ())
    return [printable(code) for code in dict.fromkeys(told) if code]
