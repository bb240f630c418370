"""Incidents in MongoDB: a document for each, of which those that are open are replaced as they grow."""

from collections.abc import Collection
from datetime import datetime
from typing import Final

from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import DuplicateKeyError

from pisync.domain.incidents import Evidence, Incident, IncidentKey, IncidentKind
from pisync.stores.interfaces.incidents import IncidentQuery
from pisync.stores.mongodb.connection import Document, MongoConnection, map_driver_errors

_KEY: Final = [("kind", ASCENDING), ("site", ASCENDING), ("code", ASCENDING)]
_INDEXES: Final = (
    IndexModel(_KEY, name="one_open", unique=True, partialFilterExpression={"is_open": True}),
    IndexModel([*_KEY, ("closed_at", DESCENDING)], name="closed"),
    IndexModel([("is_open", ASCENDING), ("_id", DESCENDING)], name="state"),
    IndexModel([("kind", ASCENDING), ("is_open", ASCENDING), ("_id", DESCENDING)], name="kind"),
    IndexModel([("site", ASCENDING), ("_id", DESCENDING)], name="site"),
    IndexModel([("code", ASCENDING), ("_id", DESCENDING)], name="code"),
)


class MongoIncidentStore:
    """An `IncidentStore` in a MongoDB database.

    A unique partial index allows one open incident of a key. `_id` is the incident's id, which sorts by when
    it was opened first.
    """

    def __init__(self, connection: MongoConnection) -> None:
        self._incidents = connection.database.get_collection("incidents")

    async def prepare(self) -> None:
        """Create the indexes where they are absent."""
        with map_driver_errors():
            await self._incidents.create_indexes(list(_INDEXES))

    async def open(self, incident: Incident) -> bool:
        """Keep one that begins; False where one of its key is open."""
        document = {"_id": incident.incident_id, **_document(incident), "peak": incident.peak}
        with map_driver_errors():
            try:
                await self._incidents.insert_one(document)
            except DuplicateKeyError:
                return False
        return True

    async def reopen(self, incident: Incident) -> bool:
        """Have a closed one open again, where it was opened one time less."""
        matching = {"_id": incident.incident_id, "is_open": False, "reopened": incident.reopened - 1}
        return await self._replace(matching, incident)

    async def write(self, incident: Incident) -> bool:
        """Keep an open one as it is now, closed or not."""
        matching = {"_id": incident.incident_id, "is_open": True, "reopened": incident.reopened}
        return await self._replace(matching, incident)

    async def _replace(self, matching: Document, incident: Incident) -> bool:
        change = {"$set": _document(incident), "$max": {"peak": incident.peak}}
        with map_driver_errors():
            try:
                result = await self._incidents.update_one(matching, change)
            except DuplicateKeyError:
                return False
        return bool(result.matched_count)

    async def newest_closed(self, key: IncidentKey, since: datetime) -> Incident | None:
        """The one of the key that was closed last, at this moment or later."""
        matching = {"kind": key.kind.value, "site": key.site, "code": key.code, "closed_at": {"$gte": since}}
        with map_driver_errors():
            found = await self._incidents.find_one(matching, sort=[("closed_at", DESCENDING)])
        return None if found is None else _incident(found)

    async def get_many(self, incident_ids: Collection[str]) -> dict[str, Incident]:
        """Those of these incidents that there are, by id, in one round trip."""
        if not incident_ids:
            return {}
        with map_driver_errors():
            found = self._incidents.find({"_id": {"$in": list(incident_ids)}})
            found = found.limit(len(incident_ids)).batch_size(len(incident_ids))
            return {document["_id"]: _incident(document) async for document in found}

    async def find(self, query: IncidentQuery) -> list[Incident]:
        """A page of incidents, newest first."""
        matching: Document = {}
        if query.is_open is not None:
            matching["is_open"] = query.is_open
        if query.kind is not None:
            matching["kind"] = query.kind.value
        if query.site is not None:
            matching["site"] = query.site
        if query.code is not None:
            matching["code"] = query.code
        if query.before is not None:
            matching["_id"] = {"$lt": query.before}
        with map_driver_errors():
            found = self._incidents.find(matching).sort("_id", DESCENDING).limit(query.limit)
            return [_incident(document) async for document in found.batch_size(query.limit)]


def _document(incident: Incident) -> Document:
    """All but the id, and the peak, which is the greatest that there was."""
    key, evidence = incident.key, incident.evidence
    return {
        "kind": key.kind.value,
        "site": key.site,
        "code": key.code,
        "since": incident.since,
        "resumed_at": incident.resumed_at,
        "opened_at": incident.opened_at,
        "updated_at": incident.updated_at,
        "closed_at": incident.closed_at,
        "is_open": incident.closed_at is None,
        "devices": evidence.devices,
        "of": evidence.of,
        "sites": evidence.sites,
        "usual": evidence.usual,
        "sentence": incident.sentence,
        "reopened": incident.reopened,
    }


def _incident(document: Document) -> Incident:
    return Incident(
        incident_id=document["_id"],
        key=IncidentKey(IncidentKind(document["kind"]), document["site"], document["code"]),
        since=document["since"],
        resumed_at=document["resumed_at"],
        opened_at=document["opened_at"],
        updated_at=document["updated_at"],
        closed_at=document["closed_at"],
        evidence=Evidence(document["devices"], document["of"], document["sites"], document["usual"]),
        peak=document["peak"],
        sentence=document["sentence"],
        reopened=document["reopened"],
    )
