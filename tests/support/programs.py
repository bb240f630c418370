"""PiSync's own programs as child processes, set up by environment variables alone."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo import AsyncMongoClient

from local_stack.process import ChildProcess
from pisync import settings
from tests.support.waiting import until


def program(name: str, log: Path, *options: str, **environment: object) -> ChildProcess:
    """`pisync NAME` with these settings and no others."""
    return ChildProcess(
        name,
        [sys.executable, "-m", "cli", name, *options],
        log=log,
        environment=settings.child_environment({key: str(value) for key, value in environment.items()}),
    )


@dataclass(frozen=True)
class Truth:
    """What MongoDB holds, seen past the product."""

    database: Any

    async def events(self) -> int:
        """How many events are stored."""
        count: int = await self.database.sync_events.count_documents({})
        return count

    async def has(self, count: int) -> None:
        """Wait until so many events are stored."""

        async def stored() -> bool:
            return await self.events() >= count

        await until(stored)


@asynccontextmanager
async def truth(mongodb_url: str) -> AsyncIterator[Truth]:
    """A look into MongoDB."""
    async with AsyncMongoClient[dict[str, Any]](mongodb_url, tz_aware=True) as client:
        yield Truth(client.get_default_database())
