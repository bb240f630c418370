"""The directory in memory."""

from collections.abc import AsyncIterator, Collection, Sequence
from datetime import datetime

from pisync import clock
from pisync.domain.directory import DirectoryDevice, Kind, entry_id
from pisync.stores.interfaces.directory import ChangedIds, DirectoryQuery, EntryWrite, KeptEntry


class MemoryDirectoryStore:
    """A `DirectoryStore` that forgets when the process ends."""

    def __init__(self) -> None:
        self.kept: dict[Kind, dict[str, KeptEntry]] = {kind: {} for kind in Kind}

    async def prepare(self) -> None:
        """Nothing to create."""

    async def get(self, kind: Kind, identifiers: Collection[str]) -> dict[str, KeptEntry]:
        """Those of these entries that there are."""
        return {each: self.kept[kind][each] for each in identifiers if each in self.kept[kind]}

    async def page(self, query: DirectoryQuery) -> list[KeptEntry]:
        """A page of entries."""
        found = [
            kept
            for identifier, kept in sorted(self.kept[query.kind].items())
            if not kept.is_deleted and (query.after is None or identifier > query.after)
        ]
        return found[: query.limit]

    async def write(self, kind: Kind, writes: Sequence[EntryWrite], action_id: str) -> set[str]:
        """Write each entry whose version is still the one that was read."""
        written = set()
        for write in writes:
            identifier = entry_id(write.entry)
            present = self.kept[kind].get(identifier)
            if write.version == (0 if present is None else present.version):
                self.kept[kind][identifier] = KeptEntry(
                    entry=write.entry,
                    version=write.version + 1,
                    changed_at=clock.now(),
                    action_id=action_id,
                    is_deleted=write.is_deleted,
                )
                written.add(identifier)
        return written

    async def has_devices(self, site_id: str) -> bool:
        """Whether any device names the site."""
        entries = (kept.entry for kept in self.kept[Kind.DEVICES].values())
        return any(isinstance(entry, DirectoryDevice) and entry.site == site_id for entry in entries)

    async def devices_of_site(self, site_id: str, limit: int) -> list[KeptEntry]:
        """The devices that name the site."""
        found = [
            kept
            for _, kept in sorted(self.kept[Kind.DEVICES].items())
            if isinstance(kept.entry, DirectoryDevice) and kept.entry.site == site_id and not kept.is_deleted
        ]
        return found[:limit]

    async def changed_since(self, kind: Kind, moment: datetime) -> AsyncIterator[KeptEntry]:
        """All entries that changed at this moment or later."""
        for kept in sorted(self.kept[kind].values(), key=lambda kept: kept.changed_at):
            if kept.changed_at >= moment:
                yield kept

    async def device_ids(self, since: datetime | None) -> AsyncIterator[ChangedIds]:
        """The ids of devices that changed at this moment or later."""
        for kept in sorted(self.kept[Kind.DEVICES].values(), key=lambda kept: kept.changed_at):
            if since is None or kept.changed_at >= since:
                yield ChangedIds([(entry_id(kept.entry), kept.is_deleted)], kept.changed_at)
