"""The commands `pisync status` and `pisync top`."""

from typing import Annotated

import typer

from cli.commands import options
from cli.commands.options import Api, AsJson, takes


@takes(api=options.api)
def status(*, as_json: AsJson = False, api: Api) -> None:
    """One screen: does anything need somebody, is it getting worse, and how true is this?

    Exits with 0 when all is fine; 1 when something is unhandled (alerts that are neither acknowledged nor of
    a muted device, failing devices without one, overdue devices that are neither muted nor acknowledged); 2
    when the figures are not exact (not complete, still being read, stale, a part is unavailable, rollups
    lag), whatever they say; 69 when the api is away.
    """
    from cli import listing, screen, tables  # noqa: PLC0415 - the other commands need none of it
    from cli import status as run  # noqa: PLC0415

    with api.connect(waits=False) as client:
        snapshot = run.ask(client)
    if as_json:
        listing.print_object(snapshot.as_json())
    else:
        target = tables.console()
        for line in screen.lines(snapshot, target):
            tables.show(target, line)
    raise typer.Exit(snapshot.verdict())


@takes(api=options.api)
def top(
    *,
    count: Annotated[
        int | None,
        typer.Option(min=1, help="End after so many times; without it, at Ctrl-C.", show_default=False),
    ] = None,
    api: Api,
) -> None:
    """The screen of `pisync status`, live: anew every 2 seconds until Ctrl-C.

    Without a terminal it prints a line each time. An api that goes away is waited for.
    """
    from cli import top as run  # noqa: PLC0415 - the other commands need none of it

    with api.connect(waits=False) as client:
        run.run(client, count)
