"""Reads the directory into fleets: everything once, and then what changed since."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from fleet.freshness import Moment
from fleet.index import Fleet
from pisync import limits, logs
from pisync.clock import EPOCH
from pisync.domain.directory import DirectoryDevice, Entry, Kind, Site
from pisync.errors import MongodbUnavailable

log = logs.get(__name__)


class ChangedEntry(Protocol):
    """An entry of the directory, when it was changed by its store's clock, and whether it was deleted."""

    @property
    def entry(self) -> Entry:
        """The entry, or the one that was there."""

    @property
    def changed_at(self) -> datetime:
        """When the write began."""

    @property
    def is_deleted(self) -> bool:
        """Whether it is no longer there."""


class DirectoryReader(Protocol):
    """What the fleet asks of the store of the directory."""

    def changed_since(self, kind: Kind, moment: datetime) -> AsyncIterator[ChangedEntry]:
        """All entries that changed from this moment of the store's clock on, deleted ones included.

        Raises:
            MongodbUnavailable: MongoDB is unavailable.
        """


class DirectoryFollower:
    """Follows the changes of sites and devices."""

    def __init__(self, directory: DirectoryReader, fleets: Callable[[], Sequence[Fleet]]) -> None:
        self._directory = directory
        self._fleets = fleets
        self._since = dict.fromkeys(Kind, EPOCH)
        # When is looked for what became visible late, and whether something came since that was settled.
        self._look_at: dict[Kind, float | None] = dict.fromkeys(Kind)
        self._must_look = dict.fromkeys(Kind, False)
        self._reread_at = 0.0
        self.as_of: Moment | None = None
        self.why: str | None = None

    async def run(self) -> None:
        """Follow the directory, until cancelled."""
        while True:
            try:
                await self.step()
                self.why = None
            except MongodbUnavailable as error:
                if self.why is None:
                    log.warning("the fleet in memory does not learn what the directory says", why=str(error))
                self.why = error.told
            await asyncio.sleep(limits.FLEET_POLL_INTERVAL_S)

    async def step(self) -> None:
        """Read what changed; now and then everything, should a change have become visible too late.

        Raises:
            MongodbUnavailable: MongoDB is unavailable.
        """
        began = Moment.now()
        if began.loop_s >= self._reread_at:
            self._since = dict.fromkeys(Kind, EPOCH)
            self._reread_at = began.loop_s + limits.FLEET_REREAD_INTERVAL_S
        for kind in (Kind.SITES, Kind.DEVICES):
            await self._read(kind)
        for fleet in self._fleets():
            fleet.settle()
        self.as_of = began

    async def _read(self, kind: Kind) -> None:
        loop = asyncio.get_running_loop()
        newest = since = self._since[kind]
        look_at = self._look_at[kind]
        if look_at is not None and loop.time() >= look_at:
            # It may be as much older than what came last as it was late, and the look waited for as long.
            since = max(EPOCH, since - timedelta(seconds=3 * limits.DIRECTORY_OVERLAP_S))
        some: list[ChangedEntry] = []
        async for changed in self._directory.changed_since(kind, since):
            # Beyond what was read; the stores keep milliseconds.
            newest = max(newest, changed.changed_at + timedelta(milliseconds=1))
            some.append(changed)
            if len(some) == limits.FLEET_APPLIED_AT_ONCE:
                await self._apply(some)
                some = []
        await self._apply(some)
        if since < self._since[kind]:
            self._look_at[kind] = None
        if newest > self._since[kind]:
            self._since[kind], self._must_look[kind] = newest, True
        if self._must_look[kind] and self._look_at[kind] is None:
            self._look_at[kind] = loop.time() + limits.DIRECTORY_OVERLAP_S
            self._must_look[kind] = False

    async def _apply(self, some: Sequence[ChangedEntry]) -> None:
        if not some:
            return
        devices, sites = _split(some, deleted=False)
        gone_devices, gone_sites = _split(some, deleted=True)
        for fleet in self._fleets():
            if devices:
                fleet.set_devices(devices)
            if gone_devices:
                fleet.remove_devices([device.device_id for device in gone_devices])
            if sites:  # which looks at all devices
                fleet.set_sites(sites)
            if gone_sites:
                fleet.remove_sites([site.site_id for site in gone_sites])
            if fleet.has_many_unsettled:
                fleet.settle()
        await asyncio.sleep(0)


def _split(some: Sequence[ChangedEntry], *, deleted: bool) -> tuple[list[DirectoryDevice], list[Site]]:
    entries = [changed.entry for changed in some if changed.is_deleted == deleted]
    return (
        [entry for entry in entries if isinstance(entry, DirectoryDevice)],
        [entry for entry in entries if isinstance(entry, Site)],
    )
