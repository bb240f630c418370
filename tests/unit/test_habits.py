"""Habits: fleets that are made up, and the rule once more, without its tricks."""

import random
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisync import limits
from pisync.domain.days import NO_DAYS, Days
from pisync.domain.habits import HABIT_DAYS, habit_days

MONDAY = 20_577  # 2026-05-04
DAILY = range(MONDAY, MONDAY + 64)
SCHOOL_DAYS = [day for day in DAILY if (day - MONDAY) % 7 < 5]


def learned(days: Iterable[int]) -> int | None:
    return habit_days(Days.of(set(days)))


def without(days: Iterable[int], first: int, count: int) -> list[int]:
    """But for some days in a row."""
    return [day for day in days if not first <= day - MONDAY < first + count]


@pytest.mark.parametrize(
    ("days", "habit"),
    [
        pytest.param([], None, id="never heard"),
        pytest.param(DAILY, 2, id="daily"),
        pytest.param(SCHOOL_DAYS, 4, id="on school days"),
        pytest.param([day for day in DAILY if (day - MONDAY) % 7 != 6], 4, id="but on Sundays"),
        pytest.param(DAILY[::2], 4, id="every other day"),
        pytest.param([day for day in DAILY if (day - MONDAY) % 7 in {0, 3}], 7, id="Mondays and Thursdays"),
        pytest.param(DAILY[1::7], 14, id="weekly"),
        pytest.param([day + day % 2 for day in DAILY[::7]], 14, id="weekly, a day late now and then"),
        pytest.param(DAILY[::14], 30, id="fortnightly"),
        pytest.param(DAILY[::28], 30, id="every four weeks"),
        pytest.param([MONDAY, MONDAY + 30, MONDAY + 61], None, id="monthly: longer than the last class"),
        pytest.param(without(DAILY, 20, 21), 2, id="daily, and a holiday of three weeks"),
        pytest.param(without(SCHOOL_DAYS, 19, 23), 4, id="on school days, and that holiday"),
        pytest.param(without(SCHOOL_DAYS, 14, 44), 4, id="on school days, and the summer"),
        pytest.param(without(DAILY[::7], 20, 21), 14, id="weekly, and that holiday"),
        pytest.param([MONDAY, MONDAY + 49, MONDAY + 56, MONDAY + 63], 14, id="weekly, and the summer"),
        pytest.param(without(DAILY, 30, 1), 2, id="daily, once not"),
        pytest.param([*range(MONDAY, MONDAY + 20), MONDAY + 63], 2, id="daily, then away, then back"),
        pytest.param(DAILY[:1], None, id="one day"),
        pytest.param(DAILY[:2], None, id="two days"),
        pytest.param(DAILY[:12], None, id="new: its first days at school"),
        pytest.param(SCHOOL_DAYS[2:10], None, id="new: one weekend was in between"),
        pytest.param(SCHOOL_DAYS[2:13], 4, id="two weekends were"),
        pytest.param([MONDAY, MONDAY + 1, MONDAY + 2, MONDAY + 40], None, id="tried out, then sent"),
        pytest.param([MONDAY, MONDAY + 7], None, id="weekly, twice"),
        pytest.param([MONDAY, MONDAY + 7, MONDAY + 14], 14, id="weekly, three times"),
        pytest.param([MONDAY, MONDAY + 20, MONDAY + 41, MONDAY + 62], 30, id="a backlog every three weeks"),
    ],
)
def test_what_is_learned(days: Iterable[int], habit: int | None) -> None:
    assert learned(days) == habit


def test_a_new_device_of_a_school_is_not_taken_for_a_daily_one_on_any_day() -> None:
    for start in range(7):
        heard = [day for day in SCHOOL_DAYS if day >= MONDAY + start]
        assert {learned(heard[:count]) for count in range(1, len(heard))} == {None, 4}


@pytest.mark.parametrize("share", [0.1, 0.2, 0.35, 0.5, 0.7, 0.9])
def test_an_erratic_device_is_seldom_silent_for_longer_than_its_habit(share: float) -> None:
    """Heard on a share of the days, by chance: of all silences few exceed what was learned before them."""
    chance, silences, exceeded = random.Random(5), 0, 0
    for _ in range(20):
        heard = [day for day in range(730) if chance.random() < share]
        for place in range(1, len(heard) - 1):
            habit = learned(heard[max(0, place - 64) : place + 1])
            silences += habit is not None
            exceeded += habit is not None and heard[place + 1] - heard[place] > habit
    assert silences > 500
    assert exceeded / silences < 0.08


def reference(days: set[int]) -> int | None:
    """The rule as its module states it."""
    kept = sorted(day for day in days if max(days) - day < limits.DAYS_KEPT)
    gaps = sorted(newer - older for older, newer in pairwise(kept))
    if len(gaps) < 2:
        return None
    left_out = len(gaps) // 10 or int(gaps[-1] >= 3 * gaps[-2])
    longest = gaps[len(gaps) - 1 - left_out]
    for habit in HABIT_DAYS:
        room = 29 if habit == 30 else max(gap for gap in range(30) if gap + -(-gap // 3) <= habit)
        if longest <= room:
            known_days = sum(gap for gap in gaps if gap <= room)
            return habit if known_days >= limits.HABIT_KNOWN_DAYS_MIN else None
    return None


GAPS = st.lists(
    st.one_of(st.integers(1, 3), st.integers(1, 12), st.sampled_from([1, 3, 7, 14, 28, 29, 30, 31, 49])),
    max_size=70,
)


@given(GAPS)
def test_the_shifts_are_the_rule(gaps: list[int]) -> None:
    days, day = {MONDAY}, MONDAY
    for gap in gaps:
        days.add(day := day - gap)
    assert habit_days(Days.of(days)) == reference(days)


def test_it_depends_on_nothing_but_the_gaps() -> None:
    assert habit_days(NO_DAYS) is None
    assert learned(SCHOOL_DAYS) == learned(day + 1000 for day in SCHOOL_DAYS)
