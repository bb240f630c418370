"""How long a device may be silent before that is unusual for it, learned from the days it was heard.

The days are by our clock: those on which something of it was received, a backlog of weeks in one day
included. Between two of them lies a gap, of 1 where they follow one another. A gap of n days by date may have
been a silence of nearly n + 1, and the next may be a little longer than all before it; so a habit has room
for a third more, rounded up, and is one of a few classes; the last one has room for gaps of 29 days.

Of the gaps in the window of `Days` the longest tenth is left out. Of fewer than ten the longest is left out
where it is at least three times as long as any other: a holiday. The class is the first with room for all
that is left, and the gaps that it has room for must last for two weeks together, so that a device that is new
in its school has shown its weekends. Nothing is learned from less, nor where a gap of 30 days or more is left:
a device without a habit is never overdue.
"""

from typing import Final

from pisync import limits
from pisync.domain.days import Days

HABIT_DAYS: Final = (2, 4, 7, 14, 30)
# For each class the longest gap that it has room for, and the shifts that make the days which have another
# one at most so many days before them out of those of the class below.
_CLASSES: Final = (
    (HABIT_DAYS[0], 1, ()),
    (HABIT_DAYS[1], 3, (1, 2)),
    (HABIT_DAYS[2], 5, (2,)),
    (HABIT_DAYS[3], 10, (5,)),
    (HABIT_DAYS[4], 29, (10, 19)),
)
_LEFT_OUT_OF: Final = 10
_HOLIDAY_TIMES: Final = 3


def habit_days(heard: Days) -> int | None:
    """The class of the device's habit, in days; None while none is known."""
    bits = heard.bits
    gaps = bits.bit_count() - 1
    if gaps < 2:
        return None
    left_out = gaps // _LEFT_OUT_OF or _has_holiday(bits)
    # Bit n is set where the device was heard at most `room` days before the day that is n days back.
    covered = bits >> 1
    for habit, room, shifts in _CLASSES:
        below = covered
        for shift in shifts:
            covered |= below >> shift
        longer = (bits & ~covered).bit_count() - 1  # before its oldest day nothing is known
        if longer <= left_out:
            # Of a longer gap `room` days are covered, of any other all of them.
            known_days = covered.bit_count() - longer * room
            return habit if known_days >= limits.HABIT_KNOWN_DAYS_MIN else None
    return None


def _has_holiday(bits: int) -> bool:
    """Whether the longest gap is much longer than any other."""
    longest = second = 0
    day = (bits & -bits).bit_length()
    bits &= bits - 1
    while bits:
        older = (bits & -bits).bit_length()
        gap, day = older - day, older
        if gap > longest:
            longest, second = gap, longest
        elif gap > second:
            second = gap
        bits &= bits - 1
    return longest >= _HOLIDAY_TIMES * second
