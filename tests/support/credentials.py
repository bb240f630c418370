"""Credentials in memory, and a broker's list of devices, as the duty of access asks them."""

from collections.abc import Sequence
from datetime import timedelta

from pisync import clock
from pisync.domain.credentials import (
    Credential,
    DeviceCredentials,
    Kind,
    Source,
    Standing,
    added,
    revoked,
)
from pisync.errors import BrokerUnavailable, MongodbUnavailable
from pisync.stores.interfaces.credentials import CredentialsQuery, KeptCredentials
from pisync.stores.memory.credentials import MemoryCredentialStore


class MemoryCredentials(MemoryCredentialStore):
    """Credentials that are changed at once, in a store that may be away."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False

    def issue(self, *device_ids: str, kind: Kind = Kind.CERTIFICATE, days: int = 365) -> None:
        now = clock.now()
        for device_id in device_ids:
            version = self._version(device_id)
            credential = Credential(
                kind=kind,
                identifier=f"{version:x}",
                not_before=now,
                not_after=now + timedelta(days=days),
                source=Source.ISSUED,
                given_by="ada",
                given_at=now,
            )
            present = DeviceCredentials(device_id=device_id)
            if version:
                present = self.kept[device_id].entry
            self._keep(added(present, credential, now))

    def revoke(self, *device_ids: str) -> None:
        for device_id in device_ids:
            if device_id in self.kept:
                self._keep(revoked(self.kept[device_id].entry, by="ada", now=clock.now()))

    def active(self) -> set[str]:
        now = clock.now()
        return {each for each, kept in self.kept.items() if kept.entry.standing(now) is Standing.ACTIVE}

    async def page(self, query: CredentialsQuery) -> list[KeptCredentials]:
        if self.is_away:
            raise MongodbUnavailable("away")
        return await super().page(query)

    def _version(self, device_id: str) -> int:
        return self.kept[device_id].version if device_id in self.kept else 0

    def _keep(self, entry: DeviceCredentials) -> None:
        version = self._version(entry.device_id) + 1
        self.kept[entry.device_id] = KeptCredentials(entry=entry, version=version, changed_at=clock.now())


class MemoryAccessList:
    """A list that counts, and may be away, refuse devices, or be lost."""

    def __init__(self, *device_ids: str, at_once: int = 1) -> None:
        self.devices = set(device_ids)
        self.left = set[str]()
        self.at_once = at_once
        self.connections = 1
        self.refusal: str | None = None
        self.error: BrokerUnavailable | None = None
        self.refused = set[str]()
        self.calls: list[tuple[str, tuple[str, ...]]] = []

    @property
    def is_ready(self) -> bool:
        return self.error is None

    async def devices_at_once(self) -> int:
        self._check()
        return self.at_once

    async def listed(self) -> tuple[set[str], set[str]]:
        self._check()
        self.calls.append(("listed", ()))
        return set(self.devices), set(self.left)

    async def allow(self, device_ids: Sequence[str]) -> int:
        self._check()
        self.calls.append(("allow", tuple(device_ids)))
        self.devices |= {*device_ids} - self.refused
        return len(self.refused.intersection(device_ids))

    async def remove(self, device_ids: Sequence[str]) -> int:
        self._check()
        self.calls.append(("remove", tuple(device_ids)))
        self.devices -= {*device_ids} - self.refused
        self.left -= {*device_ids}
        return len(self.refused.intersection(device_ids))

    def lose(self) -> None:
        """As a broker that comes back without its file."""
        self.devices = set()
        self.connections += 1

    def _check(self) -> None:
        if self.error is not None:
            raise self.error
