"""Incidents in memory."""

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime

from pisync.domain.incidents import Incident, IncidentKey
from pisync.stores.interfaces.incidents import IncidentQuery


class MemoryIncidentStore:
    """An `IncidentStore` that forgets when the process ends."""

    def __init__(self) -> None:
        self.incidents: dict[str, Incident] = {}

    async def prepare(self) -> None:
        """Nothing to create."""

    def _is_open(self, key: IncidentKey) -> bool:
        return any(each.key == key and each.closed_at is None for each in self.incidents.values())

    async def open(self, incident: Incident) -> bool:
        """Keep one that begins."""
        if incident.incident_id in self.incidents or self._is_open(incident.key):
            return False
        self.incidents[incident.incident_id] = incident
        return True

    async def reopen(self, incident: Incident) -> bool:
        """Have a closed one open again."""
        kept = self.incidents.get(incident.incident_id)
        if kept is None or kept.closed_at is None or kept.reopened != incident.reopened - 1:
            return False
        if self._is_open(incident.key):
            return False
        self._keep(kept, incident)
        return True

    async def write(self, incident: Incident) -> bool:
        """Keep an open one as it is now."""
        kept = self.incidents.get(incident.incident_id)
        if kept is None or kept.closed_at is not None or kept.reopened != incident.reopened:
            return False
        self._keep(kept, incident)
        return True

    def _keep(self, kept: Incident, incident: Incident) -> None:
        self.incidents[incident.incident_id] = replace(incident, peak=max(kept.peak, incident.peak))

    async def newest_closed(self, key: IncidentKey, since: datetime) -> Incident | None:
        """The one of the key that was closed last."""
        found = [
            (each.closed_at, each)
            for each in self.incidents.values()
            if each.key == key and each.closed_at is not None and each.closed_at >= since
        ]
        return max(found, key=lambda one: one[0])[1] if found else None

    async def get_many(self, incident_ids: Collection[str]) -> dict[str, Incident]:
        """Those that there are."""
        return {name: self.incidents[name] for name in incident_ids if name in self.incidents}

    async def find(self, query: IncidentQuery) -> list[Incident]:
        """A page of incidents."""
        found = [
            each
            for name, each in sorted(self.incidents.items(), reverse=True)
            if query.is_open in {None, each.closed_at is None}
            and query.kind in {None, each.key.kind}
            and query.site in {None, each.key.site}
            and query.code in {None, each.key.code}
            and (query.before is None or name < query.before)
        ]
        return found[: query.limit]
