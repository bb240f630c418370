"""What PiSync asks of the store of the api's keys."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from pisync.domain.access import Key


class Creation(StrEnum):
    """What became of a key that was to be created."""

    CREATED = "created"
    NAME_TAKEN = "name_taken"
    ID_TAKEN = "id_taken"


class KeyStore(Protocol):
    """Keeps keys, also those that are revoked: that there ever was one is what closes the api.

    Each method raises `MongodbUnavailable` where MongoDB is unavailable; the call may then be repeated.
    """

    async def prepare(self) -> None:
        """Create what the store needs (indexes); may be repeated."""

    async def create(self, key: Key) -> Creation:
        """Keep a key, whose name no other key has that is not revoked."""

    async def all(self) -> list[Key]:
        """The keys that are not revoked, the newest first, then those that are, up to `KEYS_READ_MAX`."""

    async def revoke(self, key_id: str, at: datetime, by: str) -> Key | None:
        """Revoke a key for good, and return it; one that is revoked stays as it is. None: there is none."""

    async def used(self, moments: Mapping[str, datetime]) -> None:
        """Keep when keys were used last, by id; of two moments the later one holds."""
