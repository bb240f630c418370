"""What the `pisync dead-letters` commands do: ask the api, show progress, and say what came of it."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from cli.api_client import ApiClient, ApiRefused, Json
from pisync import settings
from pisync.domain.payloads import printable
from pisync.errors import PiSyncError

PATH: Final = "/api/dead-letters"
# Letters that the api reads at once while all are walked through, each with its whole payload.
WALK_PAGE: Final = 200
# A table is no narrower than this, also in a pipe, so that ids stay whole.
TABLE_WIDTH_MIN: Final = 160
PREVIEW_CHARS_MAX: Final = 60


class Outcome(StrEnum):
    """What became of one letter that was to be replayed."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"
    IMPOSSIBLE = "cannot be replayed"
    GONE = "not there"


_ALWAYS_TOLD: Final = (Outcome.STORED, Outcome.DUPLICATE, Outcome.REJECTED)


def connect(url: str, key: str | None) -> ApiClient:
    """A client with this key, or with the first in the settings.

    Raises:
        ConfigurationError: the URL or a setting is wrong.
    """
    if key is None:
        keys = settings.load(settings.ApiSettings).api_keys
        key = keys[0].get_secret_value() if keys else None
    return ApiClient(url, key)


def show_list(client: ApiClient, query: Mapping[str, Any]) -> None:
    """Print one page as a table."""
    page = client.get(PATH, query)
    if not page["dead_letters"]:
        typer.echo("No dead letters.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("id", "reason", "device", "received", "bytes", "replayed"):
        table.add_column(heading, no_wrap=True, justify="right" if heading == "bytes" else "left")
    table.add_column("payload", overflow="fold")
    for row in page["dead_letters"]:
        preview = row["preview"]
        payload = preview["content"] if preview["encoding"] == "text" else f"base64: {preview['content']}"
        table.add_row(
            row["id"],
            row["reason"],
            row["device_id"] or "-",
            f"{row['received_at'][:19]}Z",  # without its milliseconds
            str(row["size_bytes"]),
            "no" if row["replayed_at"] is None else "yes",
            Text(payload[:PREVIEW_CHARS_MAX]),
        )
    Console(highlight=False, width=max(Console().width, TABLE_WIDTH_MIN)).print(table)
    if page["next"] is not None:
        typer.echo("There are more: narrow it with filters, or raise --limit.")


def show(client: ApiClient, letter_id: str) -> None:
    """Print one letter with its payload."""
    letter = client.get(_path(letter_id))
    text, raw = letter.pop("text"), letter.pop("raw_base64")
    for name, value in letter.items():
        typer.echo(f"{name:<16} {_field(value)}")
    typer.echo("")
    typer.echo(f"base64: {raw}" if text is None else printable(text, keep="\n\t"))


def _field(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} {what}" for what, count in value.items())
    return "-" if value is None else printable(str(value))


def find_ids(client: ApiClient, query: Mapping[str, Any]) -> list[str]:
    """The ids of all letters that match."""
    rows = client.rows(PATH, "dead_letters", {**query, "limit": WALK_PAGE})
    with Console(stderr=True).status("Looking for dead letters"):
        return [row["id"] for row in rows]


def replay(client: ApiClient, letter_ids: Sequence[str]) -> int:
    """Publish the letters again and print a summary; the exit code, 1 where one was not taken in.

    Raises:
        PiSyncError: the api or a part behind it is unavailable; the letters before were replayed.
    """
    outcomes: Counter[Outcome] = Counter()
    faults: Counter[str] = Counter()
    try:
        for letter_id in _progress("Replaying", letter_ids):
            outcome, fault = _replay(client, letter_id)
            outcomes[outcome] += 1
            if fault is not None:
                faults[fault] += 1
    finally:
        told = [outcome for outcome in Outcome if outcomes[outcome] or outcome in _ALWAYS_TOLD]
        typer.echo(", ".join(f"{outcomes[outcome]} {outcome}" for outcome in told))
        for fault, count in faults.most_common():
            typer.echo(f"  {count} times {fault}")
    return 0 if outcomes.total() == outcomes[Outcome.STORED] + outcomes[Outcome.DUPLICATE] else 1


def _replay(client: ApiClient, letter_id: str) -> tuple[Outcome, str | None]:
    try:
        receipt = client.post(f"{_path(letter_id)}/replay")
    except ApiRefused as refused:
        reasons = [error["reason"] for error in refused.errors if "reason" in error]
        if refused.status == HTTPStatus.UNPROCESSABLE_ENTITY and reasons:
            return Outcome.REJECTED, ", ".join(sorted(set(reasons)))
        if refused.status == HTTPStatus.CONFLICT:
            return Outcome.IMPOSSIBLE, str(refused)
        if refused.status == HTTPStatus.NOT_FOUND:
            return Outcome.GONE, str(refused)
        raise
    return (Outcome.STORED if receipt["stored"] else Outcome.DUPLICATE), None


def export(client: ApiClient, letter_ids: Sequence[str], file: Path) -> None:
    """Write the letters to the file, which is there only once it is whole.

    Raises:
        PiSyncError: the api is unavailable, or the file cannot be written.
    """
    partial = file.with_name(f"{file.name}.partial")
    count = 0
    try:
        with partial.open("w", encoding="utf-8") as lines:
            for letter in _letters(client, letter_ids):
                lines.write(json.dumps(letter) + "\n")
                count += 1
        partial.replace(file)
    except OSError as error:
        raise PiSyncError(f"{error.filename or file}: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
    typer.echo(f"{count} dead letters in {file}")


def _letters(client: ApiClient, letter_ids: Sequence[str]) -> Iterator[Json]:
    for letter_id in _progress("Exporting", letter_ids):
        try:
            letter = client.get(_path(letter_id))
        except ApiRefused as refused:
            if refused.status != HTTPStatus.NOT_FOUND:
                raise
            continue  # its retention ended meanwhile
        del letter["text"]
        yield letter


def _progress(what: str, letter_ids: Sequence[str]) -> Iterator[str]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield from progress.track(letter_ids, description=what)


def _path(letter_id: str) -> str:
    return f"{PATH}/{quote(letter_id, safe='')}"
