"""The streak rule, pure: a device's state is the join of its events, so order and repetition cannot matter.

`merge` is associative, commutative and idempotent (a join-semilattice); the Lua script in
`pisync/stores/apply.lua` does the same in Redis and is tested against this module.
"""

from collections.abc import Iterable
from typing import Self

import msgspec

from pisync import limits
from pisync.clock import to_ms
from pisync.events import SyncEvent


class LastEvent(msgspec.Struct, frozen=True, array_like=True):
    """What is kept of a device's newest event, for lists and pages."""

    timestamp_ms: int
    total_files_synced: int
    total_errors: int
    internet_speed: float
    device_type: str | None
    sync_duration_ms: int | None


class DeviceState(msgspec.Struct, frozen=True, kw_only=True):
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
            last_event=max(self.last_event, other.last_event, key=lambda event: event.timestamp_ms),
        )


def newest(failures_ms: Iterable[int]) -> tuple[int, ...]:
    """The newest failures that are kept, ascending."""
    return tuple(sorted(failures_ms)[-limits.FAILURES_KEPT_MAX :])


def project(events: Iterable[SyncEvent]) -> dict[str, DeviceState]:
    """The state of each device after exactly these events, in any order."""
    successes: dict[str, int] = {}
    failures: dict[str, set[int]] = {}
    last: dict[str, tuple[int, SyncEvent]] = {}
    for event in events:
        device_id = event.device_id
        moment_ms = to_ms(event.timestamp)
        seen = last.get(device_id)
        if seen is None or moment_ms > seen[0]:
            last[device_id] = (moment_ms, event)
        if event.total_errors:
            failures.setdefault(device_id, set()).add(moment_ms)
        elif moment_ms > successes.get(device_id, -1):
            successes[device_id] = moment_ms
    return {
        device_id: DeviceState(
            last_success_ms=successes.get(device_id),
            failures_ms=newest(failures.get(device_id, ())),
            last_event=LastEvent(
                moment_ms,
                event.total_files_synced,
                event.total_errors,
                event.internet_speed,
                event.device_type,
                event.sync_duration_ms,
            ),
        )
        for device_id, (moment_ms, event) in last.items()
    }
