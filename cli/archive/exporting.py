"""Writes an archive: each day of receipt that is not there whole yet, then the operators' facts.

A day whose events are all there is not read again, unless something was added to one of them since. A day of
which retention deletes events stays as it was written before. The facts come last, as in a replay: what of an
event was deleted meanwhile is in its device's base and in the rollups.

Nothing but retention deletes events. So where MongoDB has fewer of a day than the archive, it was emptied, or
went back to an older state, and then nothing of the archive is replaced by what is left.
"""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta

from cli.archive import manifests, places
from cli.archive.manifests import MANIFEST, PARTIAL, DayManifest, FactsManifest, File
from cli.archive.parquet import DOCUMENTS, EVENTS, Writer
from cli.archive.places import Place
from pisync import limits
from pisync.errors import ArchiveUnusable
from pisync.stores.mongodb.archived import KEPT, MongoArchived

Update = Callable[[int, int], None]


@dataclass(kw_only=True, slots=True)
class Exported:
    """What an export did: days and events that it wrote, days that were whole already, and documents."""

    days: int = 0
    events: int = 0
    whole: int = 0
    documents: int = 0


class Export:
    """One run of an export into a place."""

    def __init__(self, source: MongoArchived, place: Place, progress: Update) -> None:
        self._source = source
        self._place = place
        self._progress = progress
        self._told = Exported()
        self._passed = self._total = 0

    async def run(self, since: datetime, until: datetime, *, with_facts: bool) -> Exported:
        """Write what is missing; whatever is interrupted, another run goes on.

        Raises:
            ArchiveUnusable: something cannot be written, somebody else writes it, or MongoDB has fewer events
                than the archive.
            MongodbUnavailable: MongoDB is unavailable.
        """
        with ExitStack() as held:
            with places.reached(self._place, ""):
                held.enter_context(self._place.alone())
            return await self._run(since, until, with_facts=with_facts)

    async def _run(self, since: datetime, until: datetime, *, with_facts: bool) -> Exported:
        self._total = await self._source.events_about()
        written = await asyncio.to_thread(finished_days, self._place)
        await self._refuse_less(written)
        stale = await self._stale(written)
        async for day in self._source.days(since, until):
            before = written.get(day)
            if before is not None and not await self._changed(day, before, stale):
                self._told.whole += 1
                self._pass(before.events.rows)
            else:
                await self._write_day(day, before)
        if with_facts:
            await self._write_facts(await self._source.now())
        return self._told

    async def _refuse_less(self, written: dict[datetime, DayManifest]) -> None:
        """Return where MongoDB has all events of the newest day that was written, which go first."""
        newest = max(written, default=None)
        if newest is None:
            return
        count = await self._source.count(newest)
        if count < written[newest].events.rows and newest >= await self._source.deleted_before():
            raise self._less(written[newest], count)

    def _less(self, before: DayManifest, count: int) -> ArchiveUnusable:
        return ArchiveUnusable(
            f"{self._place.told(manifests.folder(before.day))}: {before.events.rows:,} events here,"
            f" {count:,} in MongoDB, which was emptied, or went back to an older state: nothing is replaced"
            " here. Put the archive back first (`pisync import`), or export to another one"
        )

    async def _changed(self, day: datetime, before: DayManifest, stale: set[datetime]) -> bool:
        """Whether a day that was written has to be written anew."""
        if before.is_settled and day not in stale and await self._is_there(before):
            return False
        return day >= await self._source.deleted_before()

    async def _is_there(self, before: DayManifest) -> bool:
        """Whether its file has as many bytes as it should; `--check` looks at each of them."""
        path = f"{manifests.folder(before.day)}/{manifests.EVENTS_FILE}"
        with places.reached(self._place, path):
            return await asyncio.to_thread(self._place.size, path) == before.events.size_bytes

    async def _stale(self, written: dict[datetime, DayManifest]) -> set[datetime]:
        """The days to which something was added since they were read, or maybe shortly before."""
        if not written:
            return set()
        margin = timedelta(seconds=limits.ARCHIVE_SETTLED_S)
        oldest = min(manifest.read_at for manifest in written.values()) - margin
        enriched = await self._source.enriched_since(oldest)
        return {day for day, at in enriched.items() if day in written and at >= written[day].read_at - margin}

    async def _write_day(self, day: datetime, before: DayManifest | None) -> None:
        folder = manifests.folder(day.date())
        read_at = await self._source.now()
        partial, path = f"{folder}/{PARTIAL}", f"{folder}/{manifests.EVENTS_FILE}"
        with places.reached(self._place, path):
            with Writer(await asyncio.to_thread(self._place.create, partial), EVENTS) as writer:
                async for documents in self._source.of_day(day):
                    await asyncio.to_thread(writer.add_events, documents)
                    self._pass(len(documents))
                file = await asyncio.to_thread(writer.end)
            if before is not None:
                is_begun = day < await self._source.deleted_before()
                if is_begun or file.rows < before.events.rows:
                    await asyncio.to_thread(self._place.delete, partial)
                    if is_begun:
                        return  # retention began with it meanwhile, and that has fewer of them
                    raise self._less(before, file.rows)
            # While a file and its manifest differ there is none.
            await asyncio.to_thread(self._place.delete, f"{folder}/{MANIFEST}")
            await asyncio.to_thread(self._place.finish, partial, path)
        manifest = DayManifest(format=manifests.FORMAT, day=day.date(), read_at=read_at, events=file)
        await asyncio.to_thread(places.write, self._place, f"{folder}/{MANIFEST}", manifests.encode(manifest))
        self._told.days += 1
        self._told.events += file.rows

    async def _write_facts(self, now: datetime) -> None:
        """Write all of them into a folder of their own, and then delete the others.

        Whatever their names say: a clock that was ahead once would have written the newest ones for years.
        """
        name = manifests.facts_name(now)
        folder = f"{manifests.FACTS}/{name}"
        files: dict[str, File] = {}
        for collection in KEPT:
            if file := await self._write_collection(collection, f"{folder}/{collection}.parquet"):
                files[collection] = file
                self._told.documents += file.rows
        manifest = FactsManifest(format=manifests.FORMAT, read_at=now, collections=files)
        await asyncio.to_thread(places.write, self._place, f"{folder}/{MANIFEST}", manifests.encode(manifest))
        with places.reached(self._place, manifests.FACTS):
            for other in await asyncio.to_thread(self._place.names, manifests.FACTS):
                if other != name and manifests.is_facts_name(other):
                    await asyncio.to_thread(self._place.delete, f"{manifests.FACTS}/{other}")

    async def _write_collection(self, collection: str, path: str) -> File | None:
        """Write a collection that has documents."""
        async with aclosing(self._source.documents(collection)) as found:
            documents = await anext(found, None)
            if not documents:
                return None
            with places.reached(self._place, path):
                with Writer(await asyncio.to_thread(self._place.create, f"{path}.part"), DOCUMENTS) as writer:
                    while documents:
                        await asyncio.to_thread(writer.add_documents, documents)
                        documents = await anext(found, None)
                    file = await asyncio.to_thread(writer.end)
                await asyncio.to_thread(self._place.finish, f"{path}.part", path)
        return file

    def _pass(self, events: int) -> None:
        self._passed += events
        self._progress(self._passed, self._total)


def finished_days(place: Place) -> dict[datetime, DayManifest]:
    """The days that are whole, by their beginnings, ascending.

    Raises:
        ArchiveUnusable: the archive cannot be read, or a newer program wrote it.
    """
    with places.reached(place, manifests.EVENTS):
        days = sorted(filter(None, map(manifests.day_of, place.names(manifests.EVENTS))))
    found = {}
    for day in days:
        path = f"{manifests.folder(day)}/{MANIFEST}"
        if content := places.read(place, path):
            manifest = manifests.decode(content, DayManifest, place.told(path))
            if manifest.day != day:
                raise ArchiveUnusable(
                    f"{place.told(path)}: it is the manifest of another day, {manifest.day.isoformat()}: give"
                    " the folder its former name, or delete it and export the day again"
                )
            found[manifests.beginning(day)] = manifest
    return found


def newest_facts(place: Place) -> tuple[str, FactsManifest] | None:
    """The folder and the manifest of the newest facts that are whole; None: there are none.

    Raises:
        ArchiveUnusable: the archive cannot be read, or a newer program wrote it.
    """
    with places.reached(place, manifests.FACTS):
        names = place.names(manifests.FACTS)
    for name in filter(manifests.is_facts_name, reversed(names)):
        folder = f"{manifests.FACTS}/{name}"
        path = f"{folder}/{MANIFEST}"
        if content := places.read(place, path):
            return folder, manifests.decode(content, FactsManifest, place.told(path))
    return None
