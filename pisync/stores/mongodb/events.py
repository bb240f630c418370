"""Events in MongoDB: the truth.

`_id: {bucket, day, device_id, timestamp}` is an event's identity (`pisync/domain/identity.py`), so that an
insert is its own duplicate check and touches the pages of the days that arrive. Every write waits for the
majority and its journal.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, Self

from bson.codec_options import CodecOptions
from pymongo import ASCENDING, DESCENDING
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import OperationFailure
from pymongo.read_concern import ReadConcern

from pisync import limits
from pisync.clock import from_ms, rfc3339_of_utc, to_ms
from pisync.domain.accumulator import StoredEvents
from pisync.domain.device_state import DeviceState
from pisync.domain.events import ErrorDetail, SyncEvent, add_content, from_content, rows
from pisync.domain.identity import identities, identity
from pisync.stores.interfaces.events import (
    DayFigures,
    DaysHint,
    HistoryEntry,
    HistoryPage,
    HistoryQuery,
    InsertOutcome,
    ReplayPosition,
)
from pisync.stores.mongodb import by_device, reading, replaying, schema
from pisync.stores.mongodb.bases import Bases
from pisync.stores.mongodb.connection import (
    AUTHENTICATION_FAILED,
    NOT_A_REPLICA_SET,
    UNAUTHORIZED,
    Document,
    MongoConnection,
    map_driver_errors,
    not_permitted,
)
from pisync.stores.mongodb.daily import daily
from pisync.stores.mongodb.failing import failing
from pisync.stores.mongodb.inserting import Inserts


class MongoEventStore:
    """An `EventStore` in a MongoDB database."""

    def __init__(self, connection: MongoConnection) -> None:
        self._connection = connection
        self._events = connection.database.get_collection("sync_events")
        # For pages documents are decoded as the driver does it fastest: datetimes without a zone, which it
        # makes without calling into Python, and large integers in its own class.
        self._plain: AsyncCollection[Document] = self._events.with_options(CodecOptions(tz_aware=False))
        self._density = by_device.Density()
        self._inserts = Inserts(self._events)
        self._bases = Bases(connection.database)
        self._confirmed = connection.database.get_collection(
            "schema", read_concern=ReadConcern("linearizable")
        )

    @classmethod
    def connect(cls, url: str) -> Self:
        """A store with a connection of its own.

        Raises:
            ConfigurationError: the connection string cannot be understood.
        """
        return cls(MongoConnection(url))

    async def prepare(self) -> None:
        """Create the indexes where they are absent.

        Raises:
            ConfigurationError: what is stored is of another version, or MongoDB does not accept our
                credentials or lacks permissions for them.
        """
        with map_driver_errors():
            try:
                await schema.check(self._events)
                await schema.write_version(self._events, schema.VERSION)
                await schema.create_indexes(self._events)
                await self._bases.prepare()
            except OperationFailure as error:
                if error.code in {AUTHENTICATION_FAILED, UNAUTHORIZED}:
                    raise not_permitted(error) from None
                raise

    async def check_version(self) -> None:
        """Return where what is stored is of the version that this program knows."""
        with map_driver_errors():
            await schema.check(self._events)

    async def ping(self) -> None:
        """Return when MongoDB answers."""
        with map_driver_errors():
            await self._connection.client.admin.command("ping")

    async def insert(self, events: Sequence[SyncEvent], received_at: datetime) -> list[InsertOutcome]:
        """Keep the events; returns what became of each, in order, once all are durable."""
        if not events:
            return []
        received = received_at.replace(tzinfo=None)  # the encoder asks an aware one for its offset every time
        with map_driver_errors():
            return await self._inserts.insert(documents(events, received), received)

    async def received(self, events: Sequence[SyncEvent]) -> list[datetime | None]:
        """When each event was first stored as received, in one round trip."""
        if not events:
            return []
        asked = {"_id": {"$in": identities(events)}}
        with map_driver_errors():
            found = self._events.find(asked, {"received_at": 1}).limit(len(events)).batch_size(len(events))
            moments = {reading.key(document): document["received_at"] async for document in found}
        return [moments.get((event.device_id, to_ms(event.timestamp))) for event in events]

    async def history(self, query: HistoryQuery) -> list[HistoryEntry]:
        """One page of a device's history, newest first."""
        with map_driver_errors():
            found = await by_device.newest(self._events, query, reading.WITH_FIRST_CODE)
        return [_entry(document) for document in found]

    async def page(self, query: HistoryQuery, hint: DaysHint | None = None) -> HistoryPage:
        """The same page, as rows; where there are large events, in one round trip more."""
        at_first = self._density.days(query)
        with map_driver_errors():
            found = await by_device.newest(
                self._plain, query, reading.with_size(), at_first=at_first, hint=hint
            )
            self._density.learn(query, found)
            page = reading.first_of(found, limits.PAGE_BYTES_MAX)
            is_short = len(page) < len(found)
            whole = reading.with_plain_integers(await reading.with_errors(self._plain, page))
            return HistoryPage(rows=_rows(whole), is_short=is_short)

    async def knows(self, device_id: str) -> bool:
        """Whether any event of the device is stored, or was."""
        query = HistoryQuery(device_id=device_id, limit=1)
        with map_driver_errors():
            if await by_device.newest(self._plain, query, {"_id": 1}):
                return True
            return bool(await self._bases.of([device_id]))

    async def confirm_primary(self) -> None:
        """Read what a majority has to confirm, of which a primary that was replaced has none.

        MongoDB writes an empty entry into its own log for it: who may only read may do this, and nothing of
        ours is changed.
        """
        with map_driver_errors():
            try:
                await self._confirmed.find_one(
                    {"_id": self._events.name}, {"_id": 1}, max_time_ms=limits.CONFIRM_TIMEOUT_MS
                )
            except OperationFailure as error:
                if error.code != NOT_A_REPLICA_SET:  # a single server is replaced by none
                    raise

    async def replay(
        self,
        since: datetime | None,
        position: ReplayPosition | None = None,
        *,
        by_bucket: bool = False,
        held_bytes_max: int = limits.REPLAY_GROUPED_BYTES_MAX,
    ) -> AsyncIterator[StoredEvents]:
        """All events received or enriched since then, by that time, or all events."""
        position = ReplayPosition() if position is None else position
        if position.orders is None:
            position.orders = (
                [await self._order(by_bucket=by_bucket)] if since is None else ["received_at", "enriched_at"]
            )
            position.held = replaying.Grouped()
        while position.orders:
            order = position.orders[0]
            if position.until is None:
                # Not what comes in meanwhile, or a replay beside a drain would run after it and read it
                # again.
                position.until = await self._newest("received_at" if order == "_id" else order, since)
            if position.until is not None:
                reads = (
                    self._by_bucket(position)
                    if order == "_id"
                    else self._by(order, since, position, held_bytes_max)
                )
                async for batch in reads:
                    yield batch
            position.orders.pop(0)
            position.until = position.after = None
            position.is_read = False

    async def _order(self, *, by_bucket: bool) -> str:
        """In which a replay of everything reads: that in which the documents lie, if it may."""
        if by_bucket:
            return "_id"
        with map_driver_errors():
            return "received_at" if await replaying.lie_as_they_came(self._events) else "_id"

    async def _newest(self, clock: str, since: datetime | None) -> datetime | None:
        """The newest time by one of MongoDB's clocks that is not before `since`."""
        asked = {} if since is None else {clock: {"$gte": since}}
        with map_driver_errors():
            newest = await self._events.find_one(asked, {clock: 1}, sort=[(clock, DESCENDING)])
        found: datetime | None = None if newest is None else newest[clock]
        return found

    async def _by(
        self, clock: str, since: datetime | None, position: ReplayPosition, held_bytes_max: int
    ) -> AsyncIterator[StoredEvents]:
        """The events by when they were received, or enriched, as they lie on disk; given bucket by bucket."""
        held: replaying.Grouped = position.held
        # Several events may have the time at which it was interrupted: merging them again is harmless.
        start = since if position.after is None else position.after
        bounds = {"$lte": position.until} if start is None else {"$gte": start, "$lte": position.until}
        if not position.is_read:
            async for reply in self._found({clock: bounds}, clock, clock):
                for part in replaying.parts(reply):
                    position.after = held.add(part)[clock]
                    await asyncio.sleep(0)  # live traffic beside it waits for no more than this
                async for batch in _given(held, since, held_bytes_max):
                    yield batch
            held.pack()
            position.is_read = True
        async for batch in _given(held, since, 0):
            yield batch

    async def _by_bucket(self, position: ReplayPosition) -> AsyncIterator[StoredEvents]:
        """All events, bucket after bucket."""
        bounds: Document = {"received_at": {"$lte": position.until}}
        if position.after is not None:
            bounds["_id"] = {"$gt": position.after}
        async for reply in self._found(bounds, "_id", "_id_"):
            for part in replaying.parts(reply):
                for batch in replaying.batches(replaying.documents(part)):
                    yield batch
                    position.after = batch.documents[-1]["_id"]
                await asyncio.sleep(0)

    async def _found(self, bounds: Document, order: str, hint: str) -> AsyncIterator[bytes]:
        """Some events after others, as BSON, in the order of an index."""
        cursor = self._events.find_raw_batches(bounds, replaying.PROJECTION).sort(order, ASCENDING).hint(hint)
        cursor = cursor.batch_size(limits.REPLAY_BATCH_EVENTS)
        async with cursor, aclosing(replaying.replies(cursor)) as found:
            with map_driver_errors():
                async for reply in found:
                    yield reply

    async def bases(
        self, since: datetime | None = None, bucket: int | None = None
    ) -> AsyncIterator[dict[str, DeviceState]]:
        """What deleted events came to, some devices at a time."""
        async with aclosing(self._bases.all(since, bucket)) as found:
            with map_driver_errors():
                async for states in found:
                    yield states

    async def base(self, device_id: str) -> DeviceState | None:
        """What a device's deleted events came to."""
        with map_driver_errors():
            return (await self._bases.of([device_id])).get(device_id)

    async def count(self, since: datetime | None) -> int:
        """About how many events that is."""
        with map_driver_errors():
            if since is None:
                return await self._events.estimated_document_count()
            return await self._events.count_documents(
                {"received_at": {"$gte": since}}, hint="received_at", maxTimeMS=limits.COUNT_TIMEOUT_MS
            )

    async def daily(self, days: Mapping[str, Collection[int]]) -> dict[tuple[str, int], DayFigures]:
        """What the events of some days come to."""
        with map_driver_errors():
            return await daily(self._events, days)

    async def first_errors(self, moments: Sequence[tuple[str, int]]) -> list[ErrorDetail | None]:
        """The first error of each, in one round trip."""
        ids = [identity(device_id, from_ms(moment_ms)) for device_id, moment_ms in moments]
        with map_driver_errors():
            errors = await reading.first_errors(self._events, ids)
        return [errors.get(moment) for moment in moments]

    async def failing(self, device_ids: Collection[str], in_a_row: int) -> set[str]:
        """Those whose newest events are all failures."""
        with map_driver_errors():
            return await failing(self._events, device_ids, in_a_row)

    async def count_failures(self, device_id: str, moments: Sequence[datetime | None]) -> list[int]:
        """How many failures there are since each of the moments."""
        with map_driver_errors():
            return await by_device.count_failures(self._events, device_id, moments)

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.close()


def documents(events: Sequence[SyncEvent], received_at: datetime) -> list[Document]:
    """The events as they are kept: the identity is the `_id`."""
    return [
        add_content(event, {"_id": identity, "received_at": received_at})
        for event, identity in zip(events, identities(events), strict=True)
    ]


async def _given(
    held: replaying.Grouped, since: datetime | None, held_bytes_max: int
) -> AsyncIterator[StoredEvents]:
    """What is held, of the bucket that has most of it, until no more than so many bytes are left."""
    while held.holds_more_than(held_bytes_max):
        for part in held.largest():
            found = replaying.documents(part)
            if since is None:
                for batch in replaying.batches(found):
                    yield batch
            else:  # often few, of which none has to be merged for its bucket alone
                yield StoredEvents(documents=replaying.with_codes(found))
            await asyncio.sleep(0)


def _rows(found: list[Document]) -> list[dict[str, Any]]:
    times = [moment for event in found for moment in (event["_id"]["timestamp"], event["received_at"])]
    texts = iter(rfc3339_of_utc(times))
    return rows(zip(found, texts, texts, strict=True))


def _event(document: Document) -> SyncEvent:
    return from_content(document["_id"]["device_id"], document["_id"]["timestamp"], document)


def _entry(document: Document) -> HistoryEntry:
    """An event that was read with the code of its first error alone."""
    if code := document.get("code"):
        document["errors"] = [{"code": code, "message": ""}]
    return HistoryEntry(event=_event(document), received_at=document["received_at"])
