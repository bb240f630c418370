"""What a replay gives, as events and as states."""

from collections.abc import Iterable
from datetime import UTC, datetime

from pisync.domain.accumulator import Accumulator, StoredEvents
from pisync.domain.device_state import DeviceState
from pisync.domain.events import from_content
from pisync.stores.interfaces.events import EventStore, HistoryEntry


def entries_of(batch: StoredEvents) -> list[HistoryEntry]:
    """The events of a batch, with the code of the first error as their only one."""
    found = []
    for document in batch.documents:
        content = dict(document)
        if code := content.pop("code", None):
            content["errors"] = [{"code": code, "message": ""}]
        timestamp = document["_id"]["timestamp"].replace(tzinfo=UTC)
        event = from_content(document["_id"]["device_id"], timestamp, content)
        found.append(HistoryEntry(event=event, received_at=document["received_at"].replace(tzinfo=UTC)))
    return found


async def replayed(store: EventStore, since: datetime | None) -> list[HistoryEntry]:
    """All events of a replay."""
    return [entry async for batch in store.replay(since) for entry in entries_of(batch)]


def states_of(batches: Iterable[StoredEvents]) -> dict[str, DeviceState]:
    """The states of all devices."""
    accumulator = Accumulator()
    for batch in batches:
        accumulator.add(batch)
    return {device_id: state for some in accumulator.take(7) for device_id, state in some.items()}
