"""The `pisync gateway` command."""

from pathlib import Path
from typing import Annotated

import typer

from cli.gateway import Version, configuration, read_ids, write


def gateway(
    gateway_id: Annotated[str, typer.Argument(metavar="ID", help="The PiBox's id.", show_default=False)],
    device_ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="DEVICE…", help="The devices of its classroom.", show_default=False),
    ] = None,
    *,
    mqtt_url: Annotated[
        str,
        typer.Option(
            envvar="PISYNC_MQTT_URL",
            help="The broker in the cloud, as the PiBox reaches it, such as mqtts://user:password@host.",
            show_default=False,
        ),
    ],
    devices: Annotated[
        Path | None,
        typer.Option(
            help="A file with more ids: one in a line, or a CSV's first column.", show_default=False
        ),
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option(help="The authorities on the PiBox; without it the system's.", show_default=False),
    ] = None,
    mosquitto: Annotated[Version, typer.Option(help="The version of the PiBox's Mosquitto.")] = Version.V2_0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A file; without it standard output.", show_default=False),
    ] = None,
) -> None:
    """Write what joins a PiBox's own Mosquitto to the broker in the cloud, for the devices of its classroom.

    Put the file into /etc/mosquitto/conf.d/ beside mosquitto/edge.conf; see docs/gateway.md.
    """
    from pisync import settings  # noqa: PLC0415 - the other commands need none of it

    cloud = settings.load(settings.CommonSettings, mqtt_url=mqtt_url).mqtt
    if settings.is_loopback(cloud.host):
        typer.echo(f"{cloud.host} is the PiBox itself there: the cloud's address is --mqtt-url", err=True)
    text = configuration(
        gateway_id, cloud, read_ids(device_ids or [], devices), ca_file=ca_file, version=mosquitto
    )
    if output is None:
        typer.echo(text, nl=False)
        return
    write(text, output)
    typer.echo(f"{output}: restart the PiBox's Mosquitto to take it up")
