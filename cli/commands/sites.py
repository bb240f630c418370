"""The `pisync sites` command."""

from enum import StrEnum
from typing import Annotated, Any

import typer

from cli.commands import options
from cli.commands.options import SHOWN, Api, Direction, Shown, takes


class SiteSort(StrEnum):
    """What sites are sorted by; `unheard`: by how many of their devices were not heard today."""

    SITE_ID = "site_id"
    DEVICES = "devices"
    FAILING = "failing"
    UNHEARD = "unheard"


@takes(filters=options.filters, shown=options.shown, api=options.api)
def sites(
    *,
    sort: Annotated[
        SiteSort | None,
        typer.Option(help="The order, over all sites.", show_default=False, rich_help_panel=SHOWN),
    ] = None,
    order: Direction = None,
    filters: dict[str, Any],
    shown: Shown,
    api: Api,
) -> None:
    """List sites with their devices by state, and how many were heard today."""
    from cli import listing  # noqa: PLC0415 - the other commands need none of it
    from cli.groups import SITES  # noqa: PLC0415

    with api.connect() as client:
        listing.show(client, SITES, {**filters, "sort": sort, "order": order}, shown)
