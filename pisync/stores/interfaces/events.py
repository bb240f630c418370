"""What PiSync asks of the store of events."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

import msgspec

from pisync import limits
from pisync.domain.accumulator import StoredEvents
from pisync.domain.device_state import DeviceState
from pisync.domain.events import ErrorDetail, Outcome, SyncEvent


class InsertOutcome(StrEnum):
    """What became of one event that was given to the event store."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    """It is stored already, and says nothing that the stored one lacks."""
    ENRICHED = "enriched"
    """It is stored already, and the stored one has now the members that only this one had."""
    CONFLICT = "conflict"
    """Another event of its identity is stored: a member has another value."""
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
    """A stored event and when the bridge received it; of `errors` it has the code of the first alone."""

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


DaysHint = Callable[[], Awaitable[Collection[int]]]
"""Tells days, counted from 1970-01-01, on which a device has events that are asked for.

It is asked only where it can save time, and may be wrong: days may be missing, or have none.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryPage:
    """Rows as `pisync.domain.events.rows` makes them; `is_short`: its bytes ended it, and there are more."""

    rows: list[dict[str, Any]]
    is_short: bool


class DayFigures(NamedTuple):
    """What the events of a device and a day come to; `speeds` is the sum of their `internet_speed`."""

    events: int
    failures: int
    partial: int
    files: int
    speeds: float


@dataclass(kw_only=True, slots=True)
class ReplayPosition:
    """How far a replay has come: one that is given it begins there, and it moves on with what was taken.

    All of it is the store's own.
    """

    orders: list[str] | None = None
    until: datetime | None = None
    held: Any = None
    after: Any = None
    is_read: bool = False


class EventStore(Protocol):
    """Keeps every event until retention deletes it, and then what it came to: its device's base.

    Each method raises `MongodbUnavailable` where MongoDB is unavailable; the call may then be repeated.
    """

    async def prepare(self) -> None:
        """Create what the store needs (indexes); may be repeated.

        Raises:
            ConfigurationError: as `check_version`, or the credentials permit too little.
        """

    async def check_version(self) -> None:
        """Return where what is stored is of the version that this program knows; nothing is written.

        Raises:
            ConfigurationError: it is not; the text says whether to update this program or what is stored.
        """

    async def ping(self) -> None:
        """Return when the store answers."""

    async def insert(self, events: Sequence[SyncEvent], received_at: datetime) -> list[InsertOutcome]:
        """Keep the events; returns what became of each, in order, once all are durable.

        An event whose identity is stored already enriches the stored one with the optional members that only
        it has (`pisync.domain.events.additions`). When it was received stays as it was.
        """

    async def received(self, events: Sequence[SyncEvent]) -> list[datetime | None]:
        """When each event was first stored as received; None where it is not stored. In one round trip."""

    async def history(self, query: HistoryQuery) -> list[HistoryEntry]:
        """One page of a device's history, newest first, without the `errors`, which nothing is decided by."""

    async def page(self, query: HistoryQuery, hint: DaysHint | None = None) -> HistoryPage:
        """The same page as rows with everything, for people: no event is made of what is stored.

        It ends early, with one row at least, where more than `limits.PAGE_BYTES_MAX` would have to be read.
        """

    async def knows(self, device_id: str) -> bool:
        """Whether any event of the device is stored, or was."""

    async def confirm_primary(self) -> None:
        """Return once all that was acknowledged before the call is in what is read after it.

        A primary that is cut off from the others of its replica set believes for a while that it still is
        one, and lacks what another one has acknowledged since; it does not return from this.
        """

    def replay(
        self,
        since: datetime | None,
        position: ReplayPosition | None = None,
        *,
        by_bucket: bool = False,
        held_bytes_max: int = limits.REPLAY_GROUPED_BYTES_MAX,
    ) -> AsyncIterator[StoredEvents]:
        """All events received or enriched at `since` or later, in batches; None: all.

        All events of a device are in one bucket (`pisync.domain.identity.bucket_of`). Of a replay of
        everything each batch is of one bucket. Events are read in the order in which they lie on disk, and
        held until they take more than `held_bytes_max` bytes, compressed; then those of the bucket that has
        most are given. With `by_bucket` all of a bucket is given before the next begins, which costs many
        times as much where MongoDB's cache does not hold everything. While a batch is worked on, the next is
        read. What is stored while it runs may be missing; what was stored before is not. Where it is
        interrupted, another call with the same arguments goes on behind the last batch that was asked to be
        followed; what is held is kept in the position.
        """

    def bases(
        self, since: datetime | None = None, bucket: int | None = None
    ) -> AsyncIterator[dict[str, DeviceState]]:
        """What deleted events came to, by device, some devices at a time, of one bucket or of all.

        With `since` those of devices of which an event was deleted that was received or enriched at that time
        or later, and maybe of others.
        Whoever replays asks for these after the events: what is deleted meanwhile is in the one or the other.
        """

    async def base(self, device_id: str) -> DeviceState | None:
        """What a device's deleted events came to; None: none was deleted."""

    async def count(self, since: datetime | None) -> int:
        """About how many events `replay` would give; it takes the longer, the more there are."""

    async def count_failures(self, device_id: str, moments: Sequence[datetime | None]) -> list[int]:
        """How many failures one device has since each of the moments (None: in all), in one round trip.

        It is for devices of which the projection keeps too few. No event is read for it; what it costs grows
        with what is counted, and with the days there are. Of failures that were deleted the newest
        `FAILURES_KEPT_MAX` count; where there are any, a second round trip tells which of them came again.
        """

    async def daily(self, days: Mapping[str, Collection[int]]) -> dict[tuple[str, int], DayFigures]:
        """What the events of some days of each device come to, by device and day, of those that have any.

        Days are of UTC, by the device's clock, and count from 1970-01-01. Of `DEVICE_DAYS_AT_ONCE` in one
        round trip.
        """

    async def first_errors(self, moments: Sequence[tuple[str, int]]) -> list[ErrorDetail | None]:
        """The first error of each of these events, in one round trip.

        Each event is a device and a timestamp (epoch ms). None where it is not stored, or tells of no error.
        The code has `ERROR_CODE_CHARS_MAX` characters at most, the message `SAMPLE_CHARS_MAX`.
        """

    async def failing(self, device_ids: Collection[str], in_a_row: int) -> set[str]:
        """Those of the devices whose newest `in_a_row` events, deleted ones included, are all failures."""

    async def close(self) -> None:
        """Close the connections."""
