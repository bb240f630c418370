"""The `pisync cause` command."""

from typing import Annotated

import typer

from cli.commands import options
from cli.commands.options import Api, AsJson, Shape, takes


@takes(api=options.api)
def cause(
    code: Annotated[
        str,
        typer.Argument(metavar="CODE", help="The code; `-`: of failures that gave none.", show_default=False),
    ],
    *,
    as_json: AsJson = False,
    api: Api,
) -> None:
    """Show why devices fail by one code: at which sites, since when, how often a day, and what they say."""
    from cli import cause as run  # noqa: PLC0415 - the other commands need none of it

    if code in {".", ".."}:
        raise typer.BadParameter(f"the code {code} is no part of a path: pisync causes --cause {code}")
    with api.connect() as client:
        run.show(client, code, Shape.JSON if as_json else Shape.TABLE)
