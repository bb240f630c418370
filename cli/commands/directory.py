"""The `pisync directory` commands, which work over the HTTP api."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.commands.options import Key, Url
from pisync.domain.directory import Kind

directory = typer.Typer(
    name="directory",
    help="What operators say of devices and sites: bring it in from files, and write it to files."
    " Asks a running api.",
    no_args_is_help=True,
)


class Format(StrEnum):
    """The formats of a file, which are the suffixes of its name."""

    CSV = "csv"
    NDJSON = "ndjson"


OfKind = Annotated[Kind, typer.Option(help="What the entries are about.", show_default=False)]


@directory.command("import", epilog="Example: pisync directory import devices.csv --kind devices --dry-run")
def import_file(
    file: Annotated[
        Path,
        typer.Argument(
            help="A file; `-`: standard input.",
            show_default=False,
        ),
    ],
    *,
    kind: OfKind,
    file_format: Annotated[
        Format | None,
        typer.Option(
            "--format", help="Without it, as the file's name ends, or else csv.", show_default=False
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Add and change entries by a file: all of it, or, with a fault in any line, nothing.

    Says what would change, and asks. Names each line with a fault. Exits with 0 when all of it is so, now or
    before, and with 1 otherwise. The same import again changes nothing, and finishes one that was
    interrupted.
    """
    from cli import directory as run  # noqa: PLC0415 - the other commands need none of it
    from cli.api_client import connect  # noqa: PLC0415

    if str(file) == "-" and not (dry_run or yes):
        raise typer.BadParameter(
            "standard input can be read once, so nobody can be asked: give --yes or --dry-run"
        )
    if file_format is None:
        suffix = file.suffix.removeprefix(".").lower()
        file_format = Format.NDJSON if suffix in {"ndjson", "jsonl"} else Format.CSV
    with connect(url, key) as client:
        asked = run.Import(file=file, kind=kind.value, file_format=file_format.value)
        raise typer.Exit(run.import_file(client, asked, dry_run=dry_run, confirmed=yes))


@directory.command(epilog="Example: pisync directory export devices.csv --kind devices")
def export(
    file: Annotated[Path, typer.Argument(help="A file; `-`: standard output.")] = Path("-"),
    *,
    kind: OfKind,
    file_format: Annotated[Format, typer.Option("--format", help="The format.")] = Format.CSV,
    yes: Annotated[
        bool, typer.Option("--yes", help="Overwrite a file that is there without asking.")
    ] = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Write all entries to a file, which an import takes as it is. It is there only once it is whole."""
    from cli import directory as run  # noqa: PLC0415
    from cli.api_client import connect  # noqa: PLC0415

    with connect(url, key) as client:
        run.export(client, file, {"kind": kind.value, "format": file_format.value}, confirmed=yes)
