"""Which devices may connect, by the credentials in MongoDB: all of them, and what changed since."""

import asyncio
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Final

from pisync import clock, limits
from pisync.domain.credentials import DeviceCredentials, Kind, Standing
from pisync.stores.interfaces.credentials import CredentialsQuery, CredentialStore

_TICK: Final = timedelta(milliseconds=1)
"""As exactly as MongoDB keeps a time."""


class Access(Enum):
    """By what a device may connect."""

    CERTIFICATE = auto()
    PASSWORD = auto()
    """Alone: what MongoDB keeps of it is a hash, of which Mosquitto's commands take none."""
    NONE = auto()


class ActiveCredentials:
    """Reads all, and then what changed, each change once."""

    def __init__(self, store: CredentialStore) -> None:
        """Without having read anything."""
        self._store = store
        self._since = clock.now()
        self._newest: datetime | None = None
        self._newest_read_at = 0.0
        self._versions: dict[str, int] = {}

    async def all(self) -> Mapping[str, Access] | None:
        """The devices that may connect; None where no credential was ever written.

        Raises:
            MongodbUnavailable: MongoDB is unavailable.
        """
        now = clock.now()
        self._since = now - timedelta(seconds=limits.BROKER_ACCESS_CLOCKS_S)
        self._newest = None
        self._versions.clear()
        query = CredentialsQuery(limit=1, now=now)
        if not await self._store.page(query):
            return None
        found: dict[str, Access] = {}
        after: str | None = None
        while True:
            query = CredentialsQuery(
                limit=limits.BROKER_ACCESS_PAGE, now=now, after=after, standing=Standing.ACTIVE
            )
            page = await self._store.page(query)
            found.update((kept.entry.device_id, _access(kept.entry, now)) for kept in page)
            if len(page) < limits.BROKER_ACCESS_PAGE:
                return found
            after = page[-1].entry.device_id

    async def unknown(self, device_ids: Collection[str]) -> set[str]:
        """Those that never had a credential, as far as MongoDB knows.

        Raises:
            MongodbUnavailable: MongoDB is unavailable.
        """
        found, asked = set(device_ids), list(device_ids)
        for start in range(0, len(asked), limits.BROKER_ACCESS_PAGE):
            found.difference_update(await self._store.get(asked[start : start + limits.BROKER_ACCESS_PAGE]))
        return found

    async def changes(self) -> Mapping[str, Access]:
        """What became of the devices that changed since the last call.

        Raises:
            MongodbUnavailable: MongoDB is unavailable.
        """
        now, loop = clock.now(), asyncio.get_running_loop()
        found: dict[str, Access] = {}
        newest = self._newest
        async for kept in self._store.changed_since(self._since):
            device_id = kept.entry.device_id
            newest = kept.changed_at
            if self._versions.get(device_id) != kept.version:
                self._versions[device_id] = kept.version
                found[device_id] = _access(kept.entry, now)
        if newest is None:
            return found
        overlap = timedelta(seconds=limits.BROKER_ACCESS_OVERLAP_S)
        if newest != self._newest:
            self._newest, self._newest_read_at = newest, loop.time()
            self._since = max(self._since, newest - overlap)
        elif loop.time() - self._newest_read_at > limits.BROKER_ACCESS_OVERLAP_S:
            # By now all writes are visible that began before the newest: none is read again and again.
            self._since = newest + _TICK
            self._versions.clear()
        return found


def _access(entry: DeviceCredentials, now: datetime) -> Access:
    kinds = {each.kind for each in entry.valid(now)}
    if Kind.CERTIFICATE in kinds:
        return Access.CERTIFICATE
    return Access.PASSWORD if kinds else Access.NONE
