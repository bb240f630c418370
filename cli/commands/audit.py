"""The `pisync audit` command."""

from typing import Annotated

import typer

from cli.commands import options
from cli.commands.options import MOMENT, Api, Shown, takes
from pisync.domain.actions import About, What


@takes(shown=options.shown, api=options.api)
def audit(
    *,
    who: Annotated[
        str | None, typer.Option(help="Only what was done by this name.", show_default=False)
    ] = None,
    what: Annotated[What | None, typer.Option(help="Only this.", show_default=False)] = None,
    about: Annotated[About | None, typer.Option(help="Only what is about these.", show_default=False)] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Only what is about the one with this id, or this address.", show_default=False),
    ] = None,
    since: Annotated[
        str | None, typer.Option(help=f"Only from this moment on, {MOMENT}.", show_default=False)
    ] = None,
    until: Annotated[
        str | None, typer.Option(help=f"Only before this moment, {MOMENT}.", show_default=False)
    ] = None,
    shown: Shown,
    api: Api,
) -> None:
    """List who did what, when and from where, and what was refused, newest first; needs an admin's key."""
    from cli import listing  # noqa: PLC0415 - the other commands need none of it
    from cli.audit_log import ACTIONS  # noqa: PLC0415

    parameters = {
        "who": who,
        "what": what,
        "kind": about,
        "target": target,
        "since": since,
        "until": until,
    }
    with api.connect() as client:
        listing.show(client, ACTIONS, parameters, shown)
