"""The `pisync keys` commands, which work in MongoDB directly: the first key cannot be asked of the api."""

from typing import Annotated

import typer

from pisync.domain.access import Role

keys = typer.Typer(
    name="keys",
    help="The keys of the api: who may read, ingest, operate, or do all. Works in MongoDB directly.",
    no_args_is_help=True,
)


@keys.command(epilog="Example: pisync keys create gateway-kampala --role ingest --expires 90d")
def create(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="By which actions tell its holder.", show_default=False)
    ],
    *,
    role: Annotated[
        list[Role],
        typer.Option(
            help="What it opens: read; ingest (POST /api/sync-event); operate (and read); admin (all). May be"
            " repeated.",
            show_default=False,
        ),
    ],
    expires: Annotated[
        str | None, typer.Option(help="After how long, such as 90d; without it, never.", show_default=False)
    ] = None,
) -> None:
    """Make a key, and print it: once, on standard output. What else is said goes to standard error.

    The first key that there ever was closes an api that is open to everybody on this machine.
    """
    from cli import keys as run  # noqa: PLC0415 - the other commands need none of it
    from pisync import logs, settings  # noqa: PLC0415

    loaded = settings.load(settings.CommonSettings)
    logs.configure(loaded)
    run.create(loaded, name, role, expires)


@keys.command("list", epilog="Example: pisync keys list")
def list_all(*, json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """List the keys in MongoDB, also those that are revoked, and when each was used last."""
    from cli import keys as run  # noqa: PLC0415
    from pisync import logs, settings  # noqa: PLC0415

    loaded = settings.load(settings.CommonSettings)
    logs.configure(loaded)
    run.show(loaded, as_json=json)


@keys.command(epilog="Example: pisync keys revoke k3v9x0qa")
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.", show_default=False)],
) -> None:
    """Revoke a key for good; every api takes it up within 5 seconds."""
    from cli import keys as run  # noqa: PLC0415
    from pisync import logs, settings  # noqa: PLC0415

    loaded = settings.load(settings.CommonSettings)
    logs.configure(loaded)
    run.revoke(loaded, key_id)
