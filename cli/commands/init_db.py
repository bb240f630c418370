"""The `pisync init-db` command."""

from typing import Annotated

import typer


def init_db(
    *,
    shard: Annotated[
        bool,
        typer.Option("--shard", help="Shard the events by bucket; MongoDB is a cluster behind a mongos."),
    ] = False,
) -> None:
    """Make the events' indexes in MongoDB, as the first bridge would; may be repeated.

    With --shard, best before there is any event, the cluster splits them by bucket; what was done is printed,
    and written to `schema`. See docs/mongodb.md.
    """
    from cli.init_db import run  # noqa: PLC0415 - the other commands need none of it
    from pisync import logs, settings  # noqa: PLC0415

    loaded = settings.load(settings.CommonSettings)
    logs.configure(loaded)
    run(loaded, shard=shard)
