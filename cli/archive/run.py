"""What the commands about archives do around the work: open, show the progress, print the result."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import uvloop
from rich.console import Console
from rich.text import Text

from cli import rebuild
from cli.archive import places
from cli.archive.checking import check
from cli.archive.exporting import Export
from cli.archive.importing import Import
from cli.archive.places import Place, S3Options
from cli.commands.archived import Archived
from cli.progress import progress
from pisync import limits
from pisync.errors import PiSyncError
from pisync.settings import CommonSettings
from pisync.stores.mongodb.archived import MongoArchived, PutBack
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.events import MongoEventStore


def run_export(settings: CommonSettings, which: Archived) -> int:
    """Write what the archive lacks; returns the exit code.

    Raises:
        PiSyncError: it is not done, and why; another run goes on.
    """
    return uvloop.run(_export(settings, which))


def run_check(settings: CommonSettings, which: Archived) -> int:
    """Compare the archive with its manifests and with MongoDB; returns the exit code.

    Raises:
        PiSyncError: MongoDB or the archive cannot be reached.
    """
    return uvloop.run(_check(settings, which))


def run_import(settings: CommonSettings, which: Archived) -> int:
    """Put the archive back, and build the projection anew; returns the exit code.

    Raises:
        PiSyncError: it is not done, and why; another run goes on.
    """
    conflicts = uvloop.run(_import(settings, which))
    try:
        code = rebuild.run(settings, check=False)
    except (PiSyncError, KeyboardInterrupt):
        _print("The projection and the rollups are not made anew of it. Left to do:")
        _print("    pisync rebuild")
        raise
    return 1 if conflicts else code


@asynccontextmanager
async def _opened(settings: CommonSettings, which: Archived) -> AsyncIterator[tuple[MongoConnection, Place]]:
    place = await asyncio.to_thread(
        places.at, which.address, S3Options(endpoint=which.endpoint, region=which.region)
    )
    connection = MongoConnection(settings.mongodb_url)
    try:
        yield connection, place
    finally:
        await connection.close()


async def _export(settings: CommonSettings, which: Archived) -> int:
    async with _opened(settings, which) as (connection, place):
        await MongoEventStore(connection).check_version()
        with progress("Exporting", "events") as update:
            export = Export(MongoArchived(connection), place, update)
            told = await export.run(which.since, which.until, with_facts=which.with_facts)
    facts = f" and {told.documents:,} documents beside them" if which.with_facts else ""
    _print(
        f"{told.events:,} events of {told.days:,} days are written{facts}; {told.whole:,} days were whole"
        " already."
    )
    return 0


async def _check(settings: CommonSettings, which: Archived) -> int:
    async with _opened(settings, which) as (connection, place):
        with progress("Checking", "events") as update:
            source = MongoArchived(connection)
            found = await check(source, place, which.since, which.until, update)
    _list(found.notes, len(found.notes))
    _list(found.faults, len(found.faults))
    _print(f"{found.events:,} events of {found.days:,} days: {len(found.faults):,} differences.")
    return 1 if found.faults else 0


async def _import(settings: CommonSettings, which: Archived) -> int:
    async with _opened(settings, which) as (connection, place):
        await MongoEventStore(connection).prepare()
        work = None
        try:
            with progress("Importing", "events") as update:
                work = Import(MongoArchived(connection), place, update)
                await work.run(which.since, which.until, with_facts=which.with_facts)
        except (PiSyncError, asyncio.CancelledError):
            if work is not None and work.has_begun:
                _tell_imported(work)
                _print("It is not finished, and nothing is made anew of it yet. Left to do:")
                _print("    the same command once more: it goes on, and overwrites nothing")
            raise
    return _tell_imported(work)


def _tell_imported(work: Import) -> int:
    """Print what became of what was read; returns how many conflicts there were."""
    for name, told in (("events", work.events), ("documents beside them", work.documents)):
        _print(f"{name}: {_said(told)}.")
        _list(told.listed, told.conflicts)
    conflicts = work.events.conflicts + work.documents.conflicts
    if conflicts:
        _print("Of a conflict MongoDB keeps what it had; what the archive has of it was not taken in.")
    return conflicts


def _said(told: PutBack) -> str:
    enriched = f", {told.enriched:,} enriched" if told.enriched else ""
    return f"{told.stored:,} stored, {told.duplicates:,} duplicates{enriched}, {told.conflicts:,} conflicts"


def _list(lines: Sequence[str], count: int) -> None:
    # From files and stores, so not trusted to be free of markup.
    for line in lines[: limits.ARCHIVE_FAULTS_SHOWN_MAX]:
        Console(soft_wrap=True).print(Text(f"  {line}"))
    if (more := count - limits.ARCHIVE_FAULTS_SHOWN_MAX) > 0:
        _print(f"  and {more:,} more")


def _print(text: str) -> None:
    Console(soft_wrap=True).print(text, highlight=False, markup=False)
