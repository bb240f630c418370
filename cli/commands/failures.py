"""The `pisync failures` command."""

from typing import Annotated

import typer

from cli.commands import options
from cli.commands.options import MOMENT, SHOWN, Api, Shown, takes
from pisync import limits
from pisync.stores.interfaces.ranking import RankedBy


@takes(shown=options.shown, api=options.api)
def failures(
    *,
    more_than: Annotated[
        int,
        typer.Option(
            min=0, max=limits.FAILURES_KEPT_MAX - 1, help="Only devices with more failures than this."
        ),
    ] = 3,
    since: Annotated[
        str | None,
        typer.Option(
            help=f"Only failures from this moment on, by the device's clock, {MOMENT}.", show_default=False
        ),
    ] = None,
    sort: Annotated[
        RankedBy, typer.Option(help="The order, each descending.", rich_help_panel=SHOWN)
    ] = RankedBy.FAILURES,
    shown: Shown,
    api: Api,
) -> None:
    """List the devices with repeated failures: the streak that runs now beside the total."""
    from cli import listing  # noqa: PLC0415 - the other commands need none of it
    from cli.devices import FAILURES, FAILURES_SINCE  # noqa: PLC0415

    with api.connect() as client:
        chosen = FAILURES if since is None else FAILURES_SINCE
        listing.show(client, chosen, {"more_than": more_than, "since": since, "sort": sort}, shown)
