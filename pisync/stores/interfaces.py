"""What the rest of PiSync asks of its stores. The in-memory and the real ones pass one contract suite."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from pisync.events import Outcome, Reason, SyncEvent
from pisync.streaks import DeviceState


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

    async def knows(self, device_id: str) -> bool:
        """Whether any event of the device is stored."""

    async def failure_counts(self, device_id: str, since: datetime | None) -> FailureCounts:
        """Exact counts, for the rare device whose failures exceed what the projection keeps."""

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
class AlertChange:
    """A device whose streak and whose confirmed alert differ: to be opened, or to be closed."""

    device_id: str
    streak: int
    opens: bool


class StreakStore(Protocol):
    """Keeps each device's state by joining what it is given.

    Each method raises `StreakStoreUnavailable` where Redis is away; the call may then be repeated.
    """

    async def ping(self) -> None:
        """Return when the store answers."""

    async def apply(self, states: Mapping[str, DeviceState]) -> list[AlertChange]:
        """Join the states into the kept ones; returns every touched device whose alert is now out of date."""

    async def confirm(self, changes: Sequence[AlertChange]) -> list[AlertChange]:
        """Record that these alerts were opened or closed, so that `apply` stops reporting them.

        Returns those that are out of date again, because another bridge moved the streak meanwhile.
        """

    async def state(self, device_id: str) -> DeviceState | None:
        """One device's state; None for a device never seen."""

    async def repeated_failures(self, query: RankingQuery) -> list[FailingDevice]:
        """One page of failing devices."""

    async def close(self) -> None:
        """Let go of the connections."""
