"""The commands `pisync up` and `pisync doctor`."""

from pathlib import Path
from typing import Annotated

import typer

_PORT = {"min": 1, "max": 65535, "show_default": False}


def up(
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Where data and logs are kept from run to run. Without it they are in a temporary"
            " directory and gone at the end.",
            show_default=False,
        ),
    ] = None,
    mqtt_port: Annotated[
        int | None, typer.Option(help="Port of the broker; without it 11883 or the next free one.", **_PORT)
    ] = None,
    mongodb_port: Annotated[
        int | None, typer.Option(help="Port of MongoDB; without it a free one.", **_PORT)
    ] = None,
    redis_port: Annotated[
        int | None, typer.Option(help="Port of Redis; without it a free one.", **_PORT)
    ] = None,
    http_port: Annotated[
        int | None, typer.Option(help="Port of the api; without it 8080 or the next free one.", **_PORT)
    ] = None,
    bridges: Annotated[int, typer.Option(min=1, max=16, help="Bridges that share the work.")] = 1,
    secure: Annotated[
        bool,
        typer.Option(
            help="Run the broker with TLS and access control, as one that devices reach over a network: an"
            " authority, an account for each program and a certificate for one device are made in the data"
            " directory."
        ),
    ] = False,
    demo: Annotated[
        bool,
        typer.Option(
            help="Begin an empty data directory with a made-up fleet and five weeks of its syncs, and have it"
            " go on syncing a few times a minute."
        ),
    ] = False,
    devices: Annotated[
        int, typer.Option(min=0, max=100_000, help="Devices of a simulated fleet that runs once; 0: none.")
    ] = 0,
    events: Annotated[
        int, typer.Option(min=1, max=10_000, help="Sync events of each simulated device.")
    ] = 50,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Makes the same fleet again; random without it.", show_default=False),
    ] = None,
) -> None:
    """Run everything here: broker, MongoDB, Redis, bridges, api and worker. Ctrl-C stops it all."""
    from cli.stack import serve  # noqa: PLC0415
    from local_stack.local import StackPlan  # noqa: PLC0415 - the other commands need none of it
    from local_stack.services import SimulationPlan  # noqa: PLC0415

    serve(
        StackPlan(
            data=data,
            mqtt_port=mqtt_port,
            mongodb_port=mongodb_port,
            redis_port=redis_port,
            http_port=http_port,
            bridges=bridges,
            secure=secure,
            demo=demo,
            simulation=SimulationPlan(devices=devices, events=events, seed=seed) if devices else None,
        )
    )


def doctor() -> None:
    """Say what the local stack needs, what of it is missing here, and how to get that."""
    from cli.doctor import examine, show  # noqa: PLC0415 - the other commands need none of it

    raise typer.Exit(show(examine()))
