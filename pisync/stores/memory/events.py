"""Events in memory."""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import reduce
from itertools import groupby
from typing import Any

import msgspec

from pisync import limits
from pisync.clock import from_ms, rfc3339, to_ms
from pisync.domain.accumulator import StoredEvents
from pisync.domain.days import DAY_MS
from pisync.domain.device_state import DeviceState, project
from pisync.domain.events import (
    ErrorDetail,
    Outcome,
    SyncEvent,
    add_content,
    additions,
    from_content,
    outcome,
    rows,
)
from pisync.domain.identity import bucket_of, identities
from pisync.stores.interfaces.events import (
    DayFigures,
    DaysHint,
    HistoryEntry,
    HistoryPage,
    HistoryQuery,
    InsertOutcome,
    ReplayPosition,
)


class MemoryEventStore:
    """An `EventStore` that forgets when the process ends."""

    def __init__(self) -> None:
        self.events: dict[tuple[str, int], HistoryEntry] = {}
        self.enriched_at: dict[tuple[str, int], datetime] = {}
        self.kept_bases: dict[str, DeviceState] = {}
        self.bases_changed_ms: dict[str, int] = {}

    async def prepare(self) -> None:
        """Nothing to create."""

    async def check_version(self) -> None:
        """It is this program's own."""

    async def ping(self) -> None:
        """Always there."""

    async def insert(self, events: Sequence[SyncEvent], received_at: datetime) -> list[InsertOutcome]:
        """Keep the events."""
        return [self._insert(event, received_at) for event in events]

    def _insert(self, event: SyncEvent, received_at: datetime) -> InsertOutcome:
        key = (event.device_id, to_ms(event.timestamp))
        given = add_content(event, {})
        known = self.events.get(key)
        if known is None:
            self.events[key] = _kept(key, given, received_at)
            return InsertOutcome.STORED
        content = add_content(known.event, {})
        added = additions(content, given)
        if added is None:
            return InsertOutcome.CONFLICT
        if not added:
            return InsertOutcome.DUPLICATE
        self.events[key] = _kept(key, content | added, known.received_at)
        self.enriched_at[key] = max(received_at, self.enriched_at.get(key, received_at))
        return InsertOutcome.ENRICHED

    async def received(self, events: Sequence[SyncEvent]) -> list[datetime | None]:
        """When each was received."""
        found = [self.events.get((event.device_id, to_ms(event.timestamp))) for event in events]
        return [None if entry is None else entry.received_at for entry in found]

    async def history(self, query: HistoryQuery) -> list[HistoryEntry]:
        """One page, newest first."""
        return [_without_details(entry) for entry in self._page(query)]

    async def page(self, query: HistoryQuery, hint: DaysHint | None = None) -> HistoryPage:
        """The same page, as rows."""
        found: list[dict[str, Any]] = []
        size = 0
        for entry in self._page(query):
            moments = rfc3339(entry.event.timestamp), rfc3339(entry.received_at)
            found += rows([(add_content(entry.event, {}), *moments)])
            size += len(msgspec.json.encode(found[-1]))
            if size > limits.PAGE_BYTES_MAX and len(found) > 1:
                return HistoryPage(rows=found[:-1], is_short=True)
        return HistoryPage(rows=found, is_short=False)

    def _page(self, query: HistoryQuery) -> list[HistoryEntry]:
        own = [(key, entry) for key, entry in self.events.items() if key[0] == query.device_id]
        page = [
            entry
            for _, entry in sorted(own, reverse=True)
            if (query.before is None or entry.event.timestamp < query.before)
            and (query.after is None or entry.event.timestamp > query.after)
            and (query.outcome is None or query.outcome.takes(_outcome(entry.event)))
        ]
        return page[: query.limit]

    async def knows(self, device_id: str) -> bool:
        """Whether the device has any event, or had."""
        return device_id in self.kept_bases or any(known == device_id for known, _ in self.events)

    async def confirm_primary(self) -> None:
        """There is but one process."""

    async def replay(
        self,
        since: datetime | None,
        position: ReplayPosition | None = None,
        *,
        by_bucket: bool = False,
        held_bytes_max: int = limits.REPLAY_GROUPED_BYTES_MAX,
    ) -> AsyncIterator[StoredEvents]:
        """All events received since then, one batch; or a batch for each bucket."""
        position = ReplayPosition() if position is None else position
        found = sorted(self.events.items(), key=lambda item: (bucket_of(item[0][0]), item[0]))
        if since is not None:
            if position.after is None:
                yield stored_events(
                    [
                        entry
                        for key, entry in found
                        if max(entry.received_at, self.enriched_at.get(key, entry.received_at)) >= since
                    ]
                )
                position.after = True
            return
        start: Any = -1 if position.after is None else position.after
        for bucket, items in groupby(found, key=lambda item: bucket_of(item[0][0])):
            if bucket > start:
                yield stored_events([entry for _, entry in items], bucket)
                position.after = bucket

    async def bases(
        self, since: datetime | None = None, bucket: int | None = None
    ) -> AsyncIterator[dict[str, DeviceState]]:
        """What deleted events came to."""
        for device_id, state in list(self.kept_bases.items()):
            is_asked_for = since is None or self.bases_changed_ms[device_id] >= to_ms(since)
            if is_asked_for and bucket in {None, bucket_of(device_id)}:
                yield {device_id: state}

    async def base(self, device_id: str) -> DeviceState | None:
        """What a device's deleted events came to."""
        return self.kept_bases.get(device_id)

    async def count(self, since: datetime | None) -> int:
        """How many that are."""
        return sum(1 for entry in self.events.values() if since is None or entry.received_at >= since)

    async def daily(self, days: Mapping[str, Collection[int]]) -> dict[tuple[str, int], DayFigures]:
        """What the events of some days come to."""
        counted: dict[tuple[str, int], DayFigures] = {}
        for (device_id, moment_ms), entry in self.events.items():
            day, event = moment_ms // DAY_MS, entry.event
            if day in days.get(device_id, ()):
                before = counted.get((device_id, day), DayFigures(0, 0, 0, 0, 0.0))
                counted[device_id, day] = DayFigures(
                    before.events + 1,
                    before.failures + (event.total_errors > 0),
                    before.partial + (_outcome(event) is Outcome.PARTIAL),
                    min(before.files + event.total_files_synced, limits.COUNT_MAX),
                    before.speeds + event.internet_speed,
                )
        return counted

    async def first_errors(self, moments: Sequence[tuple[str, int]]) -> list[ErrorDetail | None]:
        """The first error of each."""
        return [_first_error(self.events.get(moment)) for moment in moments]

    async def failing(self, device_ids: Collection[str], in_a_row: int) -> set[str]:
        """Those whose newest events are all failures."""
        found = set()
        for device_id in device_ids:
            page = await self.history(HistoryQuery(device_id=device_id, limit=limits.FAILURES_KEPT_MAX))
            states = [*project([entry.event for entry in page]).values()]
            if device_id in self.kept_bases:
                states.append(self.kept_bases[device_id])
            if states and reduce(DeviceState.merge, states).streak >= in_a_row:
                found.add(device_id)
        return found

    async def count_failures(self, device_id: str, moments: Sequence[datetime | None]) -> list[int]:
        """How many failures there are since each of the moments."""
        mine = [entry.event for (known, _), entry in self.events.items() if known == device_id]
        failures = {to_ms(event.timestamp) for event in mine if event.total_errors}
        if device_id in self.kept_bases:
            failures.update(self.kept_bases[device_id].failures_ms)
        return [sum(1 for each in failures if since is None or each >= to_ms(since)) for since in moments]

    async def close(self) -> None:
        """Nothing to close."""


def _outcome(event: SyncEvent) -> Outcome:
    return outcome(event.total_files_synced, event.total_errors)


def _first_error(entry: HistoryEntry | None) -> ErrorDetail | None:
    if entry is None or not entry.event.errors:
        return None
    first = entry.event.errors[0]
    code, message = first.code[: limits.ERROR_CODE_CHARS_MAX], first.message[: limits.SAMPLE_CHARS_MAX]
    return ErrorDetail(code=code, message=message) if code or message else None


def _kept(key: tuple[str, int], content: dict[str, Any], received_at: datetime) -> HistoryEntry:
    """The entry as MongoDB keeps it: its timestamp in UTC, to the millisecond."""
    device_id, moment_ms = key
    return HistoryEntry(event=from_content(device_id, from_ms(moment_ms), content), received_at=received_at)


def stored_events(entries: Iterable[HistoryEntry], bucket: int | None = None) -> StoredEvents:
    """The entries as a batch of a replay."""
    return StoredEvents(documents=[_document(entry) for entry in entries], bucket=bucket)


def _document(entry: HistoryEntry) -> dict[str, Any]:
    [identity] = identities([entry.event])
    identity["timestamp"] = identity["timestamp"].replace(tzinfo=None)
    received_at = entry.received_at.astimezone(UTC).replace(tzinfo=None)
    document = add_content(entry.event, {"_id": identity, "received_at": received_at})
    if document.pop("errors", None):
        document["code"] = _first_code(entry.event)
    return document


def _first_code(event: SyncEvent) -> str:
    return event.errors[0].code[: limits.ERROR_CODE_CHARS_MAX] if event.errors else ""


def _without_details(entry: HistoryEntry) -> HistoryEntry:
    """The event with the code of its first error alone."""
    code = _first_code(entry.event)
    errors = [ErrorDetail(code=code, message="")] if code else None
    event = msgspec.structs.replace(entry.event, errors=errors)
    return msgspec.structs.replace(entry, event=event)
