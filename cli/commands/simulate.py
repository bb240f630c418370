"""The `pisync simulate` command."""

from pathlib import Path
from typing import Annotated

import typer


def simulate(
    *,
    mqtt_url: Annotated[
        str | None, typer.Option(help="Broker; without it, PISYNC_MQTT_URL.", show_default=False)
    ] = None,
    certificates: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Connect each device with its own certificate, DIR/ID.pem with DIR/ID.key, as `pisync"
            " devices issue` writes them; for mqtts://.",
            show_default=False,
        ),
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option(
            help="The authorities that the broker's certificate is checked against; without it,"
            " PISYNC_MQTT_CA_FILE.",
            show_default=False,
        ),
    ] = None,
    scenario: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="What happens, in place of a made-up fleet: a name of `pisync scenarios`, or a .toml file.",
            show_default=False,
        ),
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100_000,
            help="Devices in the fleet; without it, as many as the scenario says, or 20.",
            show_default=False,
        ),
    ] = None,
    events: Annotated[
        int, typer.Option(min=1, max=10_000, help="Sync events of each device, without a scenario.")
    ] = 50,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Makes the same fleet again; random without it.", show_default=False),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            help="When the story ends, such as 2026-05-08T12:00:00Z; without it, now. With a seed, all is the"
            " same again, byte for byte.",
            show_default=False,
        ),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            metavar="FILE.csv",
            help="Write the scenario's devices for `pisync directory import`, and its sites to"
            " FILE-sites.csv; `-`: only print the devices.",
            show_default=False,
        ),
    ] = None,
    audit: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="When all is confirmed, ask the api at this address whether it knows every event, state and"
            " rejection as it was; the key is the first in PISYNC_API_KEYS.",
            show_default=False,
        ),
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
    json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON instead of a table.")
    ] = False,
    speed: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="How many times faster than in the scenario time passes; without it, as fast as can be.",
            show_default=False,
        ),
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=RATE",
            help="What devices do wrong, and how often (0 to 1): duplicates, disorder, truncations,"
            " disconnects, slow_receipts, identity_lies. May be repeated; replaces what the scenario says.",
            show_default=False,
        ),
    ] = None,
    connect_rate: Annotated[
        float, typer.Option(min=1.0, help="Connections made in a second, at most.")
    ] = 2000.0,
    local_address: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address of this machine to connect from; may be repeated. Each has about 28,000 ports.",
            show_default=False,
        ),
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, max=64, help="Processes that share the devices and the connections.")
    ] = 1,
    stay: Annotated[
        bool, typer.Option("--stay", help="Devices stay connected until the last one is done.")
    ] = False,
) -> None:
    """Simulate a fleet: devices go offline, come back, publish their backlog and wait for receipts.

    Exits with 0 only when every event was confirmed, and, with --audit, is known as it was.
    """
    from cli import scenarios  # noqa: PLC0415 - the other commands need none of it
    from cli.simulate import Run, run  # noqa: PLC0415
    from device_sim.faults import read_rates  # noqa: PLC0415
    from pisync import logs, settings  # noqa: PLC0415

    loaded = settings.load(settings.CommonSettings, mqtt_url=mqtt_url, mqtt_ca_file=ca_file)
    logs.configure(loaded)
    fleet = scenarios.fleet(
        scenarios.Asked(
            scenario=scenario,
            seed=seed,
            until=until,
            devices=devices,
            events=events,
            failing=failing,
            array_events=array_events,
        )
    )
    if directory is not None and scenarios.write_directory(fleet, directory):
        raise typer.Exit
    what = Run(
        settings=loaded,
        certificates=certificates,
        connections=connections,
        timeout_s=timeout_s,
        receipt_timeout_s=receipt_timeout_s,
        connect_rate=connect_rate,
        local_addresses=tuple(local_address or ()),
        processes=processes,
        speed=speed,
        faults=read_rates(fault) if fault else None,
        stays=stay,
        prints_json=json,
        report=report,
    )
    judge = scenarios.auditor(audit, fleet, what.faults)
    raise typer.Exit(judge(run(what, fleet)))
