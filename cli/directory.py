"""What the `pisync directory` commands do: send files to the api and fetch them, and say what is wrong."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import typer

from cli import files
from cli.api_client import ApiClient, ApiRefused, Json
from cli.progress import progress
from pisync.domain.payloads import printable
from pisync.errors import PiSyncError

IMPORT_PATH: Final = "/api/directory/import"
EXPORT_PATH: Final = "/api/directory/export"
MEDIA_TYPES: Final = {"csv": "text/csv", "ndjson": "application/x-ndjson"}
PIECE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Import:
    """A file that is to be imported; `-` is standard input."""

    file: Path
    kind: str
    file_format: str


def import_file(client: ApiClient, asked: Import, *, dry_run: bool, confirmed: bool) -> int:
    """Import the file, once that is confirmed; the exit code: 0 when all of it is so, or would be.

    Raises:
        PiSyncError: the api is unavailable, or the file cannot be read.
    """
    if not (dry_run or confirmed):
        would = _send(client, asked, dry_run=True)
        if would is None:
            return 1
        typer.echo(f"{_counts(would)}.")
        if not (would["created"] or would["changed"]):
            return 0
        typer.confirm("Import it?", abort=True)
    done = _send(client, asked, dry_run=dry_run)
    if done is None:
        return 1
    action = "" if done["action"] is None else f" Action {done['action']}."
    typer.echo(f"{'Nothing was changed, as asked: ' if dry_run else ''}{_counts(done)}.{action}")
    return 0


def _send(client: ApiClient, asked: Import, *, dry_run: bool) -> Json | None:
    """What the import did, or would; None where lines are at fault, which are told."""
    parameters = {"kind": asked.kind, "dry_run": dry_run}
    try:
        with _opened(asked.file) as (source, size_bytes):
            pieces = _tracked("Checking" if dry_run else "Importing", source, size_bytes)
            return client.upload(IMPORT_PATH, parameters, MEDIA_TYPES[asked.file_format], pieces)
    except ApiRefused as refused:
        if "refused" not in refused.body:
            raise
        _show_faults(refused)
        return None


def _show_faults(refused: ApiRefused) -> None:
    typer.echo(f"Nothing was imported: {_field(refused.body['refused'], 'line')} at fault.")
    for fault in refused.errors:
        member = f"{printable(fault['member'])}: " if fault["member"] else ""
        typer.echo(f"  line {fault['line']}: {member}{printable(fault['detail'])}")
    if refused.body["more"]:
        typer.echo(f"  and {refused.body['more']} more")


def _counts(answer: Json) -> str:
    return f"{answer['created']} created, {answer['changed']} changed, {answer['unchanged']} unchanged"


def _field(count: int, unit: str) -> str:
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


@contextmanager
def _opened(file: Path) -> Iterator[tuple[BinaryIO, int]]:
    """The file and its size, 0 where that is not known."""
    if str(file) == "-":
        yield sys.stdin.buffer, 0
        return
    try:
        with file.open("rb") as source:
            yield source, file.stat().st_size
    except OSError as error:
        raise PiSyncError(f"{file}: {error.strerror}") from None


def _tracked(description: str, source: BinaryIO, size_bytes: int) -> Iterator[bytes]:
    """The bytes of a file in pieces, with the progress of their sending."""
    sent = 0
    with progress(description, "KiB") as update:
        update(0, -(-size_bytes // files.KIB))
        while piece := source.read(PIECE_BYTES):
            yield piece
            sent += len(piece)
            is_sent = sent >= size_bytes
            update(
                -(-sent // files.KIB),
                -(-size_bytes // files.KIB),
                "sent; the api checks it" if is_sent else "",
            )


def export(client: ApiClient, file: Path, parameters: dict[str, Any], *, confirmed: bool) -> None:
    """Write the directory to the file, which is there only once it is whole; or to standard output.

    Raises:
        PiSyncError: the api is unavailable, or ends before the file does; or the file cannot be written.
    """
    files.save(client.download(EXPORT_PATH, parameters), file, confirmed=confirmed)
