"""The ids of the directory's devices, held in memory and kept fresh, so that no message asks MongoDB.

A device is unknown only by a copy that was read whole. While MongoDB is away, the copy stays as it is.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime, timedelta

from pisync import limits, logs
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.directory import DirectoryStore

log = logs.get(__name__)


class KnownDevices:
    """The devices of the directory, as of a few seconds ago; `read` before the first message is judged."""

    def __init__(self, directory: DirectoryStore) -> None:
        self._directory = directory
        self._ids: set[str] = set()
        self._position: datetime | None = None
        self._is_whole = False
        self._read_s = 0.0
        # One copy takes another's place between two looks at what changed, not during one.
        self._changing = asyncio.Lock()

    def unknown(self, device_ids: Collection[str | None]) -> set[str | None]:
        """Those that are not in the directory; none where it has more devices than are held."""
        if not self._is_whole:
            return set()
        return set(device_ids) - self._ids - {None}

    def __len__(self) -> int:
        """How many there are."""
        return len(self._ids)

    @property
    def age_s(self) -> float:
        """How long ago MongoDB was asked for changes with success."""
        return asyncio.get_running_loop().time() - self._read_s

    async def read(self) -> None:
        """Read all of them anew; until that is done, what was known is.

        Raises:
            MongodbUnavailable: what was known stays.
        """
        ids: set[str] = set()
        position, is_whole = await self._take(ids, None)
        if position is None and self._ids:
            # Not even deleted entries are there, which stay in a directory: it was lost, or is another one.
            log.error("the directory is empty: those that were in it stay known", held=len(self._ids))
            return
        async with self._changing:
            position, fits = await self._take(ids, position)  # what changed meanwhile
            is_whole &= fits
            self._ids, self._position, self._is_whole = ids, position, is_whole
        if not is_whole:
            log.error("the directory has more devices than a bridge holds: none is unknown", held=len(ids))

    async def refresh(self) -> None:
        """Read what changed since.

        Raises:
            MongodbUnavailable: what was known stays.
        """
        async with self._changing:
            self._position, fits = await self._take(self._ids, self._position)
            self._is_whole &= fits

    async def run(self) -> None:
        """Follow the directory until cancelled, and read it anew beside that, however long it takes."""
        async with asyncio.TaskGroup() as group:
            group.create_task(_again(self.refresh, limits.KNOWN_DEVICES_INTERVAL_S), name="changes")
            # A restored backup has entries that changed long ago, and lacks others.
            group.create_task(_again(self.read, limits.KNOWN_DEVICES_REREAD_S), name="all anew")

    async def _take(self, ids: set[str], position: datetime | None) -> tuple[datetime | None, bool]:
        """Apply what changed from a position on; returns the next one, and whether all fitted in."""
        asked_s = asyncio.get_running_loop().time()
        overlap = timedelta(seconds=limits.DIRECTORY_OVERLAP_S)
        since = None if position is None else position - overlap
        fits = True
        async for some in self._directory.device_ids(since):
            for device_id, is_deleted in some.ids:
                if is_deleted:
                    ids.discard(device_id)
                elif len(ids) < limits.KNOWN_DEVICES_MAX or device_id in ids:
                    ids.add(device_id)
                else:
                    fits = False
            position = some.changed_at if position is None else max(position, some.changed_at)
        self._read_s = asked_s
        return position, fits


async def _again(look: Callable[[], Awaitable[None]], interval_s: float) -> None:
    """Look again and again; while MongoDB is away, in vain."""
    while True:
        await asyncio.sleep(interval_s)
        try:
            await look()
        except MongodbUnavailable as error:
            log.debug("directory not read", why=str(error))
