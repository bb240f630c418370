"""The `pisync site` command."""

from typing import Annotated, Any

import typer

from cli.commands import options
from cli.commands.options import Api, Shown, takes


@takes(filters=options.without(options.filters, "site"), shown=options.shown, api=options.api)
def site(
    site_id: Annotated[
        str,
        typer.Argument(metavar="ID", help="The site's id; `-`: devices without one.", show_default=False),
    ],
    *,
    filters: dict[str, Any],
    shown: Shown,
    api: Api,
) -> None:
    """Show one site: its devices day by day, why they fail, and what they did each day.

    A day on which most devices failed, or were not heard, is a column: that is the line, not a device.
    """
    from cli import site as run  # noqa: PLC0415 - the other commands need none of it

    with api.connect() as client:
        run.show(client, site_id, filters, shown)
