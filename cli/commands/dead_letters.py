"""The `pisync dead-letters` commands, which work over the HTTP api."""

from pathlib import Path
from typing import Annotated

import typer

from cli.commands.options import Key, Url
from pisync.domain.events import Reason

dead_letters = typer.Typer(
    name="dead-letters",
    help="What could not be taken in: list it, look at it, try it again, save it, delete it."
    " Asks a running api.",
    no_args_is_help=True,
)

DeadLetterId = Annotated[str, typer.Argument(metavar="ID", show_default=False)]
OnlyReason = Annotated[
    Reason | None, typer.Option("--reason", help="Only dead letters rejected for this.", show_default=False)
]
_MOMENT = "such as 2026-05-08T12:00:00Z or 7d"
OnlyDevice = Annotated[
    str | None,
    typer.Option("--device", help="Only dead letters that came on this device's topic.", show_default=False),
]
Until = Annotated[
    str | None,
    typer.Option(help=f"Only dead letters first received before this moment, {_MOMENT}.", show_default=False),
]
Since = Annotated[
    str | None,
    typer.Option(
        help=f"Only dead letters first received from this moment on, {_MOMENT}.", show_default=False
    ),
]
Replayed = Annotated[
    bool | None,
    typer.Option(
        "--replayed/--not-replayed",
        help="Only dead letters of which a replay took something in, or only the others.",
        show_default=False,
    ),
]


@dead_letters.command("list", epilog="Example: pisync dead-letters list --reason clock_unset --since 7d")
def show_list(
    *,
    reason: OnlyReason = None,
    device: OnlyDevice = None,
    since: Since = None,
    until: Until = None,
    replayed: Replayed = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Dead letters to list, at most.")] = 50,
    url: Url = None,
    key: Key = None,
) -> None:
    """Show dead letters as a table, newest first."""
    from cli import dead_letters as run  # noqa: PLC0415 - the other commands need none of it
    from cli.api_client import connect  # noqa: PLC0415

    with connect(url, key) as client:
        run.show_list(
            client,
            {
                "reason": reason,
                "device_id": device,
                "since": since,
                "until": until,
                "replayed": replayed,
                "limit": limit,
            },
        )


@dead_letters.command(epilog="Example: pisync dead-letters show 3f6c0b5e9a1d4c27b8e0f1a2d3c4b5a6")
def show(dead_letter_id: DeadLetterId, *, url: Url = None, key: Key = None) -> None:
    """Show one dead letter and its payload, as text where it is text and else as base64."""
    from cli import dead_letters as run  # noqa: PLC0415
    from cli.api_client import connect  # noqa: PLC0415

    with connect(url, key) as client:
        run.show(client, dead_letter_id)


@dead_letters.command(epilog="Example: pisync dead-letters replay --reason refused")
def replay(
    dead_letter_ids: Annotated[list[str] | None, typer.Argument(metavar="ID…", show_default=False)] = None,
    *,
    reason: OnlyReason = None,
    device: OnlyDevice = None,
    since: Since = None,
    until: Until = None,
    every: Annotated[
        bool, typer.Option("--all", help="All dead letters that no replay took in yet.")
    ] = False,
    correction: Annotated[
        str | None,
        typer.Option(
            help="Send the events rejected as clock_ahead or clock_unset, and no others, with other times:"
            " received_at (the newest happened when its letter came), or what is added to the device's times,"
            " such as -60d or +1h30m. They are shown first, and sent once that is confirmed.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only say how many letters, or show what the correction would send."),
    ] = False,
    confirm: Annotated[
        str | None,
        typer.Option(help="Do not ask, where this is what --dry-run showed.", show_default=False),
    ] = None,
    confirmed_by: Annotated[
        str | None,
        typer.Option(help="Who confirms; without it, the name of the login.", show_default=False),
    ] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Publish dead letters again: those named, or all of a filter that no replay took in yet.

    Counts events, and names those that were rejected. Exits with 0 only when every event was taken in, now or
    before, and with 1 otherwise. Repeating is safe.
    """
    from cli import dead_letters as run  # noqa: PLC0415
    from cli import letter_replays  # noqa: PLC0415
    from cli.api_client import connect  # noqa: PLC0415

    chosen = {"reason": reason, "device_id": device, "since": since, "until": until, "replayed": False}
    if correction is None:
        if confirm is not None or confirmed_by is not None:
            raise typer.BadParameter("--confirm and --confirmed-by belong to a --correction")
        if dry_run and dead_letter_ids:
            raise typer.BadParameter("for named letters, --dry-run can only belong to a --correction")
        if [bool(dead_letter_ids), reason is not None, every].count(True) != 1:
            raise typer.BadParameter("give either ids, or --reason, or --all")
    elif every or not (dead_letter_ids or reason in letter_replays.CLOCK_REASONS):
        raise typer.BadParameter("a --correction is for ids, or for --reason clock_ahead or clock_unset")
    if dead_letter_ids and not device == since == until:
        raise typer.BadParameter("--device, --since and --until choose among letters that are not named")
    with connect(url, key) as client:
        if dry_run and correction is None:
            run.preview_replay(client, chosen)
            return
        ids = dead_letter_ids or run.find_ids(client, chosen)
        if correction is None:
            raise typer.Exit(letter_replays.replay(client, ids))
        stated = letter_replays.Stated(correction=correction, reason=reason, confirmed_by=confirmed_by)
        raise typer.Exit(letter_replays.correct(client, ids, stated, dry_run=dry_run, confirm=confirm))


@dead_letters.command(epilog="Example: pisync dead-letters export letters.ndjson")
def export(
    file: Annotated[Path, typer.Argument(dir_okay=False, show_default=False)],
    *,
    yes: Annotated[
        bool, typer.Option("--yes", help="Overwrite a file that is there without asking.")
    ] = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Write all dead letters to a file, one JSON object a line, the payload in `raw_base64`.

    Only its owner can read the file.
    """
    from cli import dead_letters as run  # noqa: PLC0415
    from cli.api_client import connect  # noqa: PLC0415

    run.check_export(file, confirmed=yes)
    with connect(url, key) as client:
        run.export(client, run.find_ids(client, {}), file)


@dead_letters.command(epilog="Example: pisync dead-letters purge --reason schema --until 90d --dry-run")
def purge(
    *,
    reason: OnlyReason = None,
    device: OnlyDevice = None,
    since: Since = None,
    until: Until = None,
    replayed: Replayed = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many they are.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Delete dead letters for good: those that all the filters given choose; one is needed."""
    from cli import dead_letters as run  # noqa: PLC0415
    from cli.api_client import connect  # noqa: PLC0415

    query = {"reason": reason, "device_id": device, "since": since, "until": until, "replayed": replayed}
    if all(value is None for value in query.values()):
        raise typer.BadParameter("give a filter: --reason, --device, --since, --until or --replayed")
    with connect(url, key) as client:
        run.purge(client, query, dry_run=dry_run, confirmed=yes)
