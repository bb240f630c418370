"""Compares an archive with its manifests, and with what MongoDB has; changes nothing."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cli.archive import manifests, places
from cli.archive.exporting import finished_days, newest_facts
from cli.archive.manifests import DayManifest, File
from cli.archive.parquet import rows_of
from cli.archive.places import Place
from pisync.errors import ArchiveUnusable
from pisync.stores.mongodb.archived import MongoArchived

Update = Callable[[int, int], None]


@dataclass(kw_only=True, slots=True)
class ArchiveFindings:
    """How much was looked at, and what is wrong; `notes` are differences that are as they should be."""

    days: int = 0
    events: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


async def check(
    source: MongoArchived, place: Place, since: datetime, until: datetime, progress: Update
) -> ArchiveFindings:
    """Look at every file of the days, and count the events of each in MongoDB.

    Raises:
        MongodbUnavailable: MongoDB is unavailable.
    """
    told = ArchiveFindings()
    written = await asyncio.to_thread(finished_days, place)
    now, deleted_before = await source.now(), await source.deleted_before()
    stored = [day async for day in source.days(since, until)]
    total = sum(manifest.events.rows for manifest in written.values())
    for day in sorted({*stored, *(day for day in written if since <= day < until)}):
        manifest = written.get(day)
        if manifest is not None:
            await _compare(
                place, f"{manifests.folder(day.date())}/{manifests.EVENTS_FILE}", manifest.events, told
            )
            told.days += 1
            told.events += manifest.events.rows
            progress(told.events, total)
        count = await source.count(day)
        if manifest is None or count != manifest.events.rows:
            _judge(told, day, manifest, count, now=now, deleted_before=deleted_before)
    if facts := await asyncio.to_thread(newest_facts, place):
        folder, of_facts = facts
        for collection, file in of_facts.collections.items():
            await _compare(place, f"{folder}/{collection}.parquet", file, told)
    return told


def _judge(
    told: ArchiveFindings,
    day: datetime,
    manifest: DayManifest | None,
    count: int,
    *,
    now: datetime,
    deleted_before: datetime,
) -> None:
    """A day that differs may be one that is not over, or one of which retention deletes events."""
    rows = 0 if manifest is None else manifest.events.rows
    said = f"{day.date().isoformat()}: {rows:,} events here, {count:,} in MongoDB"
    if manifest is not None and day < deleted_before and manifest.read_at < day + timedelta(days=1):
        told.faults.append(
            f"{said}: it was written before the day was over, and retention deletes what came after that:"
            " export more often"
        )
    elif manifest is not None and day < deleted_before:
        told.notes.append(f"{said}: retention deletes them there")
    elif manifest is not None and count < manifest.events.rows:
        told.faults.append(f"{said}, which lost some: put the archive back (`pisync import`)")
    elif not manifests.is_settled(day, now):
        told.notes.append(f"{said}: the day may still change")
    elif manifest is not None and manifest.is_settled:
        # A bridge was cut off from MongoDB for longer than a day is waited for, or an import brought them.
        told.faults.append(
            f"{said}: some came later; delete the day's {manifests.MANIFEST}, and export again"
        )
    else:
        told.faults.append(f"{said}: export again")


async def _compare(place: Place, path: str, file: File, told: ArchiveFindings) -> None:
    try:
        await asyncio.to_thread(places.compare, place, path, file)
        if (rows := await asyncio.to_thread(rows_of, place, path)) != file.rows:
            told.faults.append(f"{place.told(path)}: {rows:,} rows, and the manifest has {file.rows:,}")
    except ArchiveUnusable as error:
        told.faults.append(str(error))
