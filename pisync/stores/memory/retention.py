"""Retention of events in memory."""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from pisync import limits
from pisync.clock import EPOCH, to_ms
from pisync.domain.accumulator import StoredEvents
from pisync.domain.device_state import DeviceState
from pisync.stores.interfaces.retention import RetentionProgress
from pisync.stores.memory.events import MemoryEventStore, stored_events


class MemoryRetentionStore:
    """A `RetentionStore` over events in memory."""

    def __init__(self, events: MemoryEventStore) -> None:
        self._events = events
        self._progress: RetentionProgress | None = None

    async def oldest_ms(self) -> int | None:
        """When the oldest event was received."""
        return min((to_ms(entry.received_at) for entry in self._events.events.values()), default=None)

    async def old(self, before_ms: int) -> StoredEvents:
        """The oldest events."""
        found = sorted(self._events.events.items(), key=lambda item: item[1].received_at)
        due = [(key, entry) for key, entry in found if to_ms(entry.received_at) < before_ms]
        due = due[: limits.RETENTION_EVENTS_AT_ONCE]
        batch = stored_events([entry for _, entry in due])
        return StoredEvents(
            documents=[
                {**document, "enriched_at": self._events.enriched_at.get(key)}
                for (key, _), document in zip(due, batch.documents, strict=True)
            ]
        )

    async def keep(self, states: Mapping[str, DeviceState], enriched_at: datetime | None = None) -> None:
        """Merge states into the bases of their devices."""
        bases, changed_ms = self._events.kept_bases, self._events.bases_changed_ms
        enriched_ms = 0 if enriched_at is None else to_ms(enriched_at.replace(tzinfo=EPOCH.tzinfo))
        for device_id, state in states.items():
            bases[device_id] = merged = bases[device_id].merge(state) if device_id in bases else state
            before_ms = changed_ms.get(device_id, 0)
            changed_ms[device_id] = max(merged.received_ms or 0, enriched_ms, before_ms)

    async def delete(self, batch: StoredEvents) -> int:
        """Delete what was read, as it was."""
        deleted = 0
        for document in batch.documents:
            identity = document["_id"]
            key = identity["device_id"], to_ms(identity["timestamp"].replace(tzinfo=EPOCH.tzinfo))
            there = self._events.events.get(key)
            read = {name: value for name, value in document.items() if name != "enriched_at"}
            if there is not None and stored_events([there]).documents[0] == read:
                del self._events.events[key]
                self._events.enriched_at.pop(key, None)
                deleted += 1
        return deleted

    async def progress(self) -> RetentionProgress | None:
        """What was written down last."""
        return self._progress

    async def save(self, progress: RetentionProgress) -> None:
        """Write down how far it is."""
        before_ms = max(progress.before_ms, self._progress.before_ms if self._progress else 0)
        self._progress = msgspec.structs.replace(progress, before_ms=before_ms)
