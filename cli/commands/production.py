"""The commands of a production set-up: `pisync init-production` and `pisync init-mongodb`."""

from pathlib import Path
from typing import Annotated

import typer


def init_production(
    directory: Annotated[
        Path, typer.Argument(help="Where everything is written; made where it is not.", show_default=False)
    ],
    *,
    domain: Annotated[
        str | None,
        typer.Option(
            help="Name that devices and operators reach the system under; needed the first time.",
            show_default=False,
        ),
    ] = None,
    mosquitto: Annotated[
        str | None,
        typer.Option(
            help="Mosquitto's version: 2.1, or 2.0 for Debian's; without it, as before, or 2.1.",
            show_default=False,
        ),
    ] = None,
    renew: Annotated[
        bool, typer.Option("--renew", help="Issue the certificates of servers and programs anew.")
    ] = False,
    rotate: Annotated[
        list[str] | None,
        typer.Option(help="Give an account a new password, such as mongodb-bridge.", show_default=False),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; say what is missing or expires, and exit with 1.")
    ] = False,
) -> None:
    """Make the secrets, certificates and access files of a production set-up; what is there stays.

    docs/operations.md, "In production", has the steps before and after.
    """
    from cli.production import run  # noqa: PLC0415 - the other commands need none of it

    if check:
        raise typer.Exit(run.show_findings(directory))
    run.run(directory, domain, mosquitto, renew=renew, rotate=rotate or [])


def init_mongodb(
    users: Annotated[
        Path, typer.Argument(help="The list that `pisync init-production` wrote.", show_default=False)
    ],
    *,
    url: Annotated[
        str,
        typer.Option(help="MongoDB at its own loopback address; the first user is created only from there."),
    ] = "mongodb://localhost:27017",
    ca_file: Annotated[
        Path | None,
        typer.Option(help="Authority (PEM) that MongoDB's certificate is of.", show_default=False),
    ] = None,
) -> None:
    """Make MongoDB's users and roles what this version wants; passwords that differ are changed."""
    from cli.production import users as listed  # noqa: PLC0415 - the other commands need none of it

    listed.apply(users, url, ca_file)
