"""The `pisync export` commands: all rows of a list, as a file that the api makes, and an archive."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from cli.commands import archived, options
from cli.commands.devices import Sort
from cli.commands.options import Api, DeviceId, Direction, takes
from cli.commands.sites import SiteSort

export = typer.Typer(
    name="export",
    help="All rows of a list, to a file that is there only once it is whole, or to standard output;"
    " and all events, as an archive.",
    no_args_is_help=True,
)


class Format(StrEnum):
    """The formats of a file, which are the suffixes of its name."""

    CSV = "csv"
    NDJSON = "ndjson"


def _target(
    *,
    file: Annotated[Path, typer.Option("--output", "-o", help="A file; `-`: standard output.")] = Path("-"),
    file_format: Annotated[
        Format | None,
        typer.Option(
            "--format", help="Without it, as the file's name ends, or else csv.", show_default=False
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Overwrite a file that is there without asking.")
    ] = False,
) -> "Target":
    """Where the rows go, and how."""
    if file_format is None:
        is_ndjson = file.suffix.lower() in {".ndjson", ".jsonl"}
        file_format = Format.NDJSON if is_ndjson else Format.CSV
    return Target(file, file_format, confirmed=yes)


class Target:
    """A file and its format."""

    def __init__(self, file: Path, file_format: Format, *, confirmed: bool) -> None:
        self._file = file
        self._format = file_format
        self._confirmed = confirmed

    def save(self, api: Api, path: str, parameters: Mapping[str, Any]) -> None:
        """Write all rows of the list at this path.

        Raises:
            PiSyncError: the api is away, or refuses; or the file cannot be written.
        """
        from cli import files  # noqa: PLC0415 - the other commands need none of it

        with api.connect() as client:
            pieces = client.download(f"{path}.{self._format}", parameters)
            files.save(pieces, self._file, confirmed=self._confirmed)


@export.command(epilog="Example: pisync export devices --state failing -o failing.csv")
@takes(filters=options.filters, target=_target, api=options.api)
def devices(
    *,
    sort: Annotated[Sort, typer.Option(help="The order.")] = Sort.STATE,
    order: Direction = None,
    filters: dict[str, Any],
    target: Target,
    api: Api,
) -> None:
    """Export devices, as `pisync devices` lists them."""
    target.save(api, "/api/devices", {**filters, "sort": sort, "order": order})


@export.command(epilog="Example: pisync export sites -o sites.ndjson")
@takes(filters=options.filters, target=_target, api=options.api)
def sites(
    *,
    sort: Annotated[SiteSort | None, typer.Option(help="The order.", show_default=False)] = None,
    order: Direction = None,
    filters: dict[str, Any],
    target: Target,
    api: Api,
) -> None:
    """Export sites with their devices by state."""
    target.save(api, "/api/sites", {**filters, "sort": sort, "order": order})


@export.command(epilog="Example: pisync export causes --site S-17 --format ndjson")
@takes(filters=options.filters, target=_target, api=options.api)
def causes(*, filters: dict[str, Any], target: Target, api: Api) -> None:
    """Export why devices fail now."""
    target.save(api, "/api/causes", filters)


@export.command(epilog="Example: pisync export history PB-000123 --since 30d -o PB-000123.csv")
@takes(which=options.syncs, target=_target, api=options.api)
def history(device_id: DeviceId, *, which: dict[str, Any], target: Target, api: Api) -> None:
    """Export the syncs of one device, newest first."""
    target.save(api, f"/api/device/{quote(device_id, safe='')}/sync-history", which)


@export.command("site-history", epilog="Example: pisync export site-history S-17 --since 30d -o S-17.ndjson")
@takes(which=options.syncs, target=_target, api=options.api)
def site_history(
    site_id: Annotated[str, typer.Argument(metavar="ID", help="The site's id.", show_default=False)],
    *,
    which: dict[str, Any],
    target: Target,
    api: Api,
) -> None:
    """Export the syncs of all devices of a site, device after device, newest first."""
    target.save(api, f"/api/site/{quote(site_id, safe='')}/sync-history", which)


@export.command(epilog="Example: pisync export archive s3://backup/pisync --endpoint https://s3.example.org")
@takes(which=archived.archived)
def archive(
    *,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Write nothing; compare each file with its manifest and count the events in MongoDB, and"
            " exit with 1 on a difference.",
        ),
    ] = False,
    which: archived.Archived,
) -> None:
    """Export all events from MongoDB to Parquet, a file a day of receipt, with all that a restore needs.

    What is there whole stays as it is; it may be interrupted at any time, and the next run goes on.
    """
    from cli.archive.run import run_check, run_export  # noqa: PLC0415
    from pisync import logs, settings  # noqa: PLC0415 - the other commands need none of it

    loaded = settings.load(settings.CommonSettings)
    logs.configure(loaded)
    raise typer.Exit((run_check if check else run_export)(loaded, which))
