"""The `pisync bridge` command."""

from typing import Annotated

import typer


def bridge(
    *,
    leave: Annotated[
        bool,
        typer.Option(
            "--leave",
            help="Retire the bridge PISYNC_BRIDGE_ID: unsubscribe, take what the broker holds for it, and end"
            " its session there.",
        ),
    ] = False,
) -> None:
    """Run one bridge: MQTT in, MongoDB and Redis out, receipts back. Stops cleanly on SIGTERM and Ctrl-C."""
    from bridge.service import run  # noqa: PLC0415 - the other commands need none of it
    from pisync import logs, settings  # noqa: PLC0415

    loaded = settings.load(settings.BridgeSettings)
    logs.configure(loaded)
    run(loaded, leave=leave)
