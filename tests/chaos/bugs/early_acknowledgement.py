"""A bridge with a deliberate bug: it answers and acknowledges while MongoDB has yet to write."""

import asyncio
from collections.abc import Sequence
from datetime import datetime

from bridge.retry import until_available
from pisync.domain.events import SyncEvent
from pisync.stores import opening
from pisync.stores.interfaces.events import InsertOutcome
from pisync.stores.mongodb.connection import MongoConnection
from pisync.stores.mongodb.events import MongoEventStore


class HastyEventStore(MongoEventStore):
    """Says that the events are stored, and stores them afterwards."""

    def __init__(self, connection: MongoConnection) -> None:
        super().__init__(connection)
        self._writing: set[asyncio.Task[list[InsertOutcome]]] = set()

    async def insert(self, events: Sequence[SyncEvent], received_at: datetime) -> list[InsertOutcome]:
        """Store the events some time."""
        insert = super().insert
        task = asyncio.create_task(until_available(lambda: insert(events, received_at)))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        return [InsertOutcome.STORED] * len(events)


opening.MongoEventStore = HastyEventStore  # type: ignore[attr-defined]
