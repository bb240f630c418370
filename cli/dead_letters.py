"""What the `pisync dead-letters` commands do, but for replays: ask the api, and print the result."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli import letter_texts as texts
from cli.api_client import ApiClient, ApiRefused, Json
from cli.progress import tracked
from pisync.domain.payloads import printable
from pisync.errors import PiSyncError

# Dead letters that the api reads at once while all are walked through, each with its whole payload.
WALK_PAGE: Final = 200
# A table is no narrower than this, also in a pipe, so that ids stay whole.
TABLE_WIDTH_MIN: Final = 170
PREVIEW_CHARS_MAX: Final = 60


def show_list(client: ApiClient, query: Mapping[str, Any]) -> None:
    """Print one page as a table."""
    page = client.get(texts.PATH, query)
    for gone in page["dropped"]:
        typer.echo(
            f"{gone['dropped']} messages of {gone['device_id'] or 'topics without a device'} were not kept:"
            f" older letters gave way, or they were left out; the last at {gone['dropped_at'][:19]}Z."
        )
    if not page["dead_letters"]:
        typer.echo("No dead letters.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("id", "reason", "events", "device", "received", "bytes", "replayed"):
        numeric = heading in {"bytes", "events"}
        table.add_column(heading, no_wrap=True, justify="right" if numeric else "left")
    table.add_column("payload", overflow="fold")
    for row in page["dead_letters"]:
        preview = row["preview"]
        payload = preview["content"] if preview["encoding"] == "text" else f"base64: {preview['content']}"
        table.add_row(
            row["id"],
            ", ".join(row["rejected"]),
            str(sum(row["rejected"].values())),
            row["device_id"] or "-",
            f"{row['received_at'][:19]}Z",  # without its milliseconds
            str(row["size_bytes"]),
            "no" if row["replayed_at"] is None else "corrected" if row["corrections"] else "yes",
            Text(payload[:PREVIEW_CHARS_MAX]),
        )
    Console(highlight=False, width=max(Console().width, TABLE_WIDTH_MIN)).print(table)
    if page["next"] is not None:
        typer.echo("There are more: narrow it with filters, or raise --limit.")


def show(client: ApiClient, dead_letter_id: str) -> None:
    """Print one dead letter with its payload."""
    dead_letter = client.get(texts.path(dead_letter_id))
    text, raw, parts, corrections = (
        dead_letter.pop(name) for name in ("text", "raw_base64", "parts", "corrections")
    )
    for name, value in dead_letter.items():
        typer.echo(f"{name:<16} {texts.field(value)}")
    typer.echo("")
    for part in parts:
        typer.echo(f"{texts.place(part)}: {texts.why(part)}")
    for one in corrections:
        outcome = "no receipt came" if one["outcome"] is None else texts.field(one["outcome"])
        typer.echo(
            f"corrected: {one['reason']} {texts.amount(one)}, confirmed by {texts.field(one['confirmed_by'])}"
            f" at {one['confirmed_at']}: {outcome}"
        )
    typer.echo("")
    typer.echo(f"base64: {raw}" if text is None else printable(text, keep="\n\t"))


def find_ids(client: ApiClient, query: Mapping[str, Any]) -> list[str]:
    """The ids of all dead letters that match."""
    rows = client.rows(texts.PATH, "dead_letters", {**query, "limit": WALK_PAGE})
    with Console(stderr=True).status("Looking for dead letters"):
        return [row["id"] for row in rows]


def preview_replay(client: ApiClient, query: Mapping[str, Any]) -> None:
    """Print how many letters a replay of these would send, and what they were rejected for."""
    shown = client.post("/api/replay-dead-letters", query)
    letters = shown["matched"]
    reasons = ", ".join(f"{count} {reason}" for reason, count in shown["by_reason"].items())
    of = f" Of the first {shown['count']}: {reasons}." if letters else ""
    typer.echo(f"{letters} dead letters would be sent.{of}")
    if shown["impossible"]:
        typer.echo(
            f"{shown['impossible']} of these cannot be: no device in the topic, or only a head is kept."
        )


def purge(client: ApiClient, query: Mapping[str, Any], *, dry_run: bool, confirmed: bool) -> None:
    """Delete all dead letters that match, once that is confirmed; or say how many they are."""
    count = client.delete(texts.PATH, {**query, "dry_run": True})["matched"]
    if dry_run:
        typer.echo(f"{count} dead letters would be deleted.")
        return
    if count and not confirmed:
        typer.confirm(f"Delete {count} dead letters for good?", abort=True)
    deleted = 0
    while count:
        answer = client.delete(texts.PATH, query)
        deleted += answer["deleted"]
        count = answer["matched"] - answer["deleted"]
    typer.echo(f"{deleted} dead letters deleted.")


def check_export(file: Path, *, confirmed: bool) -> None:
    """Ask before an export takes the place of a file that is there."""
    if not confirmed and file.exists():
        typer.confirm(f"{file} is there already. Overwrite it?", abort=True)


def export(client: ApiClient, dead_letter_ids: Sequence[str], file: Path) -> None:
    """Write dead letters to the file, which is there only once it is whole; only its owner can read it.

    Raises:
        PiSyncError: the api is unavailable, or the file cannot be written.
    """
    partial = file.with_name(f"{file.name}.partial")
    count = 0
    try:
        partial.unlink(missing_ok=True)  # of an export that was killed, with rights that others may have set
        with os.fdopen(_create_private(partial), "w", encoding="utf-8") as lines:
            for dead_letter in _dead_letters(client, dead_letter_ids):
                lines.write(json.dumps(dead_letter) + "\n")
                count += 1
        partial.replace(file)
    except OSError as error:
        raise PiSyncError(f"{error.filename or file}: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
    typer.echo(f"{count} dead letters in {file}")


def _create_private(path: Path) -> int:
    """Create a file that only its owner can read: what devices send is nobody else's."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


def _dead_letters(client: ApiClient, dead_letter_ids: Sequence[str]) -> Iterator[Json]:
    for dead_letter_id in tracked("Exporting", texts.UNIT, dead_letter_ids):
        try:
            dead_letter = client.get(texts.path(dead_letter_id))
        except ApiRefused as refused:
            if refused.status != HTTPStatus.NOT_FOUND:
                raise
            continue  # its retention ended meanwhile
        del dead_letter["text"]
        yield dead_letter
