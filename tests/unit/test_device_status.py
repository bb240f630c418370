"""The status of a device, what stands beside it, and the sentences that say why."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from itertools import product
from typing import Any, Final

import pytest

from pisync import limits
from pisync.clock import to_ms
from pisync.domain.calendars import Calendar, Holiday, ListeningGap, Weekday
from pisync.domain.days import DAY_MS, Days
from pisync.domain.device_status import (
    DeviceFacts,
    Status,
    ahead_ms,
    days_behind,
    is_clock_suspect,
    is_late,
    is_muted,
    is_partial,
    late_ms,
    reason,
    status_of,
)
from pisync.domain.habits import habit_days

HOUR_MS, MINUTE_MS = 3_600_000, 60_000
SCHOOL: Final = Calendar(
    time_zone="Africa/Nairobi",
    days_off=frozenset({Weekday.SATURDAY, Weekday.SUNDAY}),
    holidays=(Holiday(date(2026, 5, 11), date(2026, 5, 29)),),
)


def at(month: int, day: int, hour: int = 0, minute: int = 0) -> int:
    return to_ms(datetime(2026, month, day, hour, minute, tzinfo=UTC))


NOW_MS: Final = at(5, 8, 12)
HEARD_MS: Final = at(5, 8, 8)
GOOD: Final = "Good: last heard 8 May 2026 08:00; usually heard within 2 days."


def facts(**changes: Any) -> DeviceFacts:
    """Of a device that is well, with changes."""
    well: dict[str, Any] = {
        "now_ms": NOW_MS,
        "newest_event_ms": HEARD_MS,
        "newest_files": 3,
        "last_success_ms": HEARD_MS,
        "received_ms": HEARD_MS,
        "heard": Days(HEARD_MS // DAY_MS, 0b11),
        "habit_days": 2,
    }
    return DeviceFacts(**{**well, **changes})


def statuses() -> Iterator[tuple[dict[str, Any], Status]]:
    """Every combination of what a status follows from, with the worst of what holds."""
    for streak, is_heard, received_ms, limit_ms in product(
        [0, 1, 2, 3, 1000], [False, True], [None, 99, 100, 101], [None, 100]
    ):
        holds = {
            Status.FAILING: streak >= 3,
            Status.WOBBLY: streak in {1, 2},
            Status.OVERDUE: received_ms == 99 and limit_ms == 100,
            Status.NEVER_HEARD: not is_heard,
            Status.GOOD: True,
        }
        given = {
            "streak": streak,
            "is_heard": is_heard,
            "received_ms": received_ms,
            "silence_limit_ms": limit_ms,
        }
        yield given, next(status for status in Status if holds[status])


def test_the_worst_that_holds_is_the_status() -> None:
    assert [given for given, expected in statuses() if status_of(**given) is not expected] == []


def test_the_statuses_are_in_the_order_of_how_bad_they_are() -> None:
    assert list(Status) == ["failing", "wobbly", "overdue", "never_heard", "good"]


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        ({}, GOOD),
        (
            {"habit_days": None},
            "Good: last heard 8 May 2026 08:00; its habit is not known yet (heard on 2 days).",
        ),
        (
            {"habit_days": 7, "habit_is_set": True, "calendar": SCHOOL},
            "Good: last heard 8 May 2026 11:00; to be heard within 7 days, as set. Times: Africa/Nairobi.",
        ),
        (
            {"received_ms": None, "heard": Days(), "habit_days": None},
            (
                "Good: newest event 8 May 2026 08:00, when it was received is not known; its habit is"
                " not known yet (heard on 0 days)."
            ),
        ),
        (
            {"newest_event_ms": None, "received_ms": None, "last_success_ms": None},
            "Never heard: it is in the directory, and no event of it is stored.",
        ),
        (
            {
                "streak": 12,
                "code": "E_TIMEOUT",
                "last_failure_ms": HEARD_MS,
                "last_success_ms": at(5, 3, 8, 12),
                "newest_files": 0,
            },
            (
                "Failing: 12 syncs in a row, E_TIMEOUT, the newest 8 May 2026 08:00, last good one 3"
                " May 2026 08:12."
            ),
        ),
        (
            {"streak": 1000, "last_failure_ms": HEARD_MS, "last_success_ms": None, "newest_files": 2_500},
            (
                "Failing: 1,000 or more syncs in a row, no code told, the newest 8 May 2026 08:00, no"
                " good one is known. Partial: the newest sync uploaded 2,500 files."
            ),
        ),
        (
            {"streak": 1, "code": "disk full\u202e", "newest_files": 0},
            "Wobbly: 1 sync failed last, 'disk full\\u202e', last good one 8 May 2026 08:00.",
        ),
        (
            {"streak": 2, "code": "E_1", "newest_files": 1},
            (
                "Wobbly: 2 syncs failed last, E_1, last good one 8 May 2026 08:00. Partial: the"
                " newest sync uploaded 1 file."
            ),
        ),
        (
            {"now_ms": HEARD_MS + 5 * DAY_MS + 1},
            "Overdue: silent for 5 days, last heard 8 May 2026 08:00; usually heard within 2 days.",
        ),
        (
            {"now_ms": at(6, 3, 9), "calendar": SCHOOL},
            (
                "Overdue: silent for 3 school days, last heard 8 May 2026 11:00; usually heard within"
                " 2 days. Times: Africa/Nairobi."
            ),
        ),
        (
            {"now_ms": HEARD_MS + 900 * DAY_MS},
            (
                "Overdue: silent for more than 400 days, last heard 8 May 2026 08:00; usually heard"
                " within 2 days."
            ),
        ),
        (
            {"now_ms": HEARD_MS + 4 * DAY_MS, "gaps": (ListeningGap(0, HEARD_MS + 2 * DAY_MS),)},
            f"{GOOD} Since it was heard no bridge listened for 2 days, which does not count.",
        ),
        (
            {"newest_event_ms": HEARD_MS - 21 * DAY_MS},
            f"{GOOD} Late: what came last was at least 21 days old.",
        ),
        (
            {"newest_event_ms": HEARD_MS + 5 * MINUTE_MS},
            f"{GOOD} Its clock was ahead of ours by at least 5 minutes.",
        ),
        (
            {"newest_event_ms": HEARD_MS - 30 * DAY_MS, "heard": Days(HEARD_MS // DAY_MS, 0b1011)},
            (
                f"{GOOD} Late: what came last was at least 30 days old. Its clock may be behind: on 3"
                " days came no event of that day or the one before."
            ),
        ),
        (
            {"muted_until_ms": at(5, 9), "retired": True, "online": False},
            f"{GOOD} Muted until 9 May 2026 00:00. Retired. Offline now.",
        ),
        (
            {"muted_until_ms": NOW_MS, "online": True},
            f"{GOOD} Online now.",
        ),
    ],
)
def test_every_status_has_its_reason(changes: dict[str, Any], sentences: str) -> None:
    found = facts(**changes)
    if "Times:" not in sentences:
        sentences += " Times: UTC."
    assert reason(found) == sentences
    assert sentences.casefold().startswith(found.status.value.replace("_", " "))


def test_what_is_partial() -> None:
    assert is_partial(streak=1, newest_files=1)
    assert not is_partial(streak=1, newest_files=0)
    assert not is_partial(streak=1, newest_files=None), "unknown is not claimed"
    assert not is_partial(streak=0, newest_files=1), "what the newest failure uploaded is not known"


def test_what_is_late() -> None:
    limit_ms = round(limits.LATE_S * 1000)
    assert not is_late(newest_event_ms=HEARD_MS - limit_ms, received_ms=HEARD_MS)
    assert is_late(newest_event_ms=HEARD_MS - limit_ms - 1, received_ms=HEARD_MS)
    assert not is_late(newest_event_ms=None, received_ms=HEARD_MS)
    assert not is_late(newest_event_ms=0, received_ms=None)
    assert late_ms(newest_event_ms=HEARD_MS + 1, received_ms=HEARD_MS) == 0


def test_a_clock_is_ahead_only_beyond_what_ours_may_differ_by() -> None:
    limit_ms = round(limits.CLOCK_DIFFERENCE_S_MAX * 1000)
    assert ahead_ms(newest_event_ms=HEARD_MS + limit_ms, received_ms=HEARD_MS) == 0
    assert ahead_ms(newest_event_ms=HEARD_MS + limit_ms + 1, received_ms=HEARD_MS) == limit_ms + 1
    assert ahead_ms(newest_event_ms=HEARD_MS, received_ms=None) == 0


def test_days_behind_are_those_of_which_nothing_came() -> None:
    day = 20_000
    heard = Days.of({day, day - 1, day - 3, day - 40})
    assert [days_behind(newest_event_ms=(day - back) * DAY_MS + 7, heard=heard) for back in range(6)] == [
        0,
        0,
        1,
        2,
        2,
        3,
    ]
    assert days_behind(newest_event_ms=(day - 1000) * DAY_MS, heard=heard) == 4
    assert days_behind(newest_event_ms=(day + 1) * DAY_MS, heard=heard) == 0
    assert days_behind(newest_event_ms=None, heard=heard) == 0


def test_a_backlog_that_comes_in_a_day_or_two_makes_no_clock_suspect() -> None:
    day = HEARD_MS // DAY_MS
    for bits, suspect in [(0b1, False), (0b11, False), (0b111, True)]:
        found = is_clock_suspect(
            newest_event_ms=HEARD_MS - 21 * DAY_MS, received_ms=HEARD_MS, heard=Days(day, bits)
        )
        assert found is suspect


def test_what_is_muted() -> None:
    assert is_muted(muted_until_ms=NOW_MS + 1, now_ms=NOW_MS)
    assert not is_muted(muted_until_ms=NOW_MS, now_ms=NOW_MS)
    assert not is_muted(muted_until_ms=None, now_ms=NOW_MS)


# What a sceptical operator checks: nothing is overdue because of us, nor in a holiday.


def learned(days: list[int], now_ms: int, *gaps: ListeningGap, calendar: Calendar = SCHOOL) -> Status:
    """Of a device that was heard at 10:00 UTC on these days."""
    received_ms = max(days) * DAY_MS + 10 * HOUR_MS
    heard = Days.of(days)
    return facts(
        now_ms=now_ms,
        newest_event_ms=received_ms,
        received_ms=received_ms,
        heard=heard,
        habit_days=habit_days(heard),
        gaps=gaps,
        calendar=calendar,
    ).status


MONDAY: Final = at(4, 27) // DAY_MS  # two weeks of school later a holiday of three weeks begins
SCHOOL_DAYS: Final = [day for day in range(MONDAY - 56, MONDAY) if (day - MONDAY) % 7 < 5]
WEEKLY: Final = list(range(MONDAY - 56, MONDAY + 1, 7))


def test_a_weekly_device_silent_for_six_days_is_good_and_a_daily_one_for_four_of_school_overdue() -> None:
    assert learned(WEEKLY, at(5, 3, 10)) is Status.GOOD
    heard_on_friday = SCHOOL_DAYS
    assert learned(heard_on_friday, at(4, 28, 10)) is Status.GOOD
    assert learned(heard_on_friday, at(4, 30, 23)) is Status.OVERDUE
    daily = list(range(MONDAY - 56, MONDAY + 1))
    every_day = Calendar()
    assert learned(daily, at(4, 29, 10), calendar=every_day) is Status.GOOD
    assert learned(daily, at(4, 29, 11), calendar=every_day) is Status.OVERDUE


def test_in_a_holiday_neither_is_overdue() -> None:
    until_friday = [*SCHOOL_DAYS, *range(MONDAY, MONDAY + 5), *range(MONDAY + 7, MONDAY + 12)]
    for hour in range(0, 21 * 24, 6):
        now_ms = at(5, 8, 12) + hour * HOUR_MS
        assert learned(until_friday, now_ms) is Status.GOOD
        assert learned([*WEEKLY, MONDAY + 7], now_ms) is Status.GOOD
    assert learned(until_friday, at(6, 4, 23)) is Status.OVERDUE, "four days of school after it"


def test_bridges_that_stopped_for_two_days_make_nothing_overdue() -> None:
    """At any moment: what is overdue is so for what was heard, or not, while we listened."""
    daily = list(range(MONDAY - 56, MONDAY + 1))
    every_day = Calendar()
    heard_ms = MONDAY * DAY_MS + 10 * HOUR_MS
    stopped_ms = heard_ms + HOUR_MS
    for hours in range(1, 49):
        now_ms = stopped_ms + hours * HOUR_MS
        assert learned(daily, now_ms, ListeningGap(stopped_ms, now_ms), calendar=every_day) is Status.GOOD
    gap = ListeningGap(stopped_ms, stopped_ms + 2 * DAY_MS)
    assert learned(daily, heard_ms + 4 * DAY_MS, gap, calendar=every_day) is Status.GOOD
    assert learned(daily, heard_ms + 4 * DAY_MS + 1, gap, calendar=every_day) is Status.OVERDUE
    assert learned(daily, heard_ms + 2 * DAY_MS + 1, calendar=every_day) is Status.OVERDUE


def test_what_was_before_anybody_wrote_down_when_we_listened_does_not_count() -> None:
    """After an upgrade: a device silent for a year is overdue once we listened for as long as its habit."""
    upgraded_ms = at(5, 4)
    gap = ListeningGap(0, upgraded_ms)
    a_year_ago = [day - 365 for day in range(MONDAY - 56, MONDAY)]
    every_day = Calendar()
    assert learned(a_year_ago, upgraded_ms + 2 * DAY_MS, gap, calendar=every_day) is Status.GOOD
    assert learned(a_year_ago, upgraded_ms + 2 * DAY_MS + 1, gap, calendar=every_day) is Status.OVERDUE
