"""The options of the commands that write or read an archive."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import typer

S3 = "An archive in S3"


@dataclass(frozen=True, kw_only=True, slots=True)
class Archived:
    """An archive's address, and what of it is meant: days from `since` on and before `until`."""

    address: str
    since: datetime
    until: datetime
    with_facts: bool
    endpoint: str | None
    region: str | None


def archived(
    *,
    address: Annotated[
        str,
        typer.Argument(metavar="ARCHIVE", help="A directory, or s3://BUCKET/PREFIX.", show_default=False),
    ],
    since: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="The first day of receipt (UTC).", show_default=False),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"], help="The day of receipt (UTC) before which it ends.", show_default=False
        ),
    ] = None,
    events_only: Annotated[
        bool,
        typer.Option("--events-only", help="Without dead letters, the directory and what operators did."),
    ] = False,
    endpoint: Annotated[
        str | None,
        typer.Option(
            envvar="AWS_ENDPOINT_URL",
            help="URL of a server of S3 that is not Amazon's. Credentials come from AWS_ACCESS_KEY_ID and"
            " AWS_SECRET_ACCESS_KEY, or where else AWS's tools look.",
            show_default=False,
            rich_help_panel=S3,
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            envvar=["AWS_REGION", "AWS_DEFAULT_REGION"],
            help="Its region.",
            show_default=False,
            rich_help_panel=S3,
        ),
    ] = None,
) -> Archived:
    """Which archive, and what of it."""
    if since is not None and until is not None and since >= until:
        raise typer.BadParameter("it is not after the first day, so that there is none", param_hint="--until")
    return Archived(
        address=address,
        since=datetime.min.replace(tzinfo=UTC) if since is None else since.replace(tzinfo=UTC),
        until=datetime.max.replace(tzinfo=UTC) if until is None else until.replace(tzinfo=UTC),
        with_facts=not events_only,
        endpoint=endpoint,
        region=region,
    )
