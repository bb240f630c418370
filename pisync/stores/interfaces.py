"""What the rest of PiSync asks of its stores. The in-memory and the real ones pass one contract suite."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, Protocol, Self

import msgspec

from pisync.events import ErrorDetail, Outcome, Reason, SyncEvent
from pisync.streaks import DeviceState, LastEvent


class Stored(StrEnum):
    """What became of one event that was given to the event store."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadLetter:
    """Something that could not be taken in, with its bytes.

    The same bytes from the same topic for the same reason are one dead letter, however often they come.
    """

    topic: str
    device_id: str | None
    reason: Reason
    detail: str
    raw: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryEntry:
    """A stored event and when the bridge received it."""

    event: SyncEvent
    received_at: datetime


class HistoryRow(msgspec.Struct, frozen=True):
    """A stored event as a page shows it, ready to be encoded; times are RFC 3339 text."""

    timestamp: str
    outcome: Outcome
    total_files_synced: int
    total_errors: int
    internet_speed: float
    device_type: str | None
    sync_duration_ms: int | None
    errors: Sequence[ErrorDetail | Mapping[str, str]] | None
    received_at: str


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryQuery:
    """A page of one device's history, newest first; `before` and `after` are exclusive bounds."""

    device_id: str
    limit: int
    before: datetime | None = None
    after: datetime | None = None
    outcome: Outcome | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FailureCounts:
    """Exact failure counts of one device: all, since a moment, and newer than its last success."""

    total: int
    since: int
    streak: int


class EventStore(Protocol):
    """Keeps every event and every dead letter for good.

    Each method raises `EventStoreUnavailable` where MongoDB is away; the call may then be repeated.
    """

    async def prepare(self) -> None:
        """Create what the store needs (indexes); may be repeated."""

    async def ping(self) -> None:
        """Return when the store answers."""

    async def insert(self, events: Sequence[SyncEvent], received_at: datetime) -> list[Stored]:
        """Keep the events; returns what became of each, in order, once all are durable."""

    async def add_dead_letters(self, letters: Sequence[DeadLetter], received_at: datetime) -> None:
        """Keep the dead letters, each once; returns once all are durable."""

    async def history(self, query: HistoryQuery) -> list[HistoryEntry]:
        """One page of a device's history, newest first."""

    async def page(self, query: HistoryQuery) -> list[HistoryRow]:
        """The same page, for showing: no event is made of what is stored."""

    async def knows(self, device_id: str) -> bool:
        """Whether any event of the device is stored."""

    def replay(self, since: datetime | None) -> AsyncIterator[list[SyncEvent]]:
        """All events received at `since` or later, in batches; None: all events, device after device.

        What is stored while it runs may be missing; what was stored before is not.
        """

    async def count(self, since: datetime | None) -> int:
        """About how many events `replay` would give."""

    async def failure_counts(self, device_id: str, since: datetime | None) -> FailureCounts:
        """Exact counts, for the rare device whose failures exceed what the projection keeps."""

    async def failing(self, device_ids: Collection[str], in_a_row: int) -> set[str]:
        """Those of the devices whose newest `in_a_row` events are all failures."""

    async def close(self) -> None:
        """Let go of the connections."""


class RankedBy(StrEnum):
    """The orders in which failing devices are listed, each descending."""

    FAILURES = "failures"
    STREAK = "streak"
    LAST_SEEN = "last_seen"


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """Where a page ended: the last row's score and device id. Rows are ordered by both, descending."""

    score: int
    device_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RankingQuery:
    """A page of the devices with more than `more_than` failures (since `since`, where given)."""

    more_than: int
    ranked_by: RankedBy
    limit: int
    since_ms: int | None = None
    after: Position | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FailingDevice:
    """One row; counts go up to `limits.FAILURES_KEPT_MAX`, times are epoch milliseconds."""

    device_id: str
    failures: int
    failures_since: int
    streak: int
    last_failure_ms: int
    last_success_ms: int | None
    last_seen_ms: int
    position: Position


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectionStatus:
    """How true the projection is: `complete`, or how far the replay is that makes it so.

    `replayed` of `to_replay` events are joined again; both are 0 where no replay has begun.
    """

    complete: bool
    replayed: int = 0
    to_replay: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """A page of failing devices, and how true it is."""

    devices: list[FailingDevice]
    projection: ProjectionStatus


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceRecord:
    """All that the projection holds of one device, right or wrong: its state and what follows from it.

    `ranks` are its scores among the failing devices; `alerting`: its alert is open and confirmed.
    """

    last_success_ms: int | None
    failures_ms: tuple[int, ...]
    last_event: LastEvent | None
    ranks: Mapping[RankedBy, int]
    alerting: bool

    @classmethod
    def of(cls, state: DeviceState | None) -> Self:
        """What the projection should hold for a state; None: a device without events."""
        if state is None:
            return cls(last_success_ms=None, failures_ms=(), last_event=None, ranks={}, alerting=False)
        ranks = {
            RankedBy.FAILURES: state.failures,
            RankedBy.STREAK: state.streak,
            RankedBy.LAST_SEEN: state.last_event.timestamp_ms,
        }
        return cls(
            last_success_ms=state.last_success_ms,
            failures_ms=state.failures_ms,
            last_event=state.last_event,
            ranks=ranks if state.failures else {},
            alerting=state.alerting,
        )


class StreakStore(Protocol):
    """Reads each device's state.

    Each method raises `StreakStoreUnavailable` where Redis is away; the call may then be repeated.
    """

    async def ping(self) -> None:
        """Return when the store answers."""

    async def state(self, device_id: str) -> DeviceState | None:
        """One device's state; None for a device never seen."""

    async def repeated_failures(self, query: RankingQuery) -> Ranking:
        """One page of failing devices."""

    async def status(self) -> ProjectionStatus:
        """How true the answers are."""

    async def records(self, device_ids: Sequence[str]) -> list[DeviceRecord]:
        """All that is kept of these devices, in their order."""

    def device_ids(self) -> AsyncIterator[list[str]]:
        """Every device of which anything is kept, in batches; some more than once."""

    async def close(self) -> None:
        """Let go of the connections."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertChange:
    """A device whose streak and whose confirmed alert differ: to be opened, or to be closed."""

    device_id: str
    streak: int
    opens: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What a bridge finds when it attaches: whether there is a projection, and how complete it may be.

    `pending`: a rebuild of it is under way. `marked`: the bridges with a mark. `low_ms`: the lowest mark of
    any bridge, 0 where a known one has none; what was received before it, by whichever bridge, is joined.
    """

    built: bool
    pending: bool
    marked: frozenset[str]
    low_ms: int


class Projection(StreakStore, Protocol):
    """Keeps each device's state by joining what it is given, and knows how complete it is.

    The bridge's side of the streak store. A bridge attaches first. Every writing method raises
    `ProjectionLost` once the projection is not the one that was attached to: it is not written to then.
    """

    async def attach(self, known: Collection[str]) -> Standing:
        """Find the projection and stick to it; these bridges have stored events, marked or not."""

    async def apply(self, states: Mapping[str, DeviceState]) -> list[AlertChange]:
        """Join the states into the kept ones.

        Returns every touched device whose alert is out of date; none while any bridge catches up, because
        half a history would raise alerts that the whole one does not.
        """

    async def confirm(self, changes: Sequence[AlertChange]) -> list[AlertChange]:
        """Record that these alerts were opened or closed, so that `apply` stops reporting them.

        Returns those that are out of date again, because another bridge moved the streak meanwhile.
        """

    async def mark(self, bridge_id: str, low_ms: int, *, catching_up: bool) -> bool:
        """Record that all this bridge's events received before `low_ms` are joined.

        Returns whether a rebuild is pending.
        """

    async def settle(self, bridge_id: str, open_alerts: Sequence[str]) -> list[AlertChange]:
        """Record that this bridge has caught up.

        Returns every device whose streak, whose open alert and whose confirmed alert do not all agree; none
        while another bridge catches up, which will compare in its turn.
        """

    async def begin_rebuild(
        self, bridge_id: str, alerting: Sequence[str], *, from_nothing: bool = False
    ) -> bool:
        """Start a new projection, in which these devices are alerting; False where another bridge does.

        What is kept stays and is joined with, unless `from_nothing`: then all but the marks is removed first,
        because joining cannot undo what is wrong.
        """

    async def report_replay(self, bridge_id: str, replayed: int, to_replay: int) -> None:
        """Say how far a replay is, and that whoever does it is alive."""

    async def finish_rebuild(self, bridge_id: str) -> None:
        """Declare the projection complete."""

    async def leave(self, bridge_id: str) -> None:
        """Forget this bridge's mark."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """A device that failed `streak` times in a row when the alert was opened; open until `closed_at`."""

    alert_id: str
    device_id: str
    streak: int
    opened_at: datetime
    closed_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertQuery:
    """A page of alerts, newest first; `is_open` None: open and closed; `before`: an alert's id."""

    limit: int
    is_open: bool | None = None
    device_id: str | None = None
    before: str | None = None


# What an alert's id looks like.
ALERT_ID_PATTERN: Final = "[0-9a-f]{24}"


class AlertStore(Protocol):
    """Keeps alerts, at most one open for a device.

    Each method raises `EventStoreUnavailable` where MongoDB is away; the call may then be repeated.
    """

    async def prepare(self) -> None:
        """Create what the store needs (indexes); may be repeated."""

    async def open(self, streaks: Mapping[str, int], now: datetime) -> set[str]:
        """Open an alert for each device, which has this streak; returns those that had none open."""

    async def resolve(self, device_ids: Collection[str], now: datetime) -> set[str]:
        """Close the devices' open alerts; returns those that had one."""

    async def open_devices(self) -> list[str]:
        """The devices with an open alert."""

    async def find(self, query: AlertQuery) -> list[Alert]:
        """A page of alerts."""

    async def open_alerts(self, device_ids: Collection[str]) -> dict[str, Alert]:
        """The open alert of each of these devices that has one."""

    async def unannounced(self, limit: int) -> list[Alert]:
        """Alerts whose present state was not published yet, oldest first."""

    async def announce_again(self, closed_since: datetime) -> None:
        """Count open alerts, and those closed since then, as not published: the broker may have lost them."""

    async def announced(self, alerts: Sequence[Alert]) -> None:
        """Record that this state of each alert was published."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What a claimed bridge left: whether it ran before, and when it began to store events without a mark.

    A life that never caught up has no mark in the projection, and its clock may have been set back since.
    """

    known_before: bool
    replay_from: datetime


class BridgeRegistry(Protocol):
    """Knows which bridges there are, and which process speaks for each.

    Each method raises `EventStoreUnavailable` where MongoDB is away; the call may then be repeated.
    """

    async def claim(self, bridge_id: str, instance: str, now: datetime) -> Claim:
        """Speak for a bridge from now on."""

    async def bridges(self) -> list[str]:
        """All bridges that may have stored events."""

    async def caught_up(self, bridge_id: str) -> None:
        """Record that the projection has a mark of this life of the bridge."""

    async def holder(self, bridge_id: str) -> str | None:
        """The instance that claimed the bridge last."""

    async def forget(self, bridge_id: str) -> None:
        """Retire a bridge."""
