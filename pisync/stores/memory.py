"""The stores in memory: for unit tests and for trying things out, under the contract of the real ones."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import datetime

from pisync import limits
from pisync.clock import from_ms, to_ms
from pisync.events import SyncEvent, outcome
from pisync.stores.interfaces import (
    AlertChange,
    DeadLetter,
    FailingDevice,
    FailureCounts,
    HistoryEntry,
    HistoryQuery,
    Position,
    RankedBy,
    RankingQuery,
    Stored,
)
from pisync.streaks import DeviceState


class MemoryEventStore:
    """An `EventStore` that forgets when the process ends."""

    def __init__(self) -> None:
        self.events: dict[tuple[str, int], HistoryEntry] = {}
        self.dead_letters: dict[DeadLetter, datetime] = {}

    async def prepare(self) -> None:
        """Nothing to create."""

    async def ping(self) -> None:
        """Always there."""

    async def insert(self, events: Sequence[SyncEvent], received_at: datetime) -> list[Stored]:
        """Keep the events."""
        return [self._insert(event, received_at) for event in events]

    def _insert(self, event: SyncEvent, received_at: datetime) -> Stored:
        key = (event.device_id, to_ms(event.timestamp))
        entry = HistoryEntry(event=_as_kept(event), received_at=received_at)
        kept = self.events.setdefault(key, entry)
        if kept is entry:
            return Stored.STORED
        return Stored.DUPLICATE if kept.event == entry.event else Stored.CONFLICT

    async def add_dead_letters(self, letters: Sequence[DeadLetter], received_at: datetime) -> None:
        """Keep the dead letters."""
        for letter in letters:
            self.dead_letters.setdefault(letter, received_at)

    async def history(self, query: HistoryQuery) -> list[HistoryEntry]:
        """One page, newest first."""
        page = [
            entry
            for (device_id, _), entry in sorted(self.events.items(), reverse=True)
            if device_id == query.device_id
            and (query.before is None or entry.event.timestamp < query.before)
            and (query.after is None or entry.event.timestamp > query.after)
            and query.outcome in {None, outcome(entry.event.total_files_synced, entry.event.total_errors)}
        ]
        return page[: query.limit]

    async def knows(self, device_id: str) -> bool:
        """Whether the device has any event."""
        return any(known == device_id for known, _ in self.events)

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
        """Nothing to let go of."""


def _as_kept(event: SyncEvent) -> SyncEvent:
    """The event with its timestamp as MongoDB keeps it: UTC, to the millisecond."""
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    return SyncEvent(**fields | {"timestamp": from_ms(to_ms(event.timestamp))})


class MemoryStreakStore:
    """A `StreakStore` that forgets when the process ends."""

    def __init__(self) -> None:
        self.states: dict[str, DeviceState] = {}
        self.alerting: set[str] = set()

    async def ping(self) -> None:
        """Always there."""

    async def apply(self, states: Mapping[str, DeviceState]) -> list[AlertChange]:
        """Join the states."""
        changes: list[AlertChange] = []
        for device_id, state in states.items():
            kept = self.states.get(device_id)
            joined = self.states[device_id] = state if kept is None else kept.merge(state)
            changes += self._outdated(device_id, joined)
        return changes

    async def confirm(self, changes: Sequence[AlertChange]) -> list[AlertChange]:
        """Record the alerts."""
        outdated: list[AlertChange] = []
        for change in changes:
            (self.alerting.add if change.opens else self.alerting.discard)(change.device_id)
            outdated += self._outdated(change.device_id, self.states[change.device_id])
        return outdated

    def _outdated(self, device_id: str, state: DeviceState) -> list[AlertChange]:
        if state.alerting == (device_id in self.alerting):
            return []
        return [AlertChange(device_id=device_id, streak=state.streak, opens=state.alerting)]

    async def state(self, device_id: str) -> DeviceState | None:
        """One device's state."""
        return self.states.get(device_id)

    async def repeated_failures(self, query: RankingQuery) -> list[FailingDevice]:
        """One page of failing devices."""
        rows = []
        for device_id, state in self.states.items():
            since = 0
            if query.since_ms is not None:
                since = bisect_right(state.failures_ms, query.since_ms - 1)
            row = FailingDevice(
                device_id=device_id,
                failures=state.failures,
                failures_since=state.failures - since,
                streak=state.streak,
                last_failure_ms=state.failures_ms[-1] if state.failures_ms else 0,
                last_success_ms=state.last_success_ms,
                last_seen_ms=state.last_event.timestamp_ms,
                position=Position(score=_score(state, query.ranked_by), device_id=device_id),
            )
            if row.failures_since > query.more_than:
                rows.append(row)
        rows.sort(key=lambda row: (row.position.score, row.device_id), reverse=True)
        if query.after is not None:
            end = (query.after.score, query.after.device_id)
            rows = [row for row in rows if (row.position.score, row.device_id) < end]
        return rows[: query.limit]

    async def close(self) -> None:
        """Nothing to let go of."""


def _score(state: DeviceState, ranked_by: RankedBy) -> int:
    match ranked_by:
        case RankedBy.FAILURES:
            return min(state.failures, limits.FAILURES_KEPT_MAX)
        case RankedBy.STREAK:
            return state.streak
        case RankedBy.LAST_SEEN:
            return state.last_event.timestamp_ms
