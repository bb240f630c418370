"""The `pisync gateway` command."""

from pathlib import Path
from typing import Annotated

import typer

from cli.gateway import Version, allow, configuration, read_ids, write


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
    cert_file: Annotated[
        Path | None,
        typer.Option(
            help="The certificate on the PiBox that it shows to the broker in the cloud, its common name"
            " @gateway-ID; with --key-file.",
            show_default=False,
        ),
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="The key of that certificate on the PiBox.", show_default=False)
    ] = None,
    allows: Annotated[
        bool,
        typer.Option(
            "--allow",
            help="Have the broker in the cloud take the certificate, for these devices; as"
            " PISYNC_BROKER_ADMIN_URL.",
        ),
    ] = False,
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
    from pisync.mqtt.address import ClientCertificate  # noqa: PLC0415

    if (cert_file is None) != (key_file is None):
        raise typer.BadParameter("--cert-file and --key-file are given together, or neither")
    cloud = settings.load(settings.CommonSettings, mqtt_url=mqtt_url).mqtt
    if settings.is_loopback(cloud.host):
        typer.echo(f"{cloud.host} is the PiBox itself there: the cloud's address is --mqtt-url", err=True)
    shows = None
    if cert_file is not None and key_file is not None:
        shows = ClientCertificate(certificate=cert_file, key=key_file)
    listed = read_ids(device_ids or [], devices)
    text = configuration(gateway_id, cloud, listed, ca_file=ca_file, shows=shows, version=mosquitto)
    if allows:
        warden = settings.load(settings.WorkerSettings, mqtt_url=mqtt_url)
        if not warden.broker_admin_url:
            raise typer.BadParameter("--allow needs PISYNC_BROKER_ADMIN_URL")
        allow(warden, gateway_id, listed)
    if output is None:
        typer.echo(text, nl=False)
        return
    write(text, output)
    typer.echo(f"{output}: restart the PiBox's Mosquitto to take it up")
