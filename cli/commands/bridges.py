"""The `pisync bridges` commands."""

from typing import Annotated

import typer

bridges = typer.Typer(
    name="bridges",
    help="The bridges that may have stored events: what is known of each, and how one is forgotten.",
    no_args_is_help=True,
)


@bridges.command("list", epilog="Example: pisync bridges list")
def show_list() -> None:
    """List every bridge: its last life, its watermark, and how long ago it had merged everything."""
    from cli.bridges import run_list  # noqa: PLC0415
    from pisync import logs, settings  # noqa: PLC0415 - the other commands need none of it

    loaded = settings.load(settings.CommonSettings)
    logs.configure(loaded)
    run_list(loaded)


@bridges.command(epilog="Example: pisync bridges forget bridge-7")
def forget(
    bridge_id: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.", show_default=False)],
) -> None:
    """Forget a bridge that will never come back, after merging what it left in MongoDB.

    What the broker still holds for it stays there until its session expires: where the bridge can be started
    once more, `pisync bridge --leave` takes that too.
    """
    from cli.bridges import run_forget  # noqa: PLC0415
    from pisync import logs, settings  # noqa: PLC0415 - the other commands need none of it

    loaded = settings.load(settings.CommonSettings)
    logs.configure(loaded)
    run_forget(loaded, bridge_id)
