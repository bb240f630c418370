"""Events in memory."""

from collections.abc import AsyncIterator, Collection, Sequence
from datetime import datetime
from typing import Any

import msgspec

from pisync.clock import from_ms, rfc3339, to_ms
from pisync.domain.events import ErrorDetail, Outcome, SyncEvent, add_content, outcome, rows
from pisync.stores.interfaces.events import (
    FailureCounts,
    HistoryEntry,
    HistoryQuery,
    InsertOutcome,
    ReplayPosition,
)


class MemoryEventStore:
    """An `EventStore` that forgets when the process ends."""

    def __init__(self) -> None:
        self.events: dict[tuple[str, int], HistoryEntry] = {}

    async def prepare(self) -> None:
        """Nothing to create."""

    async def ping(self) -> None:
        """Always there."""

    async def insert(self, events: Sequence[SyncEvent], received_at: datetime) -> list[InsertOutcome]:
        """Keep the events."""
        return [self._insert(event, received_at) for event in events]

    def _insert(self, event: SyncEvent, received_at: datetime) -> InsertOutcome:
        key = (event.device_id, to_ms(event.timestamp))
        entry = HistoryEntry(event=_as_kept(event), received_at=received_at)
        kept = self.events.setdefault(key, entry)
        if kept is entry:
            return InsertOutcome.STORED
        return InsertOutcome.DUPLICATE if kept.event == entry.event else InsertOutcome.CONFLICT

    async def history(self, query: HistoryQuery) -> list[HistoryEntry]:
        """One page, newest first."""
        page = [
            entry
            for (device_id, _), entry in sorted(self.events.items(), reverse=True)
            if device_id == query.device_id
            and (query.before is None or entry.event.timestamp < query.before)
            and (query.after is None or entry.event.timestamp > query.after)
            and (query.outcome is None or query.outcome.takes(_outcome(entry.event)))
        ]
        return page[: query.limit]

    async def page(self, query: HistoryQuery) -> list[dict[str, Any]]:
        """The same page, as rows."""
        return rows(
            (add_content(entry.event, {}), rfc3339(entry.event.timestamp), rfc3339(entry.received_at))
            for entry in await self.history(query)
        )

    async def knows(self, device_id: str) -> bool:
        """Whether the device has any event."""
        return any(known == device_id for known, _ in self.events)

    async def replay(
        self, since: datetime | None, position: ReplayPosition | None = None
    ) -> AsyncIterator[list[HistoryEntry]]:
        """All events received since then, one batch."""
        if position is not None and position.after is not None:
            return
        yield [
            HistoryEntry(event=_as_replayed(entry.event), received_at=entry.received_at)
            for _, entry in sorted(self.events.items())
            if since is None or entry.received_at >= since
        ]
        if position is not None:
            position.after = True

    async def count(self, since: datetime | None) -> int:
        """How many that are."""
        return sum(1 for entry in self.events.values() if since is None or entry.received_at >= since)

    async def failing(self, device_ids: Collection[str], in_a_row: int) -> set[str]:
        """Those whose newest events are all failures."""
        found = set()
        for device_id in device_ids:
            page = await self.history(HistoryQuery(device_id=device_id, limit=in_a_row))
            if len(page) == in_a_row and all(entry.event.total_errors for entry in page):
                found.add(device_id)
        return found

    async def failure_counts(self, device_id: str, since: datetime | None) -> FailureCounts:
        """Exact counts."""
        mine = [entry.event for (known, _), entry in self.events.items() if known == device_id]
        failures = [event.timestamp for event in mine if event.total_errors]
        last_success = max((event.timestamp for event in mine if not event.total_errors), default=None)
        return FailureCounts(
            total=len(failures),
            since=sum(1 for moment in failures if since is None or moment >= since),
            streak=sum(1 for moment in failures if last_success is None or moment > last_success),
        )

    async def close(self) -> None:
        """Nothing to close."""


def _outcome(event: SyncEvent) -> Outcome:
    return outcome(event.total_files_synced, event.total_errors)


def _as_replayed(event: SyncEvent) -> SyncEvent:
    """The event with the code of its first error alone."""
    codes = [ErrorDetail(code=error.code, message="") for error in event.errors or ()]
    return msgspec.structs.replace(event, errors=codes[:1] or None)


def _as_kept(event: SyncEvent) -> SyncEvent:
    """The event with its timestamp as MongoDB keeps it: UTC, to the millisecond."""
    return msgspec.structs.replace(event, timestamp=from_ms(to_ms(event.timestamp)))
