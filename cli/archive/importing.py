"""Puts an archive back into MongoDB: each file is compared with its manifest before any of it is stored."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TypeVar

from cli.archive import manifests, places
from cli.archive.exporting import finished_days, newest_facts
from cli.archive.manifests import FactsManifest
from cli.archive.parquet import read_documents, read_events
from cli.archive.places import Place
from pisync.errors import ArchiveUnusable
from pisync.stores.mongodb.archived import KEPT, MongoArchived, PutBack

Update = Callable[[int, int], None]
Row = TypeVar("Row")


class Import:
    """One run of an import; nothing that is stored is overwritten, so that it may be repeated."""

    def __init__(self, target: MongoArchived, place: Place, progress: Update) -> None:
        self._target = target
        self._place = place
        self._progress = progress
        self.events = PutBack()
        self.documents = PutBack()

    @property
    def has_begun(self) -> bool:
        """Whether anything of the archive was put back, or was there already."""
        return self.events != PutBack() or self.documents != PutBack()

    async def run(self, since: datetime, until: datetime, *, with_facts: bool) -> None:
        """Put back the facts, then the days.

        Raises:
            ArchiveUnusable: there is no archive, or a file is not what its manifest says: what came before is
                stored, and another run goes on.
            MongodbUnavailable: MongoDB is unavailable; another run goes on.
        """
        days = await asyncio.to_thread(finished_days, self._place)
        facts = await asyncio.to_thread(newest_facts, self._place) if with_facts else None
        if not days and facts is None:
            raise ArchiveUnusable(f"{self._place.told('')}: there is no archive")
        if facts is not None:
            await self._target.prepare()
            await self._put_facts(*facts)
        wanted = {day: manifest for day, manifest in days.items() if since <= day < until}
        total, done = sum(manifest.events.rows for manifest in wanted.values()), 0
        for manifest in wanted.values():
            path = f"{manifests.folder(manifest.day)}/{manifests.EVENTS_FILE}"
            await asyncio.to_thread(places.compare, self._place, path, manifest.events)
            reading = read_events(self._place, path)
            while rows := await asyncio.to_thread(_next, reading):
                self.events.add(await self._target.put_events(rows))
                done += len(rows)
                self._progress(done, total)

    async def _put_facts(self, folder: str, manifest: FactsManifest) -> None:
        unknown = manifest.collections.keys() - set(KEPT)
        if unknown:
            raise ArchiveUnusable(
                f"{self._place.told(folder)}: this program does not know {', '.join(sorted(unknown))}:"
                " update it"
            )
        for collection in KEPT:
            if collection in manifest.collections:
                path = f"{folder}/{collection}.parquet"
                file = manifest.collections[collection]
                await asyncio.to_thread(places.compare, self._place, path, file)
                reading = read_documents(self._place, path)
                while documents := await asyncio.to_thread(_next, reading):
                    self.documents.add(await self._target.put_documents(collection, documents))


def _next(reading: Iterator[list[Row]]) -> list[Row] | None:
    return next(reading, None)
