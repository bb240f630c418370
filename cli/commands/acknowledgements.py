"""The `pisync acknowledgements` commands, which work over the HTTP api."""

from enum import StrEnum
from typing import Annotated

import typer

from cli.commands import options
from cli.commands.options import Api, AsJson, Shown, takes
from pisync import limits
from pisync.domain.acknowledgements import SubjectKind

acknowledgements = typer.Typer(
    name="acknowledgements",
    help="What operators know of, and until when it is quiet: list it, say it, take it back."
    " Asks a running api.",
    no_args_is_help=True,
)


class AcknowledgementState(StrEnum):
    """Which acknowledgements are listed."""

    OPEN = "open"
    ENDED = "ended"
    ALL = "all"


class Kind(StrEnum):
    """What is acknowledged: an alert by its id, the open alerts of a device, or a cause by its code."""

    ALERT = "alert"
    DEVICE = "device"
    CAUSE = "cause"


OfKind = Annotated[
    Kind,
    typer.Argument(
        metavar="KIND", help="`alert`, `device` (its open alerts) or `cause`.", show_default=False
    ),
]
Target = Annotated[
    str, typer.Argument(metavar="ID", help="The alert's id, the device's, or the code.", show_default=False)
]
By = Annotated[
    str | None,
    typer.Option(
        help="Who says it. It is put before the reason, for keys of the api have no names.",
        show_default=False,
    ),
]


@acknowledgements.command("list", epilog="Example: pisync acknowledgements list --state open")
@takes(shown=options.shown, api=options.api)
def show_list(
    *,
    state: Annotated[AcknowledgementState, typer.Option(help="Which.")] = AcknowledgementState.ALL,
    kind: Annotated[SubjectKind | None, typer.Option(help="Only those of these.", show_default=False)] = None,
    shown: Shown,
    api: Api,
) -> None:
    """List who acknowledged what, newest first, why, until when, and how it ended."""
    from cli import listing  # noqa: PLC0415 - the other commands need none of it
    from cli.acknowledging import ACKNOWLEDGEMENTS  # noqa: PLC0415

    with api.connect() as client:
        listing.show(client, ACKNOWLEDGEMENTS, {"state": state, "kind": kind}, shown)


@acknowledgements.command(
    epilog="Example: pisync acknowledgements acknowledge cause E_TIMEOUT --more-devices 10 --by Ada"
)
@takes(api=options.api)
def acknowledge(
    kind: OfKind,
    target: Target,
    *,
    until: Annotated[
        str,
        typer.Option(
            help="`recovery`, or when it is loud again: a moment such as 2026-12-01T00:00:00Z, or after so"
            " long, such as 7d."
        ),
    ] = "recovery",
    more_devices: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=limits.ACKNOWLEDGEMENT_MORE_DEVICES_MAX,
            help="Of a cause, instead of --until: once so many more devices fail by it.",
            show_default=False,
        ),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, for those who ask later.", show_default=False)] = "",
    by: By = None,
    as_json: AsJson = False,
    api: Api,
) -> None:
    """Have an alert, the open alerts of a device, or a cause quiet until then.

    May be repeated; what is said anew takes the place of what was said. Exits with 1 where there is no such
    alert, or nothing fails so any more.
    """
    from cli import acknowledging as run  # noqa: PLC0415

    if more_devices is not None and (kind is not Kind.CAUSE or until != "recovery"):
        raise typer.BadParameter("--more-devices is for a cause, and stands alone")
    said = run.Said(until=until, more_devices=more_devices, reason=reason, by=by)
    with api.connect() as client:
        run.acknowledge(client, kind, target, said, as_json=as_json)


@acknowledgements.command(epilog="Example: pisync acknowledgements withdraw cause E_TIMEOUT")
@takes(api=options.api)
def withdraw(kind: OfKind, target: Target, *, as_json: AsJson = False, api: Api) -> None:
    """Have it loud again. Exits with 1 where it is not acknowledged."""
    from cli import acknowledging as run  # noqa: PLC0415

    with api.connect() as client:
        run.withdraw(client, kind, target, as_json=as_json)
