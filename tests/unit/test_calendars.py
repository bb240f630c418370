"""Which time counts as silence: calendars, zones whose clocks change, gaps in which no bridge listened."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Final
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pisync import limits
from pisync.clock import from_ms, to_ms
from pisync.domain import calendars
from pisync.domain.calendars import (
    EVERY_DAY,
    NEVER_MS,
    Calendar,
    CalendarError,
    Holiday,
    ListeningGap,
    Weekday,
    earliest_counted_ms,
    gaps_between,
    moment_in,
    silence_limit_ms,
    silence_ms,
)
from pisync.domain.days import DAY_MS

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
WEEKEND: Final = frozenset({Weekday.SATURDAY, Weekday.SUNDAY})
SCHOOL: Final = Calendar(
    time_zone="Africa/Nairobi",
    days_off=WEEKEND,
    holidays=(Holiday(date(2026, 4, 13), date(2026, 5, 1)), Holiday(date(2026, 5, 13), date(2026, 5, 13))),
)
NAIROBI: Final = ZoneInfo("Africa/Nairobi")


def at(month: int, day: int, hour: int = 0, minute: int = 0) -> int:
    return to_ms(datetime(2026, month, day, hour, minute, tzinfo=NAIROBI))


def wall(text: str) -> datetime:
    """What the clocks on some wall show."""
    return datetime.fromisoformat(text)


# Zones whose clocks change at midnight, by half an hour, or not at all, and times around such changes.
ZONES: Final = [
    "UTC",
    "Africa/Nairobi",
    "Europe/Berlin",
    "Asia/Beirut",
    "Australia/Lord_Howe",
    "Pacific/Apia",
]
TIMES_MS: Final = st.builds(
    lambda near, minutes: to_ms(near) + minutes * MINUTE_MS,
    st.sampled_from([datetime(2026, month, day, tzinfo=UTC) for month, day in [(3, 30), (4, 6), (10, 26)]]),
    st.integers(0, 3 * 1440),
)
CALENDARS: Final = st.builds(
    lambda time_zone, days_off, holidays: Calendar(
        time_zone=time_zone,
        days_off=frozenset(days_off),
        holidays=tuple(Holiday(date(2026, *first), date(2026, *last)) for first, last in holidays),
    ),
    st.sampled_from(ZONES),
    st.sets(st.sampled_from(Weekday), max_size=3),
    st.lists(
        st.sampled_from([((3, 20), (3, 27)), ((3, 29), (3, 29)), ((10, 20), (10, 23)), ((4, 2), (4, 5))]),
        unique=True,
    ),
)


@st.composite
def gaps_before(draw: st.DrawFn, now_ms: int) -> list[ListeningGap]:
    """Ascending and apart, in the days before a moment, perhaps until it and beyond."""
    edges = draw(st.lists(st.integers(-600, 8 * 1440), unique=True, max_size=8).map(sorted))
    pairs = [
        (now_ms - older * MINUTE_MS, now_ms - newer * MINUTE_MS)
        for newer, older in zip(edges[::2], edges[1::2], strict=False)
    ]
    return [ListeningGap(start, end) for start, end in reversed(pairs)]


def counts(calendar: Calendar, gaps: list[ListeningGap], minute_ms: int) -> bool:
    """Whether a minute counts, by the clock on the wall."""
    zone = UTC if calendar.time_zone == "UTC" else ZoneInfo(calendar.time_zone)
    today = from_ms(minute_ms).astimezone(zone).date()
    is_off = list(Weekday)[today.weekday()] in calendar.days_off
    is_holiday = any(holiday.first <= today <= holiday.last for holiday in calendar.holidays)
    return not (is_off or is_holiday or any(gap.start_ms <= minute_ms < gap.end_ms for gap in gaps))


@settings(max_examples=30, deadline=None)
@given(st.data(), CALENDARS, st.sampled_from([1, 2, 4]), TIMES_MS)
def test_it_is_what_counting_minutes_finds(
    data: st.DataObject, calendar: Calendar, days: int, now_ms: int
) -> None:
    gaps = data.draw(gaps_before(now_ms))
    found = silence_limit_ms(calendar, days, now_ms, gaps)
    minute_ms, left = now_ms, days * 1440
    while left or not counts(calendar, gaps, minute_ms - MINUTE_MS):  # before it stands one that counts
        minute_ms -= MINUTE_MS
        left -= counts(calendar, gaps, minute_ms)
    assert found == minute_ms
    assert silence_ms(calendar, found, now_ms, gaps) == days * DAY_MS
    assert silence_ms(calendar, found - MINUTE_MS, now_ms, gaps) == days * DAY_MS + MINUTE_MS


@settings(deadline=None)
@given(st.data(), CALENDARS, TIMES_MS, st.integers(0, 5 * 1440))
def test_it_never_goes_back_while_time_goes_on(
    data: st.DataObject, calendar: Calendar, now_ms: int, minutes: int
) -> None:
    gaps = data.draw(gaps_before(now_ms))
    later_ms = now_ms + minutes * MINUTE_MS
    for days in (2, 7):
        limit_ms = silence_limit_ms(calendar, days, now_ms, gaps)
        assert silence_limit_ms(calendar, days, later_ms, gaps) >= limit_ms


def test_a_school_silent_over_a_weekend() -> None:
    """Heard on Friday at 10: four days of school are over on Thursday at 10."""
    friday = at(5, 8, 10)
    assert silence_limit_ms(SCHOOL, 4, at(5, 11, 10), []) < friday
    assert silence_ms(SCHOOL, friday, at(5, 12, 0), []) == 38 * HOUR_MS
    # 13 May is a holiday, so it is Friday.
    assert silence_limit_ms(SCHOOL, 4, at(5, 15, 10), []) == friday
    assert silence_limit_ms(SCHOOL, 4, at(5, 15, 10, 1), []) == friday + MINUTE_MS
    assert silence_limit_ms(EVERY_DAY, 4, at(5, 15, 10), []) == at(5, 11, 10)


def test_a_limit_at_the_edge_of_what_does_not_count_is_its_beginning() -> None:
    """Whoever was heard in the holiday has been silent just as long as who was heard last before it."""
    assert silence_limit_ms(SCHOOL, 1, at(5, 5), []) == at(4, 11)
    assert silence_limit_ms(SCHOOL, 1, at(5, 5) + 1, []) == at(5, 4) + 1
    assert silence_limit_ms(SCHOOL, 1, at(5, 4, 12), []) == at(4, 10, 12)
    assert silence_ms(SCHOOL, at(4, 11), at(5, 5), []) == silence_ms(SCHOOL, at(5, 4), at(5, 5), []) == DAY_MS


def test_dates_are_those_of_the_zone() -> None:
    apia = Calendar(time_zone="Pacific/Apia", days_off=frozenset({Weekday.SUNDAY}))
    sunday_in_apia = to_ms(datetime(2026, 5, 9, 11, tzinfo=UTC))  # UTC+13
    assert silence_ms(apia, sunday_in_apia, sunday_in_apia + DAY_MS, []) == 0
    assert silence_ms(apia, sunday_in_apia - 1, sunday_in_apia + DAY_MS + 1, []) == 2


@pytest.mark.parametrize(("day", "hours"), [((2026, 3, 29), 23), ((2026, 10, 25), 25), ((2026, 5, 8), 24)])
def test_a_date_has_the_hours_that_its_clocks_give_it(day: tuple[int, int, int], hours: int) -> None:
    start = date(*day)
    others = frozenset(Weekday) - {list(Weekday)[start.weekday()]}
    berlin = Calendar(time_zone="Europe/Berlin", days_off=others)
    noon_ms = to_ms(datetime(*day, 12, tzinfo=ZoneInfo("Europe/Berlin")))
    assert silence_ms(berlin, noon_ms - 2 * DAY_MS, noon_ms + 2 * DAY_MS, []) == hours * HOUR_MS


def test_how_far_back_it_looks_is_bounded() -> None:
    closed = Calendar(days_off=frozenset(Weekday))
    now_ms = at(5, 8)
    assert silence_limit_ms(closed, 2, now_ms, []) == NEVER_MS
    assert silence_ms(closed, 0, now_ms, []) == 0
    assert silence_limit_ms(EVERY_DAY, 399, now_ms, []) == now_ms - 399 * DAY_MS
    assert silence_limit_ms(EVERY_DAY, 400, now_ms, []) == NEVER_MS
    assert silence_ms(EVERY_DAY, 0, now_ms, []) == limits.SILENCE_DAYS_BACK * DAY_MS
    deaf = [ListeningGap(earliest_counted_ms(now_ms), now_ms - 3 * DAY_MS)]
    assert silence_limit_ms(EVERY_DAY, 4, now_ms, deaf) == NEVER_MS, "nobody listened before"
    assert silence_limit_ms(EVERY_DAY, 2, now_ms, deaf) == now_ms - 2 * DAY_MS


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Calendar(time_zone="Europe/Bonn"), "no time zone 'Europe/Bonn'"),
        (lambda: Calendar(time_zone=""), "no time zone ''"),
        (lambda: Calendar(time_zone="Europe"), "no time zone"),
        (lambda: Calendar(time_zone="../../etc/passwd"), "no time zone"),
        (lambda: Calendar(time_zone="/etc/localtime"), "no time zone"),
        (lambda: Calendar(time_zone="right/Europe/Berlin"), "no time zone"),
        (lambda: Calendar(time_zone="posixrules"), "no time zone"),
        (lambda: Calendar(time_zone="tzdata.zi"), "no time zone"),
        (lambda: Calendar(time_zone="zone1970.tab"), "no time zone"),
        (lambda: Calendar(time_zone="leapseconds"), "no time zone"),
        (lambda: Calendar(time_zone="x\0"), "no time zone"),
        (lambda: Calendar(time_zone="x" * 100_000), "xxx…' in this machine"),
        (
            lambda: Holiday(date(2026, 5, 2), date(2026, 5, 1)),
            "2026-05-02 ends before it begins, on 2026-05-01",
        ),
        (
            lambda: Calendar(
                holidays=(
                    Holiday(date(2026, 5, 4), date(2026, 5, 9)),
                    Holiday(date(2026, 4, 1), date(2026, 5, 4)),
                )
            ),
            "2026-04-01 to 2026-05-04 and 2026-05-04 to 2026-05-09 overlap",
        ),
        (lambda: Calendar(holidays=(Holiday(date(2026, 5, 4), date(2026, 5, 4)),) * 2), "overlap"),
        (lambda: Calendar(holidays=(Holiday(date(2026, 5, 4), date(2026, 5, 4)),) * 201), "more than 200"),
        (lambda: moment_in("Europe/Berlin", wall("2026-03-29T02:30")), "never show 2026-03-29 02:30:00"),
        (lambda: moment_in("Asia/Beirut", wall("2026-03-29T00:00")), "never show"),
        (lambda: moment_in("Europe/Bonn", wall("2026-03-29T00:00")), "no time zone"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(CalendarError) as refused:
        make()
    assert words in str(refused.value)
    assert len(str(refused.value)) < 250


def test_a_moment_in_a_zone() -> None:
    assert moment_in("UTC", wall("2026-05-08T12:00")) == datetime(2026, 5, 8, 12, tzinfo=UTC)
    assert moment_in("Africa/Nairobi", wall("2026-05-08T12:00")) == datetime(2026, 5, 8, 9, tzinfo=UTC)
    twice = wall("2026-10-25T02:30")
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert moment_in("Europe/Berlin", twice) == moment_in("Europe/Berlin", twice.replace(fold=1)) == first
    assert moment_in("Europe/Berlin", wall("2026-03-29T03:00")) == datetime(2026, 3, 29, 1, tzinfo=UTC)


def test_every_day_needs_no_tz_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calendars, "ZoneInfo", None)
    calendars._midnight_ms.cache_clear()
    assert silence_limit_ms(Calendar(), 2, at(5, 8), []) == at(5, 6)


def test_holidays_are_kept_in_their_order() -> None:
    assert Calendar(holidays=SCHOOL.holidays[::-1]).holidays == SCHOOL.holidays
    assert hash(Calendar(holidays=SCHOOL.holidays[::-1])) == hash(Calendar(holidays=SCHOOL.holidays))


SECONDS: Final = st.integers(0, 100)


@given(
    st.lists(st.lists(SECONDS, min_size=2, max_size=2, unique=True).map(sorted), max_size=12),
    SECONDS,
    SECONDS,
)
def test_gaps_are_the_seconds_in_which_nobody_listened(
    intervals: list[list[int]], one: int, other: int
) -> None:
    """But those in a row of no more than the limit."""
    since, until = sorted([one, other])
    deaf = "".join(
        "." if any(start <= second < end for start, end in intervals) else "x"
        for second in range(since, until)
    )
    expected, place = [], since
    for run in deaf.replace(".x", ". x").replace("x.", "x .").split():
        if run[0] == "x" and len(run) > limits.LISTENING_GAP_MIN_S:
            expected.append(ListeningGap(place * 1000, (place + len(run)) * 1000))
        place += len(run)
    found = gaps_between([(start * 1000, end * 1000) for start, end in intervals], since * 1000, until * 1000)
    assert found == expected


def test_without_any_record_all_is_a_gap() -> None:
    assert gaps_between([], 0, DAY_MS) == [ListeningGap(0, DAY_MS)]
    assert gaps_between([(DAY_MS, 2 * DAY_MS)], 0, 2 * DAY_MS) == [ListeningGap(0, DAY_MS)]
