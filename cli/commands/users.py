"""The `pisync users` commands, which work in MongoDB directly: the first user cannot be asked of the api."""

from typing import TYPE_CHECKING, Annotated

import typer

from pisync.domain.access import Role

if TYPE_CHECKING:
    from pisync.settings import CommonSettings

users = typer.Typer(
    name="users",
    help="Who signs in to the pages with a name and a password. Works in MongoDB directly.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.", show_default=False)]
GivenRole = Annotated[
    Role, typer.Option(help="What it may do: read; operate (and read); admin (all).", show_default=False)
]
FromStdin = Annotated[
    bool,
    typer.Option(
        "--password-stdin", help="Read the password from standard input, as a line; else it is asked for."
    ),
]


@users.command(epilog="Example: pisync users create ada --role operate")
def create(name: Name, *, role: GivenRole, password_stdin: FromStdin = False) -> None:
    """Add a user. The first that there ever was closes an api that is open to everybody on this machine."""
    from cli import users as run  # noqa: PLC0415 - the other commands need none of it

    run.create(_loaded(), name, role, from_stdin=password_stdin)


@users.command("list", epilog="Example: pisync users list")
def list_all(*, json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """List the users, and when each signed in last."""
    from cli import users as run  # noqa: PLC0415

    run.show(_loaded(), as_json=json)


@users.command(epilog="Example: pisync users password ada")
def password(name: Name, *, password_stdin: FromStdin = False) -> None:
    """Give a user another password, and sign it out everywhere."""
    from cli import users as run  # noqa: PLC0415

    run.set_password(_loaded(), name, from_stdin=password_stdin)


@users.command("role", epilog="Example: pisync users role ada --role admin")
def set_role(name: Name, *, role: GivenRole) -> None:
    """Give a user another role, and sign it out everywhere."""
    from cli import users as run  # noqa: PLC0415

    run.set_role(_loaded(), name, role)


@users.command(epilog="Example: pisync users disable ada")
def disable(name: Name) -> None:
    """Let a user sign in no more; every api takes it up within 5 seconds. It keeps its name."""
    from cli import users as run  # noqa: PLC0415

    run.set_disabled(_loaded(), name, disabled=True)


@users.command(epilog="Example: pisync users enable ada")
def enable(name: Name) -> None:
    """Let a user that was disabled sign in again, with the password that it had."""
    from cli import users as run  # noqa: PLC0415

    run.set_disabled(_loaded(), name, disabled=False)


def _loaded() -> "CommonSettings":
    from pisync import logs, settings  # noqa: PLC0415

    loaded = settings.load(settings.CommonSettings)
    logs.configure(loaded)
    return loaded
