"""The `pisync history` command."""

from typing import Any

from cli.commands import options
from cli.commands.options import Api, DeviceId, Shown, takes


@takes(which=options.syncs, shown=options.shown, api=options.api)
def history(device_id: DeviceId, *, which: dict[str, Any], shown: Shown, api: Api) -> None:
    """List the syncs of one device, newest first."""
    from cli import listing  # noqa: PLC0415 - the other commands need none of it
    from cli.history import listing as history_of  # noqa: PLC0415

    with api.connect() as client:
        listing.show(client, history_of(device_id), which, shown)
