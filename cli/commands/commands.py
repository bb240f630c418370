"""The `pisync commands` and `pisync sync-now` commands, which work over the HTTP api."""

from typing import Annotated, Any

import typer

from cli.commands import options
from cli.commands.options import Api, AsJson, Shown, takes
from pisync import limits
from pisync.domain.commands import CommandState

commands = typer.Typer(
    name="commands",
    help="What was asked of devices, and how far it is: list it, take it back. Asks a running api.",
    no_args_is_help=True,
)


@commands.command("list", epilog="Example: pisync commands list --state published")
@takes(shown=options.shown, api=options.api)
def show_list(
    *,
    device_id: Annotated[
        str | None, typer.Option("--device", help="Only commands to this device.", show_default=False)
    ] = None,
    state: Annotated[
        CommandState | None, typer.Option(help="Only commands in this state.", show_default=False)
    ] = None,
    shown: Shown,
    api: Api,
) -> None:
    """List commands, newest first, and how far each is."""
    from cli import listing  # noqa: PLC0415 - the other commands need none of it
    from cli.commanding import COMMANDS  # noqa: PLC0415

    with api.connect() as client:
        listing.show(client, COMMANDS, {"device_id": device_id, "state": state}, shown)


@commands.command(epilog="Example: pisync commands cancel 019dffba7e400123456789abcdef")
@takes(api=options.api)
def cancel(
    command_ids: Annotated[list[str], typer.Argument(metavar="ID…", show_default=False)],
    *,
    as_json: AsJson = False,
    api: Api,
) -> None:
    """Take commands back that are still queued. Exits with 0 only where all are cancelled, now or before."""
    from cli import commanding as run  # noqa: PLC0415

    with api.connect() as client:
        raise typer.Exit(run.cancel(client, command_ids, as_json=as_json))


@takes(filters=options.filters, api=options.api)
def sync_now(
    device_ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ID…", help="The devices; without any, those of the filters.", show_default=False
        ),
    ] = None,
    *,
    expires_in: Annotated[
        str,
        typer.Option(help="After how long no device begins it any more, such as 90s, 30m, 24h, 7d or 2w."),
    ] = limits.COMMAND_EXPIRY,
    every: Annotated[bool, typer.Option("--all", help="All devices.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many they are.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
    filters: dict[str, Any],
    api: Api,
) -> None:
    """Have devices sync now: those named, or those that all the filters given choose.

    Says exactly how many, and asks, unless it is one that is named. A device has one such command at most
    that is not over. It is done, `proved`, when a newer event of the device is stored: see `pisync commands`.
    """
    from cli import commanding as run  # noqa: PLC0415

    has_filter = any(value is not None for value in filters.values())
    if [bool(device_ids), has_filter, every].count(True) != 1:
        raise typer.BadParameter("give either ids, or filters, or --all")
    with api.connect() as client:
        chosen = device_ids or run.chosen(client, filters)
        asking = run.Asking(expires_in=expires_in, dry_run=dry_run, confirmed=yes, as_json=as_json)
        run.sync_now(client, list(dict.fromkeys(chosen)), asking, is_named=bool(device_ids))
