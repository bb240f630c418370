"""What PiSync asks of the store of events for their retention: what is old becomes a base, and goes."""

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

import msgspec

from pisync.domain.accumulator import StoredEvents
from pisync.domain.device_state import DeviceState


class RetentionProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far retention is, as the worker wrote it down that has the duty; in epoch milliseconds.

    `days` None: events are kept for ever. Events received before `before_ms` may be deleted, and no others
    are (0: none ever was). `oldest_ms` is the receipt of the oldest event that is stored; None: there is
    none. `waits_for` says why what is old is not deleted yet; empty: it need not wait. `doubted_ms`: since
    when the clock is doubted.
    """

    days: int | None
    before_ms: int
    oldest_ms: int | None
    waits_for: str
    at_ms: int
    doubted_ms: int | None = None


class RetentionReader(Protocol):
    """Tells how far retention is."""

    async def progress(self) -> RetentionProgress | None:
        """What was written down last; None: nothing.

        Raises:
            MongodbUnavailable: MongoDB is unavailable.
        """


class RetentionStore(RetentionReader, Protocol):
    """Deletes events whose state is kept. Any number of workers may do so at once.

    Each method raises `MongodbUnavailable` where MongoDB is unavailable; the call may then be repeated.
    """

    async def oldest_ms(self) -> int | None:
        """When the oldest event was received that is stored; None: there is none."""

    async def old(self, before_ms: int) -> StoredEvents:
        """The oldest `RETENTION_EVENTS_AT_ONCE` of the events received before a moment."""

    async def keep(self, states: Mapping[str, DeviceState], enriched_at: datetime | None = None) -> None:
        """Merge states into the bases of their devices, durably; something was added to their events then."""

    async def delete(self, batch: StoredEvents) -> int:
        """Delete events as they were read; tells how many.

        Those stay to which something was added since, and those that were deleted since and came again.
        """

    async def save(self, progress: RetentionProgress) -> None:
        """Write down how far it is."""
