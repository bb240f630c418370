"""The `pisync simulate` command."""

from pathlib import Path
from typing import Annotated

import typer


def simulate(
    *,
    mqtt_url: Annotated[
        str | None, typer.Option(help="Broker; without it, PISYNC_MQTT_URL.", show_default=False)
    ] = None,
    devices: Annotated[int, typer.Option(min=1, max=100_000, help="Devices in the fleet.")] = 20,
    events: Annotated[int, typer.Option(min=1, max=10_000, help="Sync events of each device.")] = 50,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Makes the same fleet again; random without it.", show_default=False),
    ] = None,
    connections: Annotated[int, typer.Option(min=1, help="Devices connected at once, at most.")] = 200,
    timeout_s: Annotated[
        float, typer.Option(min=0.1, help="Give up after so many seconds and report what is unconfirmed.")
    ] = 900.0,
    failing: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of devices that keep failing.")
    ] = 0.1,
    array_events: Annotated[
        int, typer.Option(min=1, max=500, help="Events in one message of a backlog, at most.")
    ] = 50,
    receipt_timeout_s: Annotated[
        float,
        typer.Option(
            min=0.1, help="How long a device waits for a receipt after a PUBACK, in seconds, ± 50 %."
        ),
    ] = 600.0,
    report: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write the summary to this file, as JSON.")
    ] = None,
) -> None:
    """Simulate a fleet: devices go offline, come back, publish their backlog and wait for receipts.

    Exits with 0 only when every event was confirmed.
    """
    from cli.simulate import Run, run  # noqa: PLC0415 - the other commands need none of it
    from pisync import logs, settings  # noqa: PLC0415

    loaded = settings.load(settings.CommonSettings, mqtt_url=mqtt_url)
    logs.configure(loaded)
    status = run(
        Run(
            settings=loaded,
            devices=devices,
            events=events,
            seed=seed,
            connections=connections,
            timeout_s=timeout_s,
            failing=failing,
            array_events=array_events,
            receipt_timeout_s=receipt_timeout_s,
            report=report,
        )
    )
    raise typer.Exit(status)
