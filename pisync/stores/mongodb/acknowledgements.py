"""Acknowledgements in MongoDB: a document for each, whose end is written down once."""

from collections.abc import Collection
from typing import Final

from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import DuplicateKeyError

from pisync.domain.acknowledgements import Acknowledgement, Ended, Subject, SubjectKind, Until, Why
from pisync.stores.interfaces.acknowledgements import AcknowledgementQuery
from pisync.stores.mongodb.connection import Document, MongoConnection, map_driver_errors

_INDEXES: Final = (
    IndexModel(
        [("kind", ASCENDING), ("target", ASCENDING)],
        name="one_open",
        unique=True,
        partialFilterExpression={"is_open": True},
    ),
    IndexModel([("is_open", ASCENDING), ("_id", DESCENDING)], name="state"),
    IndexModel([("kind", ASCENDING), ("is_open", ASCENDING), ("_id", DESCENDING)], name="kind"),
)


class MongoAcknowledgementStore:
    """An `AcknowledgementStore` in a MongoDB database.

    A unique partial index allows one open acknowledgement of an alert or a cause. `_id` is its id, which
    sorts by when it began.
    """

    def __init__(self, connection: MongoConnection) -> None:
        self._kept = connection.database.get_collection("acknowledgements")
        self._is_prepared = False

    async def prepare(self) -> None:
        """Create the indexes where they are absent."""
        with map_driver_errors():
            await self._kept.create_indexes(list(_INDEXES))
        self._is_prepared = True

    async def add(self, acknowledgement: Acknowledgement) -> bool:
        """Keep one that begins; False where another one of its subject is open."""
        # The api takes requests as soon as it is up: none is to come before the unique index.
        if not self._is_prepared:
            await self.prepare()
        document = {
            "_id": acknowledgement.acknowledgement_id,
            "kind": acknowledgement.subject.kind.value,
            "target": acknowledgement.subject.target,
            "who": acknowledgement.who,
            "at": acknowledgement.at,
            "reason": acknowledgement.reason,
            "until": acknowledgement.until.moment,
            "more_devices": acknowledgement.until.more_devices,
            "devices": acknowledgement.devices,
            "is_open": True,
        }
        with map_driver_errors():
            try:
                await self._kept.insert_one(document)
            except DuplicateKeyError:
                return False
        return True

    async def end(self, acknowledgement_id: str, ended: Ended) -> bool:
        """Write down its end; False where one is written down, which stays."""
        end = {"is_open": False, "ended_at": ended.at, "why": ended.why.value, "ended_by": ended.who}
        with map_driver_errors():
            result = await self._kept.update_one({"_id": acknowledgement_id, "is_open": True}, {"$set": end})
        return bool(result.matched_count)

    async def open_ones(self, kind: SubjectKind, targets: Collection[str]) -> dict[str, Acknowledgement]:
        """The open ones of these alerts or causes, by their targets."""
        if not targets:
            return {}
        matching = {"kind": kind.value, "target": {"$in": list(targets)}, "is_open": True}
        with map_driver_errors():
            # In one round trip: without the limit the driver would ask whether there are more.
            found = self._kept.find(matching).limit(len(targets)).batch_size(len(targets))
            return {document["target"]: _acknowledgement(document) async for document in found}

    async def open_by_target(
        self, kind: SubjectKind, limit: int, before: str | None
    ) -> list[Acknowledgement]:
        """Open ones by their targets, the last first."""
        matching: Document = {"kind": kind.value, "is_open": True}
        if before is not None:
            matching["target"] = {"$lt": before}
        with map_driver_errors():
            found = self._kept.find(matching).sort("target", DESCENDING).limit(limit).batch_size(limit)
            return [_acknowledgement(document) async for document in found]

    async def find(self, query: AcknowledgementQuery) -> list[Acknowledgement]:
        """A page of acknowledgements, newest first."""
        matching: Document = {}
        if query.is_open is not None:
            matching["is_open"] = query.is_open
        if query.kind is not None:
            matching["kind"] = query.kind.value
        if query.before is not None:
            matching["_id"] = {"$lt": query.before}
        with map_driver_errors():
            found = self._kept.find(matching).sort("_id", DESCENDING).limit(query.limit)
            return [_acknowledgement(document) async for document in found.batch_size(query.limit)]


def _acknowledgement(document: Document) -> Acknowledgement:
    return Acknowledgement(
        acknowledgement_id=document["_id"],
        subject=Subject(kind=SubjectKind(document["kind"]), target=document["target"]),
        who=document["who"],
        at=document["at"],
        reason=document["reason"],
        until=Until(moment=document["until"], more_devices=document["more_devices"]),
        devices=document["devices"],
        ended=None
        if document["is_open"]
        else Ended(at=document["ended_at"], why=Why(document["why"]), who=document["ended_by"]),
    )
