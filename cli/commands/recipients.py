"""The `pisync recipients` commands, which work over the HTTP api."""

from typing import Annotated

import typer

from cli.commands.options import Key, Url
from pisync.domain.recipients import Channel, Mode, Topic

recipients = typer.Typer(
    name="recipients",
    help="Who is told of incidents and alerts, by webhook, mail or Apprise. Asks a running api.",
    no_args_is_help=True,
)

RecipientId = Annotated[str, typer.Argument(help="The recipient's id.", show_default=False)]


@recipients.command("list", epilog="Example: pisync recipients list")
def list_all(
    *,
    json: Annotated[bool, typer.Option("--json", help="As JSON, with the last attempts.")] = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """List who is told, and since when somebody cannot be reached."""
    from cli import recipients as run  # noqa: PLC0415 - the other commands need none of it
    from cli.api_client import connect  # noqa: PLC0415

    with connect(url, key) as client:
        run.show(client, as_json=json)


@recipients.command(
    "set", epilog="Example: pisync recipients set office --kind email --address it@example.org"
)
def set_one(
    recipient_id: RecipientId,
    *,
    kind: Annotated[Channel | None, typer.Option(help="By what it is reached.", show_default=False)] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="A webhook's URL, a mail address, or a URL as Apprise has it; `-`: read from standard input,"
            " as what is secret should not stand in a command.",
            show_default=False,
        ),
    ] = None,
    site: Annotated[list[str] | None, typer.Option(help="Only of this site; may be repeated.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Only of this label; may be repeated.")] = None,
    topic: Annotated[list[Topic] | None, typer.Option(help="Only of this; may be repeated.")] = None,
    mode: Annotated[Mode | None, typer.Option(help="At once, or each morning.", show_default=False)] = None,
    morning: Annotated[str | None, typer.Option(help="When a digest is sent, such as 07:00.")] = None,
    time_zone: Annotated[str | None, typer.Option(help="Of these times, such as Africa/Kampala.")] = None,
    quiet_hours: Annotated[
        str | None, typer.Option(help="Such as 22:00-06:00; `none`: there are none.")
    ] = None,
    still_open_hours: Annotated[
        int | None, typer.Option(help="Each so many hours it is told what still is open; 0: never.")
    ] = None,
    disabled: Annotated[
        bool | None, typer.Option("--disable/--enable", help="Tell it nothing, or again.", show_default=False)
    ] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Change what is said of a recipient, or add one. The key that signs for a new webhook is shown once."""
    from cli import recipients as run  # noqa: PLC0415
    from cli.api_client import connect  # noqa: PLC0415

    given = {
        "kind": kind,
        "address": address,
        "sites": site,
        "labels": label,
        "topics": topic,
        "mode": mode,
        "morning": morning,
        "time_zone": time_zone,
        "quiet_hours": quiet_hours,
        "still_open_hours": still_open_hours,
        "disabled": disabled,
    }
    with connect(url, key) as client:
        run.set_one(client, recipient_id, {name: each for name, each in given.items() if each is not None})


@recipients.command(epilog="Example: pisync recipients remove office")
def remove(recipient_id: RecipientId, *, url: Url = None, key: Key = None) -> None:
    """Tell it nothing any more, also of what waits."""
    from cli import recipients as run  # noqa: PLC0415
    from cli.api_client import connect  # noqa: PLC0415

    with connect(url, key) as client:
        run.remove(client, recipient_id)


@recipients.command("test", epilog="Example: pisync recipients test office")
def send_test(recipient_id: RecipientId, *, url: Url = None, key: Key = None) -> None:
    """Send a test, and say what became of it; exits with 1 where it was not sent."""
    from cli import recipients as run  # noqa: PLC0415
    from cli.api_client import connect  # noqa: PLC0415

    with connect(url, key) as client:
        raise typer.Exit(run.send_test(client, recipient_id))
