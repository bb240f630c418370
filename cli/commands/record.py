"""The `pisync record` command."""

from pathlib import Path
from typing import Annotated

import typer


def record(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A new file; `-`: standard output.", dir_okay=False, show_default=False
        ),
    ],
    *,
    mqtt_url: Annotated[
        str | None, typer.Option(help="Broker; without it, PISYNC_MQTT_URL.", show_default=False)
    ] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            help="Topics to record, such as 'pisync/v1/devices/PB-1/#'; may be given several times. Without"
            " it, all of PiSync's.",
            show_default=False,
        ),
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option(help="End after this time, such as 90s, 30m or 1h.", show_default=False),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="End after so many messages.", show_default=False)
    ] = None,
    append: Annotated[bool, typer.Option("--append", help="Go on with a file that is there.")] = False,
) -> None:
    """Write what passes through the broker to a file, until Ctrl-C: each message is a line of JSON.

    It has the bytes exactly, and `pisync replay` plays it. Nothing is taken away from the bridges. Exits with
    1 when messages may be missing.
    """
    from cli.record import run  # noqa: PLC0415 - the other commands need none of it
    from pisync import logs, settings  # noqa: PLC0415

    loaded = settings.load(settings.CommonSettings, mqtt_url=mqtt_url)
    logs.configure(loaded)
    raise typer.Exit(run(loaded, file, filters=filters, duration=duration, count=count, append=append))
