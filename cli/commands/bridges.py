"""The `pisync bridges` commands."""

from typing import Annotated

import typer

from cli.commands.options import AsJson

bridges = typer.Typer(
    name="bridges",
    help="The bridges that may have stored events: what is known of each; retire or forget them.",
    no_args_is_help=True,
)


Name = Annotated[str, typer.Option(help="What stands before the number in their ids.")]


@bridges.command("list", epilog="Example: pisync bridges list --wanted 4")
def show_list(
    *,
    wanted: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Bridges numbered from 0 that are to stay: say of each whether it is beyond.",
            show_default=False,
        ),
    ] = None,
    name: Name = "bridge",
    as_json: AsJson = False,
) -> None:
    """List every bridge: when it last started, its watermark, how far it is behind, whether it is listening.

    With `--wanted`, also which of them `pisync bridges retire --wanted` retires once they do not run.
    """
    from cli.bridges import run_list  # noqa: PLC0415
    from pisync import logs, settings  # noqa: PLC0415 - the other commands need none of it

    loaded = settings.load(settings.CommonSettings)
    logs.configure(loaded)
    run_list(loaded, name=name, wanted=wanted, as_json=as_json)


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


@bridges.command(epilog="Example: pisync bridges retire --wanted 4")
def retire(
    *,
    wanted: Annotated[
        int,
        typer.Option(
            min=1, help="Bridges numbered from 0 that are to stay; those beyond leave.", show_default=False
        ),
    ],
    name: Name = "bridge",
) -> None:
    """Retire the bridges beyond a number that do not run: each takes what the broker holds for it and leaves.

    For a scheduler after a scale-in. One that runs is left alone, and so are ids of another form.
    """
    from cli.retiring import run_retire  # noqa: PLC0415
    from pisync import logs, settings  # noqa: PLC0415 - the other commands need none of it

    loaded = settings.load(settings.BridgeSettings)
    logs.configure(loaded)
    run_retire(loaded, name=name, wanted=wanted)
