"""The commands below `pisync devices`: who may connect, and by which certificate."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.commands import options
from cli.commands.options import Api, Shown, takes
from pisync import limits
from pisync.domain.credentials import Standing

WHICH = "Which devices"
Ids = Annotated[list[str] | None, typer.Argument(metavar="ID…", help="The devices' ids.", show_default=False)]
AuthorityDirectory = Annotated[
    Path,
    typer.Option(
        "--authority", help="The directory of the authority: ca.pem, ca.key, crl.pem.", show_default=False
    ),
]
By = Annotated[
    str | None,
    typer.Option("--who", help="Who does it, for the actions; without it, the login.", show_default=False),
]
Offline = Annotated[
    bool, typer.Option("--offline", help="MongoDB is not asked and told nothing: where the key is.")
]


def which(
    *,
    devices: Annotated[
        Path | None,
        typer.Option(
            help="A file with more ids: one in a line, or a CSV's first column.",
            show_default=False,
            rich_help_panel=WHICH,
        ),
    ] = None,
    from_directory: Annotated[
        bool,
        typer.Option(
            "--from-directory", help="All of the directory that are not retired.", rich_help_panel=WHICH
        ),
    ] = False,
    count: Annotated[
        int,
        typer.Option(
            min=0,
            help="For trials: the devices of `pisync simulate --devices N`.",
            show_default=False,
            rich_help_panel=WHICH,
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(help="The seed of those.", rich_help_panel=WHICH)] = 1,
) -> dict[str, Any]:
    """Which devices are meant, beside those whose ids are typed."""
    return {"file": devices, "of_directory": from_directory, "count": count, "seed": seed}


def output(
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="A directory for ID.pem, ID.key and MANIFEST.csv.", show_default=False
        ),
    ],
    days: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=limits.CERTIFICATE_DAYS_MAX,
            help=f"How long they are valid; without it {limits.DEVICE_CERTIFICATE_DAYS} days, and never"
            " longer than the authority.",
            show_default=False,
        ),
    ] = None,
    csr: Annotated[
        Path | None,
        typer.Option(help="The request of the one device, whose key stays there.", show_default=False),
    ] = None,
) -> dict[str, Any]:
    """Where certificates are written, and what they are like."""
    return {"directory": out, "days": days, "csr": csr}


def _asked(ids: list[str] | None, by: str | None, chosen: dict[str, Any], *, offline: bool = False) -> Any:
    from cli.credentials import Asked  # noqa: PLC0415 - the other commands need none of it

    who: dict[str, Any] = {} if by is None else {"by": by}
    return Asked(ids=ids or [], offline=offline, **chosen, **who)


@takes(chosen=which, given=output)
def issue(
    ids: Ids = None,
    *,
    authority: AuthorityDirectory,
    by: By = None,
    offline: Offline = False,
    chosen: dict[str, Any],
    given: dict[str, Any],
) -> None:
    """Issue each device a key and a certificate, as files; a device that has a valid one gets none.

    Nothing is overwritten, and the same command goes on where it was interrupted. Exits with 1 where a device
    got none.
    """
    from cli import credentials as work  # noqa: PLC0415 - the other commands need none of it

    asked = _asked(ids, by, chosen, offline=offline)
    raise typer.Exit(work.run(work.issue(authority, asked, given, beside=False)))


@takes(chosen=which, given=output)
def renew(
    ids: Ids = None,
    *,
    authority: AuthorityDirectory,
    by: By = None,
    offline: Offline = False,
    chosen: dict[str, Any],
    given: dict[str, Any],
) -> None:
    """Issue each device a certificate beside the one that it has, which stays valid until it ends.

    Into a directory of its own: nothing is overwritten.
    """
    from cli import credentials as work  # noqa: PLC0415 - the other commands need none of it

    asked = _asked(ids, by, chosen, offline=offline)
    raise typer.Exit(work.run(work.issue(authority, asked, given, beside=True)))


@takes(chosen=which)
def revoke(
    ids: Ids = None,
    *,
    authority: Annotated[
        Path | None,
        typer.Option(help="The directory of the authority, whose list is then written.", show_default=False),
    ] = None,
    serial: Annotated[
        list[str] | None,
        typer.Option(help="Only this certificate; may be given several times.", show_default=False),
    ] = None,
    by: By = None,
    offline: Offline = False,
    chosen: dict[str, Any],
) -> None:
    """Revoke what devices connect with, and their tokens; may be repeated.

    The worker takes them from the broker's list within seconds. Exits with 1 where a device never had a
    credential.
    """
    from cli import credentials as work  # noqa: PLC0415 - the other commands need none of it

    asked = _asked(ids, by, chosen, offline=offline)
    raise typer.Exit(work.run(work.revoke(authority, asked, serial or [])))


def password(
    device_id: Annotated[str, typer.Argument(metavar="ID", help="The device's id.", show_default=False)],
    *,
    days: Annotated[
        int, typer.Option(min=1, max=limits.CERTIFICATE_DAYS_MAX, help="How long it is valid.")
    ] = limits.DEVICE_CERTIFICATE_DAYS,
    by: By = None,
) -> None:
    """Give a device a password, shown once, where it cannot have a certificate; one that it had ends.

    The broker is told through PISYNC_BROKER_ADMIN_URL, and alone keeps what the password is checked by: where
    it loses its list, such devices are given new ones.
    """
    from cli import credentials as work  # noqa: PLC0415 - the other commands need none of it
    from cli import device_passwords  # noqa: PLC0415

    raise typer.Exit(work.run(device_passwords.give(_asked([device_id], by, {}), days)))


def import_files(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="FILE…", help="Certificates as PEM, or directories.", show_default=False),
    ],
    *,
    ca_file: Annotated[
        Path | None,
        typer.Option(help="The authorities that must have signed them.", show_default=False),
    ] = None,
    by: By = None,
) -> None:
    """Take certificates that another authority signed, or this one elsewhere: all, or with a fault none.

    No key is read.
    """
    from cli import credentials as work  # noqa: PLC0415 - the other commands need none of it

    raise typer.Exit(work.run(work.import_certificates(paths, _asked([], by, {}), ca_file)))


@takes(chosen=which)
def enrol_token(
    ids: Ids = None,
    *,
    expires: Annotated[str, typer.Option(help="How long it holds, such as 12h or 7d.")] = "7d",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A file; without it standard output.", show_default=False),
    ] = None,
    by: By = None,
    chosen: dict[str, Any],
) -> None:
    """Make a token for each device, shown once, by which it has its own key signed: POST /api/enrol."""
    from cli import credentials as work  # noqa: PLC0415 - the other commands need none of it
    from cli.durations import seconds  # noqa: PLC0415

    asked = _asked(ids, by, chosen)
    raise typer.Exit(work.run(work.invite(asked, seconds("--expires", expires), out)))


@takes(shown=options.shown, api=options.api)
def show_list(
    *,
    standing: Annotated[
        Standing | None, typer.Option(help="Only devices that stand so.", show_default=False)
    ] = None,
    expiring: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=limits.CERTIFICATE_DAYS_MAX,
            help="Only those whose last certificate ends within so many days.",
            show_default=False,
        ),
    ] = None,
    shown: Shown,
    api: Api,
) -> None:
    """List the devices that may connect, or might, with their certificates' ends. Asks a running api."""
    from cli import listing  # noqa: PLC0415 - the other commands need none of it
    from cli.credential_list import CREDENTIALS  # noqa: PLC0415

    with api.connect() as client:
        listing.show(client, CREDENTIALS, {"standing": standing, "expiring_days": expiring}, shown)


def authority(
    directory: Annotated[Path, typer.Argument(help="Its directory.", show_default=False)],
    *,
    create: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Make one with this name, where there is none.", show_default=False
        ),
    ] = None,
    renew: Annotated[bool, typer.Option("--renew", help="Sign its own certificate anew.")] = False,
    days: Annotated[
        int,
        typer.Option(min=1, max=limits.CERTIFICATE_DAYS_MAX, help="How long it is valid then."),
    ] = limits.AUTHORITY_DAYS,
) -> None:
    """Show a certificate authority, or make one, or renew it: with its name and its key as before."""
    from cli.credentials import show_authority  # noqa: PLC0415 - the other commands need none of it
    from pisync.pki import Authority  # noqa: PLC0415

    if create is not None:
        Authority.create(directory, name=create, days=days)
    elif renew:
        Authority.open(directory).renew(days=days)
    show_authority(directory)


def add_to(devices: typer.Typer) -> None:
    """Put the commands below `pisync devices`."""
    at = "--authority authority"
    devices.command(epilog=f"Example: pisync devices issue --devices pilot.csv {at} --out certificates")(
        issue
    )
    devices.command(epilog=f"Example: pisync devices renew PB-000123 {at} --out renewed")(renew)
    devices.command(epilog=f"Example: pisync devices revoke PB-000123 {at}")(revoke)
    devices.command(epilog="Example: pisync devices password PB-000123 --days 365")(password)
    devices.command("import", epilog="Example: pisync devices import signed/ --ca-file ministry.pem")(
        import_files
    )
    devices.command("list", epilog="Example: pisync devices list --expiring 30 --all")(show_list)
    devices.command("enrol-token", epilog="Example: pisync devices enrol-token PB-000123 --expires 7d")(
        enrol_token
    )
    devices.command(epilog='Example: pisync devices authority authority --create "Schools of Kampala"')(
        authority
    )
