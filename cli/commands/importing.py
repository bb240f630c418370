"""The `pisync import` command."""

import typer

from cli.commands import archived
from cli.commands.options import takes


@takes(which=archived.archived)
def import_(*, which: archived.Archived) -> None:
    """Put an archive of `pisync export archive` back into MongoDB, then build the projection anew.

    Events come back as they were, with when they were received. Nothing that is stored is overwritten: the
    same again changes nothing, and a conflict is told and exits with 1. It may be interrupted at any time,
    and run again.
    """
    from cli.archive.run import run_import  # noqa: PLC0415
    from pisync import logs, settings  # noqa: PLC0415 - the other commands need none of it

    loaded = settings.load(settings.CommonSettings)
    logs.configure(loaded)
    raise typer.Exit(run_import(loaded, which))
