"""What PiSync asks of the store of events."""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from pisync.domain.events import Outcome, SyncEvent


class InsertOutcome(StrEnum):
    """What became of one event that was given to the event store."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    REFUSED = "refused"


class OutcomeFilter(StrEnum):
    """Which syncs of a history are asked for."""

    SUCCESS = Outcome.SUCCESS
    PARTIAL = Outcome.PARTIAL
    FAILED = Outcome.FAILED
    FAILURE = "failure"

    def takes(self, outcome: Outcome) -> bool:
        """Whether it asks for syncs that went so; a failure is partial or failed."""
        if self is OutcomeFilter.FAILURE:
            return outcome is not Outcome.SUCCESS
        return outcome.value == self.value


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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
    outcome: OutcomeFilter | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FailureCounts:
    """Exact failure counts of one device: all, since a moment, and newer than its last success."""

    total: int
    since: int
    streak: int


@dataclass(kw_only=True, slots=True)
class ReplayPosition:
    """How far a replay has come: one that is given it begins there, and it moves on with what was taken.

    `until` and `after` are the store's own.
    """

    until: datetime | None = None
    after: object = None


class EventStore(Protocol):
    """Keeps every event for good.

    Each method raises `MongodbUnavailable` where MongoDB is unavailable; the call may then be repeated.
    """

    async def prepare(self) -> None:
        """Create what the store needs (indexes); may be repeated."""

    async def ping(self) -> None:
        """Return when the store answers."""

    async def insert(self, events: Sequence[SyncEvent], received_at: datetime) -> list[InsertOutcome]:
        """Keep the events; returns what became of each, in order, once all are durable."""

    async def history(self, query: HistoryQuery) -> list[HistoryEntry]:
        """One page of a device's history, newest first."""

    async def page(self, query: HistoryQuery) -> list[dict[str, Any]]:
        """The same page as `pisync.domain.events.rows` makes it: no event is made of what is stored."""

    async def knows(self, device_id: str) -> bool:
        """Whether any event of the device is stored."""

    def replay(
        self, since: datetime | None, position: ReplayPosition | None = None
    ) -> AsyncIterator[list[HistoryEntry]]:
        """All events received at `since` or later, in batches; None: all events, device after device.

        Of `errors`, which may be most of an event, they have the code of the first alone. What is stored
        while it runs may be missing; what was stored before is not. Where it is interrupted, another call
        with the same `since` and `position` goes on behind the last batch that was asked to be followed.
        """

    async def count(self, since: datetime | None) -> int:
        """About how many events `replay` would give; it takes the longer, the more there are."""

    async def failure_counts(self, device_id: str, since: datetime | None) -> FailureCounts:
        """Exact counts, for the rare device whose failures exceed what the projection keeps."""

    async def failing(self, device_ids: Collection[str], in_a_row: int) -> set[str]:
        """Those of the devices whose newest `in_a_row` events are all failures."""

    async def close(self) -> None:
        """Close the connections."""
