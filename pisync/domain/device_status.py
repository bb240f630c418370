"""The status of a device, what stands beside it, and the sentence that says why.

All of it follows from facts of the projection and of the directory, and none of it claims what they do not
say. They hold only once the projection is complete.
"""

import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from pisync import limits
from pisync.clock import from_ms
from pisync.domain.calendars import (
    EVERY_DAY,
    Calendar,
    ListeningGap,
    earliest_counted_ms,
    silence_limit_ms,
    silence_ms,
    zone,
)
from pisync.domain.days import DAY_MS, NO_DAYS, Days

_HOUR_MS: Final = 3_600_000
_PLAIN_CODE: Final = re.compile(r"[A-Za-z0-9_.:/-]+")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Status(StrEnum):
    """The one status of a device, worst first."""

    FAILING = "failing"
    WOBBLY = "wobbly"
    OVERDUE = "overdue"
    NEVER_HEARD = "never_heard"
    GOOD = "good"


def status_of(
    *, is_heard: bool, streak: int, received_ms: int | None, silence_limit_ms: int | None
) -> Status:
    """The worst that holds.

    Args:
        is_heard: whether any event of it is stored.
        streak: failures newer than its newest success.
        received_ms: the newest time of receipt; None: not known, and so is its silence.
        silence_limit_ms: the moment before which that must be for an overdue device; None: it has no habit.
    """
    if streak >= limits.STREAK_ALERT:
        return Status.FAILING
    if streak:
        return Status.WOBBLY
    if received_ms is not None and silence_limit_ms is not None and received_ms < silence_limit_ms:
        return Status.OVERDUE
    return Status.GOOD if is_heard else Status.NEVER_HEARD


def is_partial(*, streak: int, newest_files: int | None) -> bool:
    """Whether the newest failure uploaded files, known where it is the newest event: as long as it fails."""
    return bool(streak and newest_files)


def late_ms(*, newest_event_ms: int | None, received_ms: int | None) -> int:
    """How late what came last was, at least: that event is as old as the newest one, or older."""
    if newest_event_ms is None or received_ms is None:
        return 0
    return max(0, received_ms - newest_event_ms)


def is_late(*, newest_event_ms: int | None, received_ms: int | None) -> bool:
    """Whether what came last was received much later than its own time."""
    return late_ms(newest_event_ms=newest_event_ms, received_ms=received_ms) > limits.LATE_S * 1000


def ahead_ms(*, newest_event_ms: int | None, received_ms: int | None) -> int:
    """How far the device's clock was ahead, at least; 0 where our clocks may differ by that much."""
    if newest_event_ms is None or received_ms is None:
        return 0
    ahead = newest_event_ms - received_ms
    return ahead if ahead > limits.CLOCK_DIFFERENCE_S_MAX * 1000 else 0


def days_behind(*, newest_event_ms: int | None, heard: Days) -> int:
    """On how many days it was heard while no event came of that day or the one before."""
    if newest_event_ms is None:
        return 0
    later = max(0, heard.newest - (newest_event_ms // DAY_MS + 1))
    return (heard.bits & ((1 << later) - 1)).bit_count()


def is_clock_suspect(*, newest_event_ms: int | None, received_ms: int | None, heard: Days) -> bool:
    """Whether the device's clock is ahead for sure, or may well be behind.

    That an event was stamped long before what had come until then cannot be told here: states have no order.
    They tell that the newest event is later than all receipts, which proves it, and that a device was heard
    on several days with nothing from then. A backlog that comes slowly looks the same: a suspicion.
    """
    return (
        ahead_ms(newest_event_ms=newest_event_ms, received_ms=received_ms) > 0
        or days_behind(newest_event_ms=newest_event_ms, heard=heard) >= limits.CLOCK_SUSPECT_DAYS
    )


def is_muted(*, muted_until_ms: int | None, now_ms: int) -> bool:
    """Whether operators want to hear nothing of it now."""
    return muted_until_ms is not None and now_ms < muted_until_ms


class DeviceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a device at a moment; times are ours, but for those of events, which are its own.

    The projection says the first group, the directory and the record of listening the second. `habit_days` is
    the habit in force, which an operator set where `habit_is_set`. `online` is None where nobody knows.
    """

    now_ms: int
    streak: int = 0
    newest_event_ms: int | None = None
    newest_files: int | None = None
    last_success_ms: int | None = None
    last_failure_ms: int | None = None
    code: str = ""
    received_ms: int | None = None
    heard: Days = NO_DAYS
    online: bool | None = None

    habit_days: int | None = None
    habit_is_set: bool = False
    calendar: Calendar = EVERY_DAY
    gaps: Sequence[ListeningGap] = ()
    muted_until_ms: int | None = None
    retired: bool = False

    @property
    def status(self) -> Status:
        """The status that follows."""
        limit_ms = None
        if self.habit_days is not None:
            limit_ms = silence_limit_ms(self.calendar, self.habit_days, self.now_ms, self.gaps)
        return status_of(
            is_heard=self.newest_event_ms is not None,
            streak=self.streak,
            received_ms=self.received_ms,
            silence_limit_ms=limit_ms,
        )


def reason(facts: DeviceFacts) -> str:
    """Why a device has its status, and what stands beside it: sentences in English.

    Moments are in the time zone of the calendar, which the last sentence names.
    """
    match facts.status:
        case Status.FAILING:
            verdict = f"Failing: {_many(facts.streak)} syncs in a row, {_newest_failure(facts)}"
        case Status.WOBBLY:
            verdict = f"Wobbly: {_count(facts.streak, 'sync')} failed last, {_newest_failure(facts)}"
        case Status.OVERDUE:
            verdict = f"Overdue: {_silence(facts)}; {_habit(facts)}"
        case Status.NEVER_HEARD:
            verdict = "Never heard: it is in the directory, and no event of it is stored"
        case Status.GOOD:
            verdict = f"Good: {_last_heard(facts)}; {_habit(facts)}"
    return " ".join([f"{verdict}.", *_beside(facts), f"Times: {facts.calendar.time_zone}."])


def _newest_failure(facts: DeviceFacts) -> str:
    newest = "" if facts.last_failure_ms is None else f", the newest {_moment(facts, facts.last_failure_ms)}"
    good = (
        "no good one is known"
        if facts.last_success_ms is None
        else f"last good one {_moment(facts, facts.last_success_ms)}"
    )
    return f"{_code(facts.code)}{newest}, {good}"


def _code(code: str) -> str:
    """An error code, which a device makes up: quoted, with escapes, where it is more than a word."""
    if not code:
        return "no code told"
    return code if _PLAIN_CODE.fullmatch(code) else repr(code)


def _silence(facts: DeviceFacts) -> str:
    """Of an overdue device: how long it has been silent, by what counts of the time since it was heard."""
    received_ms = facts.received_ms or 0
    silent_ms = silence_ms(facts.calendar, received_ms, facts.now_ms, facts.gaps)
    more = "more than " if received_ms < earliest_counted_ms(facts.now_ms) else ""
    unit = "school day" if facts.calendar.has_days_off else "day"
    return f"silent for {more}{_count(silent_ms // DAY_MS, unit)}, last heard {_moment(facts, received_ms)}"


def _last_heard(facts: DeviceFacts) -> str:
    if facts.received_ms is not None:
        return f"last heard {_moment(facts, facts.received_ms)}"
    return f"newest event {_moment(facts, facts.newest_event_ms or 0)}, when it was received is not known"


def _habit(facts: DeviceFacts) -> str:
    if facts.habit_days is None:
        return f"its habit is not known yet (heard on {_count(facts.heard.bits.bit_count(), 'day')})"
    within = _count(facts.habit_days, "day")
    return f"to be heard within {within}, as set" if facts.habit_is_set else f"usually heard within {within}"


def _beside(facts: DeviceFacts) -> Iterator[str]:
    """A sentence for each thing that stands beside the status."""
    newest_ms, received_ms = facts.newest_event_ms, facts.received_ms
    if is_partial(streak=facts.streak, newest_files=facts.newest_files):
        yield f"Partial: the newest sync uploaded {_count(facts.newest_files or 0, 'file')}."
    if is_late(newest_event_ms=newest_ms, received_ms=received_ms):
        late = _span(late_ms(newest_event_ms=newest_ms, received_ms=received_ms))
        yield f"Late: what came last was at least {late} old."
    if is_clock_suspect(newest_event_ms=newest_ms, received_ms=received_ms, heard=facts.heard):
        yield _clock_suspicion(facts)
    if deaf_ms := _deaf_ms(facts):
        yield f"Since it was heard no bridge listened for {_span(deaf_ms)}, which does not count."
    if facts.muted_until_ms is not None and is_muted(
        muted_until_ms=facts.muted_until_ms, now_ms=facts.now_ms
    ):
        yield f"Muted until {_moment(facts, facts.muted_until_ms)}."
    if facts.retired:
        yield "Retired."
    if facts.online is not None:
        yield "Online now." if facts.online else "Offline now."


def _clock_suspicion(facts: DeviceFacts) -> str:
    ahead = ahead_ms(newest_event_ms=facts.newest_event_ms, received_ms=facts.received_ms)
    if ahead:
        return f"Its clock was ahead of ours by at least {_span(ahead)}."
    days = _count(days_behind(newest_event_ms=facts.newest_event_ms, heard=facts.heard), "day")
    return f"Its clock may be behind: on {days} came no event of that day or the one before."


def _deaf_ms(facts: DeviceFacts) -> int:
    """For how long no bridge listened since the device was heard."""
    if facts.received_ms is None:
        return 0
    since_ms, now_ms = facts.received_ms, facts.now_ms
    return sum(max(0, min(gap.end_ms, now_ms) - max(gap.start_ms, since_ms)) for gap in facts.gaps)


def _moment(facts: DeviceFacts, moment_ms: int) -> str:
    """Such as 3 May 2026 08:12."""
    moment = from_ms(moment_ms).astimezone(zone(facts.calendar.time_zone))
    return f"{moment.day} {_MONTHS[moment.month - 1]} {moment.year} {moment:%H:%M}"


def _span(span_ms: int) -> str:
    """In whole days from two days on, else in hours, else in minutes; rounded down."""
    if span_ms >= 2 * DAY_MS:
        return _count(span_ms // DAY_MS, "day")
    if span_ms >= 2 * _HOUR_MS:
        return _count(span_ms // _HOUR_MS, "hour")
    return _count(span_ms // 60_000, "minute")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _many(streak: int) -> str:
    """No more than so many failures of a device are kept; who counted them has another number."""
    return f"{streak:,} or more" if streak == limits.FAILURES_KEPT_MAX else f"{streak:,}"
