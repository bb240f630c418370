"""The api's keys in memory."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from pisync import limits
from pisync.domain.access import Key
from pisync.stores.interfaces.keys import Creation


class MemoryKeyStore:
    """A `KeyStore` that forgets when the process ends."""

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {}

    async def prepare(self) -> None:
        """Nothing to create."""

    async def create(self, key: Key) -> Creation:
        """Keep a key."""
        if key.key_id in self.keys:
            return Creation.ID_TAKEN
        if any(each.name == key.name and each.revoked_at is None for each in self.keys.values()):
            return Creation.NAME_TAKEN
        self.keys[key.key_id] = key
        return Creation.CREATED

    async def all(self) -> list[Key]:
        """The keys that are not revoked, the newest first, then those that are."""
        newest = sorted(self.keys.values(), key=lambda each: (each.created_at, each.key_id), reverse=True)
        return sorted(newest, key=lambda each: each.revoked_at is not None)[: limits.KEYS_READ_MAX]

    async def revoke(self, key_id: str, at: datetime, by: str) -> Key | None:
        """Revoke a key for good."""
        key = self.keys.get(key_id)
        if key is not None and key.revoked_at is None:
            key = self.keys[key_id] = replace(key, revoked_at=at, revoked_by=by)
        return key

    async def used(self, moments: Mapping[str, datetime]) -> None:
        """Keep when keys were used last."""
        for key_id, moment in moments.items():
            key = self.keys.get(key_id)
            if key is not None and (key.last_used_at is None or key.last_used_at < moment):
                self.keys[key_id] = replace(key, last_used_at=moment)
