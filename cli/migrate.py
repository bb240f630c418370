"""What `pisync migrate` prints and does around the work."""

import uvloop
from rich.console import Console

from cli.progress import progress
from pisync.settings import CommonSettings
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.migration import migrate


def run(settings: CommonSettings) -> None:
    """Bring what MongoDB holds to the version of this program.

    Raises:
        PiSyncError: it is not done, and why; another run goes on.
    """
    uvloop.run(_main(settings))


async def _main(settings: CommonSettings) -> None:
    connection = MongoConnection(settings.mongodb_url)
    try:
        with progress("Moving", "events") as update:
            moved = await migrate(connection, update)
    finally:
        await connection.close()
    Console().print(f"{moved:,} events were moved; everything is of this program's version.", highlight=False)
