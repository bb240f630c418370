"""What PiSync asks of the store of incidents."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pisync.domain.incidents import Incident, IncidentKey, IncidentKind


@dataclass(frozen=True, kw_only=True, slots=True)
class IncidentQuery:
    """A page of incidents, newest first by when they were opened first.

    `is_open`, `kind`, `site` and `code` None: of all; `before`: the id of an incident, of which only older
    ones are found.
    """

    limit: int
    is_open: bool | None = None
    kind: IncidentKind | None = None
    site: str | None = None
    code: str | None = None
    before: str | None = None


class IncidentStore(Protocol):
    """Keeps incidents for good, of each key at most one that is open.

    Each method raises `MongodbUnavailable` where MongoDB is unavailable; the call may then be repeated.
    """

    async def prepare(self) -> None:
        """Create what the store needs (indexes); may be repeated."""

    async def open(self, incident: Incident) -> bool:
        """Keep one that begins; False where one of its key is open."""

    async def reopen(self, incident: Incident) -> bool:
        """Have a closed one open again, as it is given, where it was opened one time less.

        False where it is open, was opened again since, or another one of its key is open.
        """

    async def write(self, incident: Incident) -> bool:
        """Keep an open one as it is now, closed or not; its peak is the greatest that there was.

        False where it is closed, or was opened again since it was read.
        """

    async def newest_closed(self, key: IncidentKey, since: datetime) -> Incident | None:
        """The one of the key that was closed last, at this moment or later."""

    async def get_many(self, incident_ids: Collection[str]) -> dict[str, Incident]:
        """Those of these incidents that there are, by id."""

    async def find(self, query: IncidentQuery) -> list[Incident]:
        """A page of incidents."""
