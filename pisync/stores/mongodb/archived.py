"""What an archive has of MongoDB: reads all of it by day of receipt, and puts it back as it was.

Events are given and taken as documents, with when they were received. Of the other collections whole
documents are kept, as BSON, so that they come back exactly; which ones stands in `KEPT` and `LEFT_OUT`.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final, NamedTuple

from bson import CodecOptions, decode, decode_all
from bson.json_util import RELAXED_JSON_OPTIONS, dumps
from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING

from pisync import clock, limits
from pisync.clock import EPOCH, rfc3339, to_ms
from pisync.domain.archived_rows import why_refused
from pisync.domain.identity import bucket_of
from pisync.domain.rollups import Span
from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.events import InsertOutcome
from pisync.stores.mongodb import bases, replaying
from pisync.stores.mongodb.acknowledgements import MongoAcknowledgementStore
from pisync.stores.mongodb.actions import MongoActionStore
from pisync.stores.mongodb.alerts import MongoAlertStore
from pisync.stores.mongodb.commands import MongoCommandStore
from pisync.stores.mongodb.connection import (
    DUPLICATE_KEY,
    Document,
    MongoConnection,
    map_driver_errors,
    server_time,
)
from pisync.stores.mongodb.credentials import MongoCredentialStore
from pisync.stores.mongodb.dead_letters import MongoDeadLetterStore
from pisync.stores.mongodb.directory import MongoDirectoryStore
from pisync.stores.mongodb.enrolment_tokens import MongoEnrolmentTokens
from pisync.stores.mongodb.events import MongoEventStore
from pisync.stores.mongodb.incidents import MongoIncidentStore
from pisync.stores.mongodb.inserting import Inserts
from pisync.stores.mongodb.keys import MongoKeyStore
from pisync.stores.mongodb.listening import MongoListeningRecord
from pisync.stores.mongodb.notifications import MongoNotificationStore
from pisync.stores.mongodb.presence import MongoPresenceStore
from pisync.stores.mongodb.rollups import MongoRollupStore

KEPT: Final = (
    "rollup_progress",
    *("acknowledgements", "action_changes", "action_outcomes", "actions", "alerts", "api_keys", "commands"),
    *("dead_letter_drops", "dead_letters", "device_bases", "device_credentials", "directory_devices"),
    *("directory_sites", "enrolment_tokens", "incidents", "listening", "notification_messages"),
    *("notification_subjects", "notifications", "presence", "recipients", "retention", "rollup_codes"),
    *("rollups", "users"),
)
"""The collections whose documents are kept beside the events; `rollup_progress` first, by which the rollups
are judged. A new collection is named here or in `LEFT_OUT`."""

LEFT_OUT: Final = ("bridge_floors", "bridges", "broker", "leases", "login_starts", "schema", "sessions")
"""What programs that run say of themselves, and who is signed in: it is made anew."""

PREPARED: Final = (
    *(MongoEventStore, MongoAcknowledgementStore, MongoActionStore, MongoAlertStore, MongoCommandStore),
    *(MongoCredentialStore, MongoDeadLetterStore, MongoDirectoryStore, MongoEnrolmentTokens),
    *(MongoIncidentStore, MongoKeyStore, MongoListeningRecord, MongoNotificationStore, MongoPresenceStore),
)
"""The stores of these that have indexes."""

_ROLLUPS: Final = ("rollup_progress", "rollups", "rollup_codes")
# The member of a document that only grows: of two the greater one is right.
_GREATEST: Final = {"listening": "until", "retention": "before"}
_DAY: Final = timedelta(days=1)
# Times without a zone, which the driver makes without calling into Python.
_PLAIN: Final[CodecOptions[Document]] = CodecOptions()
_RAW: Final[CodecOptions[RawBSONDocument]] = CodecOptions(document_class=RawBSONDocument)
_OPTIONAL: Final = ("device_type", "sync_duration_ms", "errors", "enriched_at")


class Kept(NamedTuple):
    """A document of a collection: its id and all of it as JSON for readers, and its bytes."""

    document_id: str
    document: str
    bson: bytes


@dataclass(kw_only=True, slots=True)
class PutBack:
    """What became of what was put back; of the conflicts the first are `listed`."""

    stored: int = 0
    duplicates: int = 0
    enriched: int = 0
    conflicts: int = 0
    listed: list[str] = field(default_factory=list)

    def add(self, other: "PutBack") -> None:
        """Count another part's, too."""
        self.stored += other.stored
        self.duplicates += other.duplicates
        self.enriched += other.enriched
        self.conflicts += other.conflicts
        self._list(other.listed)

    def refuse(self, what: str) -> None:
        """Count a conflict."""
        self.conflicts += 1
        self._list([what])

    def _list(self, what: Sequence[str]) -> None:
        self.listed += what[: limits.ARCHIVE_FAULTS_SHOWN_MAX - len(self.listed)]


class MongoArchived:
    """The side of MongoDB of an export or an import."""

    def __init__(self, connection: MongoConnection) -> None:
        self._connection = connection
        self._database = connection.database
        self._events = connection.database.get_collection("sync_events")
        self._inserts = Inserts(self._events)
        self._bases = bases.Bases(connection.database)
        self._rollup_store = MongoRollupStore(connection)

    async def now(self) -> datetime:
        """What MongoDB's clock says."""
        with map_driver_errors():
            return await server_time(self._database)

    async def events_about(self) -> int:
        """About how many events there are."""
        with map_driver_errors():
            return await self._events.estimated_document_count()

    async def days(self, since: datetime, until: datetime) -> AsyncIterator[datetime]:
        """The days of receipt that have events, by their beginnings, ascending; one key of the index each."""
        while since < until:
            with map_driver_errors():
                found = await self._events.find_one(
                    {"received_at": {"$gte": since, "$lt": until}},
                    {"_id": 0, "received_at": 1},
                    sort=[("received_at", ASCENDING)],
                    hint="received_at",
                )
            if found is None:
                return
            day = found["received_at"].replace(hour=0, minute=0, second=0, microsecond=0)
            yield day
            since = day + _DAY

    async def of_day(self, day: datetime) -> AsyncIterator[list[Document]]:
        """The events that were received on a day, in that order, some at a time; times have no zone."""
        cursor = self._events.find_raw_batches(_of(day)).sort("received_at", ASCENDING).hint("received_at")
        cursor = cursor.batch_size(limits.ARCHIVE_EVENTS_AT_ONCE)
        async with cursor, aclosing(replaying.replies(cursor)) as found:
            with map_driver_errors():
                async for reply in found:
                    yield decode_all(reply, _PLAIN)

    async def count(self, day: datetime) -> int:
        """How many events were received on a day."""
        with map_driver_errors():
            return await self._events.count_documents(_of(day), hint="received_at")

    async def enriched_since(self, since: datetime) -> dict[datetime, datetime]:
        """The days of receipt of what was enriched since then, and when each of them was last."""
        stages: list[Document] = [
            {"$match": {"enriched_at": {"$gte": since}}},
            {
                "$group": {
                    "_id": {"$dateTrunc": {"date": "$received_at", "unit": "day"}},
                    "newest": {"$max": "$enriched_at"},
                }
            },
        ]
        with map_driver_errors():
            found = await self._events.aggregate(stages, hint="enriched_at")
            return {group["_id"]: group["newest"] async for group in found}

    async def deleted_before(self) -> datetime:
        """Retention may have deleted what was received before then."""
        with map_driver_errors():
            found = await self._database["retention"].find_one({})
        before: datetime = EPOCH if found is None else found["before"]
        return before

    async def documents(self, collection: str) -> AsyncGenerator[list[Kept]]:
        """All documents of a collection, some at a time."""
        cursor = self._database[collection].find_raw_batches().batch_size(limits.ARCHIVE_EVENTS_AT_ONCE)
        async with cursor, aclosing(replaying.replies(cursor)) as found:
            with map_driver_errors():
                async for reply in found:
                    yield [_kept(bytes(document.raw)) for document in decode_all(reply, _RAW)]

    async def prepare(self) -> None:
        """Create the indexes of all that is put back.

        Collections are read while programs write them, so that an archive may have two documents of which
        only one may be there, such as an open alert and the next one of its device. With both stored there
        could be no index any more, without which no program starts; with the index the second is a conflict.
        """
        for store in PREPARED:
            await store(self._connection).prepare()

    async def put_events(self, rows: Sequence[Mapping[str, Any]]) -> PutBack:
        """Store events as they were; what is stored already is compared, and gains what it lacks.

        A row has the members of an event, `received_at` and, where something was added to it, `enriched_at`;
        times have no zone, and are in UTC. One that is no event is told as a conflict, and not stored.
        """
        told = PutBack()
        taken = []
        for row in rows:
            if why := why_refused(row):
                told.refuse(f"{row['device_id']} at {_moment(row)}: {why}")
            else:
                taken.append(row)
        if taken:
            told.add(await self._put_events(taken))
        return told

    async def _put_events(self, rows: Sequence[Mapping[str, Any]]) -> PutBack:
        documents = [_document(row) for row in rows]
        with map_driver_errors():
            # What an event gains here it gains now: projection and rollups are to learn of that.
            outcomes = await self._inserts.insert(documents, clock.now().replace(tzinfo=None))
        told = PutBack(
            stored=outcomes.count(InsertOutcome.STORED),
            duplicates=outcomes.count(InsertOutcome.DUPLICATE),
            enriched=outcomes.count(InsertOutcome.ENRICHED),
        )
        for row, outcome in zip(rows, outcomes, strict=True):
            if outcome in {InsertOutcome.CONFLICT, InsertOutcome.REFUSED}:
                told.refuse(f"{row['device_id']} at {_moment(row)}: {outcome}")
        return told

    async def put_documents(self, collection: str, documents: Sequence[bytes]) -> PutBack:
        """Put documents of a collection back that are not there; none that is there is overwritten.

        What is computed from events is joined instead: the bases of devices, and of rollups those whose
        events may be deleted; the others are counted anew.
        """
        if collection in _ROLLUPS:
            return await self._put_rollups(collection, [decode(one, _AWARE) for one in documents])
        told = PutBack()
        remaining = iter(documents)
        while some := list(islice(remaining, limits.ARCHIVE_INSERT_DOCUMENTS)):
            told.add(await self._put(collection, some))
        return told

    async def _put(self, collection: str, documents: Sequence[bytes]) -> PutBack:
        told = PutBack()
        with map_driver_errors():
            there = await self._insert(collection, [RawBSONDocument(one) for one in documents])
            told.stored = len(documents) - len(there)
            for index in there:
                if await self._joined(collection, documents[index]):
                    told.duplicates += 1
                else:
                    told.refuse(f"{collection} {_kept(documents[index]).document_id}: conflict")
        return told

    async def _insert(self, collection: str, documents: Sequence[Mapping[str, Any]]) -> list[int]:
        """Insert documents; returns the places of those that are there already."""
        command = {
            "insert": collection,
            "ordered": False,
            "writeConcern": self._database[collection].write_concern.document,
            "documents": documents,
        }
        reply = await self._database.command(command)
        if "writeConcernError" in reply:
            raise MongodbUnavailable(f"{reply['writeConcernError']}")
        faults = reply.get("writeErrors", ())
        if other := next((fault for fault in faults if fault["code"] != DUPLICATE_KEY), None):
            raise MongodbUnavailable(f"{collection}: {other.get('errmsg')}")
        return [fault["index"] for fault in faults]

    async def _joined(self, collection: str, ours: bytes) -> bool:
        """Whether what is stored says the same, or does now."""
        given = decode(ours, _AWARE)
        raw = self._database[collection].with_options(_RAW)
        found: Any = await raw.find_one({"_id": given["_id"]})
        if found is None:
            return False  # it stands in the way by another key
        if found.raw == ours:
            return True
        if collection == bases.COLLECTION:
            await self._bases.keep({given["_id"]["device_id"]: bases.unpack(given["state"])}, None)
            return True
        if (member := _GREATEST.get(collection)) is None:
            return False
        greatest = {"$max": {member: given[member]}}
        await self._database[collection].update_one({"_id": given["_id"]}, greatest)
        return True

    async def _put_rollups(self, collection: str, documents: Sequence[Document]) -> PutBack:
        """Put back what can no longer be counted: of a time before which events may be deleted."""
        with map_driver_errors():
            if collection == "rollup_progress":
                for fixed in filter(None, [one.get("fixed") for one in documents]):
                    await self._database[collection].update_one(
                        {"_id": documents[0]["_id"]},
                        # A worker begins with the first term there is.
                        {"$max": {"fixed": fixed}, "$setOnInsert": {"term": 0}},
                        upsert=True,
                    )
                return PutBack()
            fixed_ms = (await self._rollup_store.progress()).fixed_ms
            if collection == "rollup_codes":
                spans = {one["_id"]: Span(to_ms(one["first"]), to_ms(one["last"])) for one in documents}
                if old := {code: span for code, span in spans.items() if span.start_ms < fixed_ms}:
                    await self._rollup_store.add_codes(old)
                return PutBack()
            fixed_ones = [{**one, "term": 0} for one in documents if to_ms(one["_id"]["start"]) < fixed_ms]
            there = await self._insert(collection, fixed_ones) if fixed_ones else []
        return PutBack(stored=len(fixed_ones) - len(there), duplicates=len(there))


_AWARE: Final[CodecOptions[Document]] = CodecOptions(tz_aware=True, tzinfo=UTC)


def _of(day: datetime) -> Document:
    return {"received_at": {"$gte": day, "$lt": day + _DAY}}


def _moment(row: Mapping[str, Any]) -> str:
    return rfc3339(row["timestamp"].replace(tzinfo=UTC))


def _kept(raw: bytes) -> Kept:
    document = decode(raw, _AWARE)
    return Kept(
        document_id=dumps(document["_id"], json_options=RELAXED_JSON_OPTIONS),
        document=dumps(document, json_options=RELAXED_JSON_OPTIONS),
        bson=raw,
    )


def _document(row: Mapping[str, Any]) -> Document:
    moment: datetime = row["timestamp"]
    device_id: str = row["device_id"]
    document: Document = {
        "_id": {
            "bucket": bucket_of(device_id),
            "day": moment.year * 10_000 + moment.month * 100 + moment.day,
            "device_id": device_id,
            "timestamp": moment.replace(tzinfo=UTC),
        },
        "received_at": row["received_at"],
        "total_files_synced": row["total_files_synced"],
        "total_errors": row["total_errors"],
        "internet_speed": row["internet_speed"],
    }
    for name in _OPTIONAL:
        if row[name] is not None:
            document[name] = row[name]
    return document
