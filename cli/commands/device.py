"""The `pisync device` command."""

from cli.commands import options
from cli.commands.options import Api, AsJson, DeviceId, Shape, takes


@takes(api=options.api)
def device(device_id: DeviceId, *, as_json: AsJson = False, api: Api) -> None:
    """Show one device: how it is and why, its last 64 days, its facts, its alert and its last syncs."""
    from cli import device as run  # noqa: PLC0415 - the other commands need none of it

    with api.connect() as client:
        run.show(client, device_id, Shape.JSON if as_json else Shape.TABLE)
