"""The stores in memory: for unit tests and for trying things out, under the contract of the real ones."""

from bisect import bisect_right
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from pisync import limits
from pisync.clock import from_ms, rfc3339, to_ms
from pisync.events import SyncEvent, outcome
from pisync.stores.interfaces import (
    Alert,
    AlertChange,
    AlertQuery,
    Claim,
    DeadLetter,
    DeviceRecord,
    FailingDevice,
    FailureCounts,
    HistoryEntry,
    HistoryQuery,
    HistoryRow,
    Position,
    ProjectionStatus,
    RankedBy,
    Ranking,
    RankingQuery,
    Standing,
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

    async def page(self, query: HistoryQuery) -> list[HistoryRow]:
        """The same page, for showing."""
        return [_row(entry) for entry in await self.history(query)]

    async def knows(self, device_id: str) -> bool:
        """Whether the device has any event."""
        return any(known == device_id for known, _ in self.events)

    async def replay(self, since: datetime | None) -> AsyncIterator[list[SyncEvent]]:
        """All events received since then, one batch."""
        yield [
            entry.event
            for _, entry in sorted(self.events.items())
            if since is None or entry.received_at >= since
        ]

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
        """Nothing to let go of."""


def _as_kept(event: SyncEvent) -> SyncEvent:
    """The event with its timestamp as MongoDB keeps it: UTC, to the millisecond."""
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    return SyncEvent(**fields | {"timestamp": from_ms(to_ms(event.timestamp))})


def _row(entry: HistoryEntry) -> HistoryRow:
    event = entry.event
    return HistoryRow(
        timestamp=rfc3339(event.timestamp),
        outcome=outcome(event.total_files_synced, event.total_errors),
        total_files_synced=event.total_files_synced,
        total_errors=event.total_errors,
        internet_speed=event.internet_speed,
        device_type=event.device_type,
        sync_duration_ms=event.sync_duration_ms,
        errors=event.errors,
        received_at=rfc3339(entry.received_at),
    )


class MemoryStreakStore:
    """A `StreakStore` and `Projection` that forgets when the process ends."""

    def __init__(self) -> None:
        self.states: dict[str, DeviceState] = {}
        self.alerting: set[str] = set()
        self.marks: dict[str, int] = {}
        self.catching: set[str] = set()
        self.built = True
        self.pending = False

    async def ping(self) -> None:
        """Always there."""

    async def attach(self, known: Collection[str]) -> Standing:
        """Find what is kept."""
        lows = (self.marks.get(each, 0) for each in {*known, *self.marks})
        return Standing(
            built=self.built, pending=self.pending, marked=frozenset(self.marks), low_ms=min(lows, default=0)
        )

    async def mark(self, bridge_id: str, low_ms: int, *, catching_up: bool) -> bool:
        """Record how far the bridge's events are joined."""
        self.marks[bridge_id] = low_ms
        if catching_up:
            self.catching.add(bridge_id)
        return self.pending

    async def settle(self, bridge_id: str, open_alerts: Sequence[str]) -> list[AlertChange]:
        """Record that the bridge has caught up."""
        self.catching.discard(bridge_id)
        if self.pending or self.catching:
            return []
        changes = []
        for device_id in dict.fromkeys([*self.states, *self.alerting, *open_alerts]):
            streak = self._streak(device_id)
            opens = streak >= limits.STREAK_ALERT
            if not opens == (device_id in self.alerting) == (device_id in open_alerts):
                changes.append(AlertChange(device_id=device_id, streak=streak, opens=opens))
        return changes

    async def begin_rebuild(
        self, bridge_id: str, alerting: Sequence[str], *, from_nothing: bool = False
    ) -> bool:
        """Start anew."""
        if from_nothing:
            for kept in (self.states, self.alerting, self.catching):
                kept.clear()
        self.built = self.pending = True
        self.alerting.update(alerting)
        return True

    async def report_replay(self, bridge_id: str, replayed: int, to_replay: int) -> None:
        """Nobody to tell."""

    async def finish_rebuild(self, bridge_id: str) -> None:
        """Declare it complete."""
        self.pending = False

    async def leave(self, bridge_id: str) -> None:
        """Forget the mark."""
        self.marks.pop(bridge_id, None)

    async def status(self) -> ProjectionStatus:
        """How true the answers are."""
        return ProjectionStatus(complete=self.built and not self.pending and not self.catching)

    async def apply(self, states: Mapping[str, DeviceState]) -> list[AlertChange]:
        """Join the states."""
        changes: list[AlertChange] = []
        for device_id, state in states.items():
            kept = self.states.get(device_id)
            self.states[device_id] = state if kept is None else kept.merge(state)
            changes += self._outdated(device_id)
        return changes

    async def confirm(self, changes: Sequence[AlertChange]) -> list[AlertChange]:
        """Record the alerts."""
        outdated: list[AlertChange] = []
        for change in changes:
            (self.alerting.add if change.opens else self.alerting.discard)(change.device_id)
            outdated += self._outdated(change.device_id)
        return outdated

    def _outdated(self, device_id: str) -> list[AlertChange]:
        streak = self._streak(device_id)
        opens = streak >= limits.STREAK_ALERT
        if self.pending or self.catching or opens == (device_id in self.alerting):
            return []
        return [AlertChange(device_id=device_id, streak=streak, opens=opens)]

    def _streak(self, device_id: str) -> int:
        return self.states[device_id].streak if device_id in self.states else 0

    async def state(self, device_id: str) -> DeviceState | None:
        """One device's state."""
        return self.states.get(device_id)

    async def records(self, device_ids: Sequence[str]) -> list[DeviceRecord]:
        """All that is kept of these devices."""
        return [
            replace(DeviceRecord.of(self.states.get(device_id)), alerting=device_id in self.alerting)
            for device_id in device_ids
        ]

    async def device_ids(self) -> AsyncIterator[list[str]]:
        """Every device of which anything is kept, one batch."""
        yield [*self.states, *self.alerting]

    async def repeated_failures(self, query: RankingQuery) -> Ranking:
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
        return Ranking(devices=rows[: query.limit], projection=await self.status())

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


class MemoryAlertStore:
    """An `AlertStore` that forgets when the process ends."""

    def __init__(self) -> None:
        self.alerts: list[Alert] = []
        self.silent: set[str] = set()

    async def prepare(self) -> None:
        """Nothing to create."""

    async def open(self, streaks: Mapping[str, int], now: datetime) -> set[str]:
        """Open alerts."""
        opened = streaks.keys() - set(await self.open_devices())
        for device_id in opened:
            alert = Alert(
                alert_id=f"{len(self.alerts):024}",
                device_id=device_id,
                streak=streaks[device_id],
                opened_at=now,
                closed_at=None,
            )
            self.alerts.append(alert)
            self.silent.add(alert.alert_id)
        return opened

    async def resolve(self, device_ids: Collection[str], now: datetime) -> set[str]:
        """Close the open alerts."""
        closed = set()
        for place, alert in enumerate(self.alerts):
            if alert.device_id in device_ids and alert.closed_at is None:
                self.alerts[place] = replace(alert, closed_at=now)
                self.silent.add(alert.alert_id)
                closed.add(alert.device_id)
        return closed

    async def open_devices(self) -> list[str]:
        """The devices with an open alert."""
        return [alert.device_id for alert in self.alerts if alert.closed_at is None]

    async def find(self, query: AlertQuery) -> list[Alert]:
        """A page of alerts."""
        page = [
            alert
            for alert in reversed(self.alerts)
            if query.is_open in {None, alert.closed_at is None}
            and query.device_id in {None, alert.device_id}
            and (query.before is None or alert.alert_id < query.before)
        ]
        return page[: query.limit]

    async def open_alerts(self, device_ids: Collection[str]) -> dict[str, Alert]:
        """The open alert of each device."""
        return {
            alert.device_id: alert
            for alert in self.alerts
            if alert.closed_at is None and alert.device_id in device_ids
        }

    async def unannounced(self, limit: int) -> list[Alert]:
        """Alerts whose present state was not published."""
        return [alert for alert in self.alerts if alert.alert_id in self.silent][:limit]

    async def announce_again(self, closed_since: datetime) -> None:
        """Count them as not published."""
        self.silent |= {
            alert.alert_id
            for alert in self.alerts
            if alert.closed_at is None or alert.closed_at >= closed_since
        }

    async def announced(self, alerts: Sequence[Alert]) -> None:
        """Record that these states were published."""
        for alert in alerts:
            if alert in self.alerts:
                self.silent.discard(alert.alert_id)


class MemoryBridgeRegistry:
    """A `BridgeRegistry` that forgets when the process ends."""

    def __init__(self) -> None:
        self.claims: dict[str, tuple[str, datetime | None]] = {}

    async def claim(self, bridge_id: str, instance: str, now: datetime) -> Claim:
        """Speak for a bridge from now on."""
        _, earlier = before = self.claims.get(bridge_id, ("", None))
        replay_from = now if earlier is None else min(now, earlier)
        self.claims[bridge_id] = (instance, replay_from)
        return Claim(known_before=before[0] != "", replay_from=replay_from)

    async def bridges(self) -> list[str]:
        """All bridges that may have stored events."""
        return list(self.claims)

    async def caught_up(self, bridge_id: str) -> None:
        """Record that this life has a mark."""
        if bridge_id in self.claims:
            self.claims[bridge_id] = (self.claims[bridge_id][0], None)

    async def holder(self, bridge_id: str) -> str | None:
        """The instance that claimed the bridge last."""
        return self.claims[bridge_id][0] if bridge_id in self.claims else None

    async def forget(self, bridge_id: str) -> None:
        """Retire a bridge."""
        self.claims.pop(bridge_id, None)
