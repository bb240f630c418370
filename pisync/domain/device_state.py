"""A device's state, pure: the merge of its events, so order and repetition cannot matter.

`merge` is associative, commutative and idempotent (a join-semilattice); the Lua script in
`pisync/stores/redis/lua/merge_states.lua` does the same in Redis and is tested against this module.
"""

from collections.abc import Iterable
from datetime import timedelta
from functools import lru_cache
from hashlib import blake2b
from itertools import repeat
from operator import attrgetter, itemgetter
from typing import Final, Self, TypeVar

import msgspec

from pisync import limits
from pisync.clock import EPOCH
from pisync.domain.days import DAY_MS, NO_DAYS, Days
from pisync.domain.events import SyncEvent

Ordered = TypeVar("Ordered", int, str)
# For each event of a sequence: nobody knows when it was received.
NEVER_TOLD: Final = repeat(None)


class LastEvent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is kept of a device's newest event, for lists and pages."""

    timestamp_ms: int
    total_files_synced: int
    total_errors: int
    internet_speed: float
    device_type: str | None
    sync_duration_ms: int | None

    def merge(self, other: Self) -> Self:
        """The newer of the two; of the same event, what either has of it.

        Where the first was deleted, and its time came again with other content, it is the greater of both.
        """
        if self.timestamp_ms != other.timestamp_ms:
            return self if self.timestamp_ms > other.timestamp_ms else other
        return msgspec.structs.replace(
            max(self, other, key=_counts),
            device_type=_greater(self.device_type, other.device_type),
            sync_duration_ms=_greater(self.sync_duration_ms, other.sync_duration_ms),
        )


_counts: Final = attrgetter("total_files_synced", "total_errors", "internet_speed")


class DeviceState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The facts from which every answer about one device follows.

    `failures_ms` holds the newest `limits.FAILURES_KEPT_MAX` failure times, ascending, each once. `code` is
    that of the newest failure's first error, cut to `limits.ERROR_CODE_CHARS_MAX` characters, and empty where
    it told none. The days of successes and of failures (`ok`, `bad`) are by the device's clock. By ours are
    `received_ms`, the newest time of receipt of an event that was stored then, and the days of all of these
    (`heard`); a duplicate has no part in them.
    """

    last_success_ms: int | None
    failures_ms: tuple[int, ...]
    last_event: LastEvent
    received_ms: int | None = None
    code: str = ""
    ok: Days = NO_DAYS
    bad: Days = NO_DAYS
    heard: Days = NO_DAYS

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
    def last_failure_ms(self) -> int | None:
        """The newest failure; None where there is none."""
        return self.failures_ms[-1] if self.failures_ms else None

    @property
    def alerting(self) -> bool:
        """Whether the streak is long enough for an alert."""
        return self.streak >= limits.STREAK_ALERT

    def merge(self, other: Self) -> "DeviceState":
        """The state that has seen what either has seen."""
        return DeviceState(
            last_success_ms=_greater(self.last_success_ms, other.last_success_ms),
            failures_ms=newest({*self.failures_ms, *other.failures_ms}),
            last_event=self.last_event.merge(other.last_event),
            received_ms=_greater(self.received_ms, other.received_ms),
            code=max(self, other, key=DeviceState._cause).code,
            ok=self.ok.merge(other.ok),
            bad=self.bad.merge(other.bad),
            heard=self.heard.merge(other.heard),
        )

    def _cause(self) -> tuple[int, int]:
        """Of two states, the one with the newer failure says the code; one failure has one code."""
        return (self.failures_ms[-1], code_number(self.code)) if self.failures_ms else (-1, -1)


def newest(failures_ms: Iterable[int]) -> tuple[int, ...]:
    """The newest failures that are kept, ascending."""
    return tuple(sorted(failures_ms)[-limits.FAILURES_KEPT_MAX :])


def _greater(one: Ordered | None, other: Ordered | None) -> Ordered | None:
    if one is None or other is None:
        return other if one is None else one
    return max(one, other)


# 0 stands for a device without failures.
_NO_CODE: Final = 1


@lru_cache(maxsize=1024)
def code_number(code: str) -> int:
    """By which the codes of two copies of one failure are told apart: 48 bits of a digest; the greater stays.

    Where no code was told it is the lowest: of two copies, the one that tells a code says it.
    """
    if not code:
        return _NO_CODE
    return max(_NO_CODE + 1, int.from_bytes(blake2b(code.encode(), digest_size=6).digest()))


def project(
    events: Iterable[SyncEvent], receipts_ms: Iterable[int | None] = NEVER_TOLD
) -> dict[str, DeviceState]:
    """The state of each device after exactly these events, in any order.

    Args:
        events: the events.
        receipts_ms: when each was first stored as received; None where that is not known.
    """
    found: dict[str, _Seen] = {}
    # For every event that comes in: moments become days and milliseconds only where they are kept.
    for event, received_ms in zip(events, receipts_ms, strict=False):
        since = event.timestamp - EPOCH
        seen = found.get(event.device_id)
        if seen is None:
            seen = found[event.device_id] = _Seen(event, since)
        elif (newer_by := since - seen.last_since) >= _MILLISECOND:
            seen.last, seen.last_since = event, since
        elif newer_by > -_MILLISECOND:
            seen.last, seen.last_since = _newest_of((seen.last, seen.last_since), (event, since))
        if event.total_errors:
            seen.failures.append(since)
            if seen.failed is None or (newer_by := since - seen.failed_since) >= _MILLISECOND:
                seen.failed, seen.failed_since = event, since
            elif newer_by > -_MILLISECOND:
                one, other = (seen.failed, seen.failed_since), (event, since)
                seen.failed, seen.failed_since = _newest_of(one, other)
        else:
            seen.successes.append(since)
        if received_ms is not seen.received_ms:  # those of a batch have one time of receipt
            seen.received_ms = received_ms
            if received_ms is not None:
                seen.receipts_ms.append(received_ms)
    return {device_id: seen.state() for device_id, seen in found.items()}


_MILLISECOND: Final = timedelta(milliseconds=1)


def _newest_of(
    one: tuple[SyncEvent, timedelta], other: tuple[SyncEvent, timedelta]
) -> tuple[SyncEvent, timedelta]:
    """The newer of two events; of the same event, to the millisecond, what either has of it."""
    event, since = one
    if _ms(since) != _ms(other[1]):
        return max(one, other, key=itemgetter(1))
    changes = {
        name: value
        for name in ("device_type", "sync_duration_ms", "errors")
        if getattr(event, name) is None and (value := getattr(other[0], name)) is not None
    }
    return (msgspec.structs.replace(event, **changes) if changes else event), since


class _Seen(msgspec.Struct, gc=False):
    """What was seen of one device so far; times of the device are counted from 1970."""

    last: SyncEvent
    last_since: timedelta
    successes: list[timedelta] = []
    failures: list[timedelta] = []
    failed: SyncEvent | None = None
    failed_since: timedelta = timedelta()
    receipts_ms: list[int] = []
    received_ms: int | None = None

    def state(self) -> DeviceState:
        last, since, failed = self.last, self.last_since, self.failed
        last_ms = since.days * DAY_MS + since.seconds * 1000 + since.microseconds // 1000
        success_ms = received_ms = None
        failures_ms: tuple[int, ...] = ()
        ok = bad = heard = NO_DAYS
        code = ""
        # Most devices have one event in a batch, for which no function is called that need not be.
        if self.successes:
            success = self.successes[0] if len(self.successes) == 1 else max(self.successes)
            success_ms = last_ms if success is since else _ms(success)
            ok = _days(self.successes)
        if failed is not None:
            is_only = failed is last and len(self.failures) == 1
            failures_ms = (last_ms,) if is_only else newest(set(map(_ms, self.failures)))
            bad = _days(self.failures)
            if failed.errors:
                code = failed.errors[0].code[: limits.ERROR_CODE_CHARS_MAX]
        if self.receipts_ms:
            received_ms, heard = _received(tuple(self.receipts_ms))
        return DeviceState(
            last_success_ms=success_ms,
            failures_ms=failures_ms,
            last_event=LastEvent(
                last_ms,
                last.total_files_synced,
                last.total_errors,
                last.internet_speed,
                last.device_type,
                last.sync_duration_ms,
            ),
            received_ms=received_ms,
            code=code,
            ok=ok,
            bad=bad,
            heard=heard,
        )


def _ms(since: timedelta) -> int:
    return since.days * DAY_MS + since.seconds * 1000 + since.microseconds // 1000


def _days(moments: list[timedelta]) -> Days:
    if len(moments) == 1:
        return _one_day(moments[0].days)
    return Days.of({since.days for since in moments})


@lru_cache(maxsize=128)
def _one_day(day: int) -> Days:
    return Days(day, 1)


@lru_cache(maxsize=4)
def _received(receipts_ms: tuple[int, ...]) -> tuple[int, Days]:
    """The newest time of receipt and all days of these, which are the same for all devices of a batch."""
    return max(receipts_ms), Days.of({moment_ms // DAY_MS for moment_ms in receipts_ms})
