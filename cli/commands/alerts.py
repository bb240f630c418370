"""The `pisync alerts` command."""

from enum import StrEnum
from typing import Annotated

import typer

from cli.commands import options
from cli.commands.options import Api, Shown, takes
from pisync.domain.alerts import Rule


class AlertState(StrEnum):
    """Which alerts are listed."""

    OPEN = "open"
    CLOSED = "closed"
    ALL = "all"


@takes(shown=options.shown, api=options.api)
def alerts(
    *,
    state: Annotated[AlertState, typer.Option(help="Which alerts.")] = AlertState.OPEN,
    rule: Annotated[Rule | None, typer.Option(help="Only alerts of this rule.", show_default=False)] = None,
    device_id: Annotated[
        str | None, typer.Option("--device", help="Only alerts of this device.", show_default=False)
    ] = None,
    acknowledged: Annotated[
        bool | None,
        typer.Option(
            "--acknowledged/--not-acknowledged",
            help="Only alerts that are acknowledged, or only the others.",
            show_default=False,
        ),
    ] = None,
    folded: Annotated[
        bool | None,
        typer.Option(
            "--folded/--lone",
            help="Only alerts that an open incident explains, or only the others.",
            show_default=False,
        ),
    ] = None,
    shown: Shown,
    api: Api,
) -> None:
    """List alerts, newest first, and what operators said of them."""
    from cli import listing  # noqa: PLC0415 - the other commands need none of it
    from cli.devices import ALERTS  # noqa: PLC0415

    with api.connect() as client:
        which = {
            "state": state,
            "rule": rule,
            "device_id": device_id,
            "acknowledged": acknowledged,
            "folded": folded,
        }
        listing.show(client, ALERTS, which, shown)
