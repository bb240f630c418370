"""The `pisync sites` command."""

from typing import Any

from cli.commands import options
from cli.commands.options import Api, Shown, takes


@takes(filters=options.filters, shown=options.shown, api=options.api)
def sites(*, filters: dict[str, Any], shown: Shown, api: Api) -> None:
    """List sites with their devices by state, and how many were heard today."""
    from cli import listing  # noqa: PLC0415 - the other commands need none of it
    from cli.groups import SITES  # noqa: PLC0415

    with api.connect() as client:
        listing.show(client, SITES, filters, shown)
