"""The streak rule, pure: a device's state is the merge of its events, so order and repetition cannot matter.

`merge` is associative, commutative and idempotent (a join-semilattice); the Lua script in
`pisync/stores/redis/lua/merge_states.lua` does the same in Redis and is tested against this module.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, Self

import msgspec

from pisync import limits
from pisync.clock import to_ms
from pisync.domain.events import SyncEvent


class LastEvent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is kept of a device's newest event, for lists and pages."""

    timestamp_ms: int
    total_files_synced: int
    total_errors: int
    internet_speed: float
    device_type: str | None
    sync_duration_ms: int | None

    def merge(self, other: Self) -> Self:
        """The newer of the two; of the same event, what either has of it."""
        if self.timestamp_ms != other.timestamp_ms:
            return self if self.timestamp_ms > other.timestamp_ms else other
        return msgspec.structs.replace(
            self,
            device_type=other.device_type if self.device_type is None else self.device_type,
            sync_duration_ms=(
                other.sync_duration_ms if self.sync_duration_ms is None else self.sync_duration_ms
            ),
        )


class DeviceState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The facts from which every answer about one device's failures follows.

    `failures_ms` holds the newest `limits.FAILURES_KEPT_MAX` failure times, ascending, each once.
    """

    last_success_ms: int | None
    failures_ms: tuple[int, ...]
    last_event: LastEvent

    @property
    def streak(self) -> int:
        """Failures newer than the newest success."""
        if self.last_success_ms is None:
            return len(self.failures_ms)
        return sum(1 for moment in self.failures_ms if moment > self.last_success_ms)

    @property
    def failures(self) -> int:
        """All failures kept."""
        return len(self.failures_ms)

    @property
    def alerting(self) -> bool:
        """Whether the streak is long enough for an alert."""
        return self.streak >= limits.STREAK_ALERT

    def merge(self, other: Self) -> "DeviceState":
        """The state that has seen what either has seen."""
        successes = [s for s in (self.last_success_ms, other.last_success_ms) if s is not None]
        return DeviceState(
            last_success_ms=max(successes, default=None),
            failures_ms=newest({*self.failures_ms, *other.failures_ms}),
            last_event=self.last_event.merge(other.last_event),
        )


def newest(failures_ms: Iterable[int]) -> tuple[int, ...]:
    """The newest failures that are kept, ascending."""
    return tuple(sorted(failures_ms)[-limits.FAILURES_KEPT_MAX :])


def project(events: Iterable[SyncEvent]) -> dict[str, DeviceState]:
    """The state of each device after exactly these events, in any order."""
    found: dict[str, _Seen] = {}
    for event in events:
        seen = found.get(event.device_id)
        if seen is None:
            seen = found[event.device_id] = _Seen(event)
        elif (newer_by := event.timestamp - seen.last.timestamp) >= _MILLISECOND:
            seen.last = event
        elif newer_by > -_MILLISECOND:
            seen.last = _newest_of(seen.last, event)
        if event.total_errors:
            seen.failures.append(event.timestamp)
        elif seen.success is None or event.timestamp > seen.success:
            seen.success = event.timestamp
    return {device_id: seen.state() for device_id, seen in found.items()}


_MILLISECOND: Final = timedelta(milliseconds=1)


def _newest_of(one: SyncEvent, other: SyncEvent) -> SyncEvent:
    """The newer of two events; of the same event, to the millisecond, what either has of it."""
    if to_ms(one.timestamp) != to_ms(other.timestamp):
        return max(one, other, key=lambda event: event.timestamp)
    return msgspec.structs.replace(
        one,
        device_type=other.device_type if one.device_type is None else one.device_type,
        sync_duration_ms=other.sync_duration_ms if one.sync_duration_ms is None else one.sync_duration_ms,
    )


class _Seen(msgspec.Struct, gc=False):
    """What was seen of one device so far; moments become milliseconds only where they are kept."""

    last: SyncEvent
    success: datetime | None = None
    failures: list[datetime] = []

    def state(self) -> DeviceState:
        last = self.last
        return DeviceState(
            last_success_ms=None if self.success is None else to_ms(self.success),
            failures_ms=newest(set(map(to_ms, self.failures))) if self.failures else (),
            last_event=LastEvent(
                to_ms(last.timestamp),
                last.total_files_synced,
                last.total_errors,
                last.internet_speed,
                last.device_type,
                last.sync_duration_ms,
            ),
        )
