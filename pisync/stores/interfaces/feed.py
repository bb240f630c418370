"""The projection's feed: what changed of which devices since a position, a bounded part at a time."""

import msgspec

from pisync.domain.days import Days
from pisync.domain.device_state import DeviceState, LastEvent


class StateSummary(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What lists tell of a device: its state, but of its failures the newest, their number, the streak."""

    last_success_ms: int | None
    last_failure_ms: int | None
    failures: int
    streak: int
    received_ms: int | None
    code: str
    ok: Days
    bad: Days
    heard: Days
    last_event: LastEvent

    @classmethod
    def of(cls, state: DeviceState) -> "StateSummary":
        """Those that follow from a state."""
        return cls(
            last_success_ms=state.last_success_ms,
            last_failure_ms=state.last_failure_ms,
            failures=state.failures,
            streak=state.streak,
            received_ms=state.received_ms,
            code=state.code,
            ok=state.ok,
            bad=state.bad,
            heard=state.heard,
            last_event=state.last_event,
        )


class FeedPosition(msgspec.Struct, frozen=True, kw_only=True):
    """How far one life of the projection is read; its parts mean something to the store alone.

    For each shard: the number up to which changes are read, where the reading of all devices goes on (None
    once each was read), and how many devices had no number.
    """

    projection: str
    numbers: tuple[int, ...]
    cursors: tuple[int | None, ...]
    unnumbered: tuple[int, ...]

    @property
    def has_read_all(self) -> bool:
        """Whether every device was read once, and what is told from here on is what changed."""
        return not any(cursor is not None for cursor in self.cursors)


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the feed, and where it goes on.

    `position` is None where there is no projection, or no longer the one that was read: begin anew. `devices`
    may name one more than once, the newest last. `behind` is the number of devices that changed beyond the
    position, `of` the number of those that there are. `rebuilding`: not all that there will be is there yet.
    """

    position: FeedPosition | None
    devices: list[tuple[str, StateSummary]]
    behind: int = 0
    of: int = 0
    rebuilding: bool = False
