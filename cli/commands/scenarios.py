"""The `pisync scenarios` command."""

from typing import Annotated

import typer


def scenarios(
    name: Annotated[
        str | None,
        typer.Argument(help="Show this one's file, to copy; without it, list all.", show_default=False),
    ] = None,
) -> None:
    """List the scenarios that `pisync simulate --scenario` takes, or show the TOML of one.

    Events are counted for its usual number of devices.
    """
    from rich.console import Console  # noqa: PLC0415 - the other commands need none of it

    from cli import scenarios as run  # noqa: PLC0415
    from device_sim.scenarios import bundled  # noqa: PLC0415

    if name is None:
        run.listing(Console())
    else:
        typer.echo(bundled.source(name), nl=False)
