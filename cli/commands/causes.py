"""The `pisync causes` command."""

from typing import Any

from cli.commands import options
from cli.commands.options import Api, Shown, takes


@takes(filters=options.filters, shown=options.shown, api=options.api)
def causes(*, filters: dict[str, Any], shown: Shown, api: Api) -> None:
    """List why devices fail now: each code with how many devices and sites, since when, and its trend."""
    from cli import listing  # noqa: PLC0415 - the other commands need none of it
    from cli.groups import CAUSES  # noqa: PLC0415

    with api.connect() as client:
        listing.show(client, CAUSES, filters, shown)
