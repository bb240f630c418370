"""The `pisync devices` command, and the commands below it."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from cli.commands import credentials, options
from cli.commands.options import SHOWN, Api, Direction, Shown, takes

devices = typer.Typer(
    name="devices",
    help="List devices, the worst first, and count them by state; and who of them may connect.",
    epilog="Example: pisync devices --state overdue --site S-17 --all",
    invoke_without_command=True,
)


class Sort(StrEnum):
    """What devices are sorted by."""

    STATE = "state"
    DEVICE_ID = "device_id"
    NAME = "name"
    LAST_RECEIVED = "last_received"
    LAST_SEEN = "last_seen"
    STREAK = "streak"
    FAILURES = "failures"


@devices.callback()
@takes(filters=options.filters, shown=options.shown, api=options.api)
def show(
    ctx: typer.Context,
    *,
    sort: Annotated[
        Sort, typer.Option(help="The order, over the whole fleet.", rich_help_panel=SHOWN)
    ] = Sort.STATE,
    order: Direction = None,
    filters: dict[str, Any],
    shown: Shown,
    api: Api,
) -> None:
    """List devices, the worst first, and count them by state."""
    if ctx.invoked_subcommand is not None:
        return
    from cli import listing  # noqa: PLC0415 - the other commands need none of it
    from cli.devices import DEVICES  # noqa: PLC0415

    with api.connect() as client:
        listing.show(client, DEVICES, {**filters, "sort": sort, "order": order}, shown)


credentials.add_to(devices)
