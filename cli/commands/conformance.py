"""The `pisync conformance` command."""

from typing import Annotated

import typer


def conformance(
    *,
    device_id: Annotated[str, typer.Option("--device", help="The device's id.", show_default=False)],
    duration: Annotated[
        str, typer.Option(help="How long to watch, such as 90s, 30m or 1h; Ctrl-C ends it sooner.")
    ] = "10m",
    puback_wait: Annotated[
        str,
        typer.Option(help="How long the device waits for a PUBACK, where it was told another time."),
    ] = "20s",
    mqtt_url: Annotated[
        str | None, typer.Option(help="Broker; without it, PISYNC_MQTT_URL.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The verdicts as JSON, and nothing else.")] = False,
) -> None:
    """Watch a device's topics, and say which rules of the protocol it keeps, breaks, or did not come to.

    It only subscribes: what no message shows, such as the session, is not judged. Exits with 0 only where no
    rule was broken.
    """
    from cli.conformance import Watch, run  # noqa: PLC0415 - the other commands need none of it
    from cli.durations import seconds  # noqa: PLC0415
    from pisync import logs, settings  # noqa: PLC0415
    from pisync.domain import topics  # noqa: PLC0415

    if not topics.is_device_id(device_id):
        raise typer.BadParameter(f"a device id is {topics.DEVICE_ID_RULE}")
    loaded = settings.load(settings.CommonSettings, mqtt_url=mqtt_url)
    logs.configure(loaded)
    watch = Watch(
        settings=loaded,
        device_id=device_id,
        duration_s=seconds("--duration", duration),
        puback_wait_s=seconds("--puback-wait", puback_wait),
        as_json=as_json,
    )
    raise typer.Exit(run(watch))
