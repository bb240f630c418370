"""The `pisync rebuild` command."""

from typing import Annotated

import typer


def rebuild(
    *,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Change nothing; compare with MongoDB, and exit with 1 on a difference."
        ),
    ] = False,
) -> None:
    """Build the projection in Redis anew from MongoDB, have rollups counted anew; bridges may be running."""
    from cli.rebuild import run  # noqa: PLC0415
    from pisync import logs, settings  # noqa: PLC0415 - the other commands need none of it

    loaded = settings.load(settings.CommonSettings)
    logs.configure(loaded)
    raise typer.Exit(run(loaded, check=check))
