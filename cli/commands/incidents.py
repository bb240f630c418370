"""The `pisync incidents` command."""

from enum import StrEnum
from typing import Annotated

import typer

from cli.commands import options
from cli.commands.options import Api, Shown, takes
from pisync.domain.incidents import IncidentKind


class IncidentState(StrEnum):
    """Which incidents are listed."""

    OPEN = "open"
    CLOSED = "closed"
    ALL = "all"


@takes(shown=options.shown, api=options.api)
def incidents(
    *,
    state: Annotated[IncidentState, typer.Option(help="Which incidents.")] = IncidentState.OPEN,
    kind: Annotated[
        IncidentKind | None, typer.Option(help="Only incidents of this kind.", show_default=False)
    ] = None,
    site: Annotated[str | None, typer.Option(help="Only incidents of this site.", show_default=False)] = None,
    cause: Annotated[
        str | None,
        typer.Option(help="Only incidents with this error code; `-`: with none.", show_default=False),
    ] = None,
    shown: Shown,
    api: Api,
) -> None:
    """List incidents, newest first: sites that fail or fell silent as one, codes that spread."""
    from cli import listing  # noqa: PLC0415 - the other commands need none of it
    from cli.groups import INCIDENTS  # noqa: PLC0415

    with api.connect() as client:
        listing.show(client, INCIDENTS, {"state": state, "kind": kind, "site": site, "cause": cause}, shown)
