"""Inserts of events, which are their own duplicate check: at once, or after a look where most came before.

An insert of what is stored makes an error for each event, which costs mongod five times as much as an insert,
or as finding it does. So where much of the last batches was stored before, MongoDB is first asked for what it
has of the next, and only the rest is inserted. The insert stays the judge: what another bridge stores between
the two is a duplicate key, as without the look.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from bson.errors import InvalidDocument
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DocumentTooLarge

from pisync.errors import MongodbUnavailable
from pisync.stores.interfaces.events import InsertOutcome
from pisync.stores.mongodb.connection import DUPLICATE_KEY, REFUSALS, Document
from pisync.stores.mongodb.enrichment import compare_and_enrich, look_and_enrich, wait_until_durable
from pisync.stores.mongodb.known_share import KnownShare

_UNENCODABLE: Final = (InvalidDocument, DocumentTooLarge, OverflowError)


class Inserts:
    """Inserts into a collection of events, and remembers of how much of the last batches it was stored."""

    def __init__(self, events: AsyncCollection[Document]) -> None:
        self._events = events
        self._known = KnownShare()

    async def insert(self, documents: Sequence[Document], received_at: datetime) -> list[InsertOutcome]:
        """What became of each, in order, once all are durable."""
        if self._known.is_worth_a_look(len(documents)):
            outcomes = await self._look_and_insert(documents, received_at)
        else:
            outcomes = await self._insert(documents, received_at)
        new = outcomes.count(InsertOutcome.STORED) + outcomes.count(InsertOutcome.REFUSED)
        self._known.note(known=len(outcomes) - new, count=len(outcomes))
        return outcomes

    async def _look_and_insert(
        self, documents: Sequence[Document], received_at: datetime
    ) -> list[InsertOutcome]:
        try:
            compared = await look_and_enrich(self._events, dict(enumerate(documents)), received_at)
        except _UNENCODABLE:
            return await self._insert(documents, received_at)
        found = compared.outcomes
        others = [index for index in range(len(documents)) if index not in found]
        if others:
            inserted = await self._insert([documents[index] for index in others], received_at)
            found |= zip(others, inserted, strict=True)
        elif not compared.has_written:
            await wait_until_durable(self._events, documents[0])
        return [found[index] for index in range(len(documents))]

    async def _insert(self, documents: Sequence[Document], received_at: datetime) -> list[InsertOutcome]:
        # The command itself: the driver's insert_many looks at each document again, which took as long as
        # encoding it. The callers of `insert` repeat it anyway, which is what the driver's retry would do.
        command = {
            "insert": self._events.name,
            "ordered": False,
            "writeConcern": self._events.write_concern.document,
            "documents": documents,
        }
        try:
            reply = await self._events.database.command(command)
        except _UNENCODABLE:
            # The driver names no culprit: halve until it stands alone.
            if len(documents) == 1:
                return [InsertOutcome.REFUSED]
            middle = len(documents) // 2
            first = await self._insert(documents[:middle], received_at)
            return first + await self._insert(documents[middle:], received_at)
        if "writeConcernError" in reply:
            raise MongodbUnavailable(f"{reply['writeConcernError']}")
        outcomes = [InsertOutcome.STORED] * len(documents)
        known: dict[int, Document] = {}
        for fault in reply.get("writeErrors", ()):
            if fault["code"] == DUPLICATE_KEY:
                known[fault["index"]] = documents[fault["index"]]
            elif fault["code"] in REFUSALS:
                outcomes[fault["index"]] = InsertOutcome.REFUSED
            else:
                raise MongodbUnavailable(f"{fault.get('errmsg')}")
        if known:
            compared = await compare_and_enrich(self._events, known, received_at)
            outcomes = [compared.get(index, outcome) for index, outcome in enumerate(outcomes)]
        return outcomes
