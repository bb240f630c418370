"""What PiSync asks of the store of the directory."""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from pisync.domain.directory import Entry, Kind


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptEntry:
    """An entry as it is stored.

    Each change adds one to `version`; `changed_at` is by the store's own clock; `action_id` is the action
    that changed it last. One that is deleted is kept, so that whoever follows the changes learns of it, and
    its versions go on.
    """

    entry: Entry
    version: int
    changed_at: datetime
    action_id: str
    is_deleted: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class EntryWrite:
    """An entry in place of its `version` that was read; 0: there was none."""

    entry: Entry
    version: int
    is_deleted: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class DirectoryQuery:
    """A page of entries by their ids, of those that are not deleted; `after`: only ids beyond this one."""

    kind: Kind
    limit: int
    after: str | None = None


class ChangedIds(NamedTuple):
    """Devices in the order in which they changed, each with whether it is deleted; when the last changed."""

    ids: list[tuple[str, bool]]
    changed_at: datetime


class DirectoryStore(Protocol):
    """Keeps devices and sites. What a change means, and its action, is for the caller.

    Each method raises `MongodbUnavailable` where MongoDB is unavailable; the call may then be repeated.
    """

    async def prepare(self) -> None:
        """Create what the store needs (indexes); may be repeated."""

    async def get(self, kind: Kind, identifiers: Collection[str]) -> dict[str, KeptEntry]:
        """Those of these entries that there are, deleted ones included, by id."""

    async def page(self, query: DirectoryQuery) -> list[KeptEntry]:
        """A page of entries."""

    async def write(self, kind: Kind, writes: Sequence[EntryWrite], action_id: str) -> set[str]:
        """Write each entry whose version is still the one that was read; returns their ids."""

    async def has_devices(self, site_id: str) -> bool:
        """Whether any device names the site."""

    async def devices_of_site(self, site_id: str, limit: int) -> list[KeptEntry]:
        """The devices that name the site and are not deleted, by their ids, so many at most."""

    def changed_since(self, kind: Kind, moment: datetime) -> AsyncIterator[KeptEntry]:
        """All entries that changed from this moment of the store's clock on, oldest first; deleted ones, too.

        `changed_at` is when a write began: one that began before the newest that was read may become visible
        after it. Who follows the changes asks again from some seconds before that.
        """

    def device_ids(self, since: datetime | None) -> AsyncIterator[ChangedIds]:
        """The ids of devices that changed from this moment on (None: of all), some at a time, oldest first.

        As of `changed_since`, one more may become visible after a later one.
        """
