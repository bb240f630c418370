"""The one fleet in memory of a worker: all duties that need it share it, while at least one runs here."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fleet.directory import DirectoryReader
from fleet.feeding import Feeding, ListeningReader
from pisync.stores.interfaces.projection import ProjectionReader
from pisync.stores.known_bridges import KnownBridges
from pisync.tasks import supervise


@dataclass(eq=False, kw_only=True, slots=True)
class _Kept:
    """A fleet for as long as anybody uses it."""

    feeding: Feeding
    users: int = 0
    is_unused: asyncio.Event = field(default_factory=asyncio.Event)


class SharedFleet:
    """Keeps a fleet fresh while it is used, and the bridges known by which its projection is complete."""

    def __init__(
        self,
        *,
        projection: ProjectionReader,
        directory: DirectoryReader,
        listening: ListeningReader,
        known_bridges: KnownBridges,
    ) -> None:
        """Prepare; nothing is read before somebody uses it."""
        self._projection = projection
        self._directory = directory
        self._listening = listening
        self._known_bridges = known_bridges
        self._kept: _Kept | None = None
        self._is_used = asyncio.Event()

    @contextmanager
    def used(self) -> Iterator[Feeding]:
        """The fleet that all users share while the context lasts; it is read while `run` runs."""
        if self._kept is None:
            self._kept = _Kept(
                feeding=Feeding(
                    projection=self._projection, directory=self._directory, listening=self._listening
                )
            )
            self._is_used.set()
        kept = self._kept
        kept.users += 1
        try:
            yield kept.feeding
        finally:
            kept.users -= 1
            if not kept.users:
                self._kept = None
                kept.is_unused.set()

    async def run(self) -> None:
        """Keep what is used fresh, until cancelled."""
        while True:
            await self._is_used.wait()
            self._is_used.clear()
            await self._keep_fresh()

    async def _keep_fresh(self) -> None:
        kept = self._kept
        if kept is None:
            return
        works = {"fleet": kept.feeding.run(), "known bridges": self._known_bridges.run()}
        async with supervise(works) as running:
            await running.until(kept.is_unused)
