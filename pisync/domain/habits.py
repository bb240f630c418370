"""How long a device may be silent before that is unusual for it, learned from the days heard."""

import math
from itertools import pairwise
from typing import Final

from pisync.domain.days import Days

HABIT_DAYS: Final = (2, 4, 7, 14, 30)
_GAPS_MIN: Final = 2
_MARGIN: Final = 4 / 3


def habit_days(heard: Days) -> int | None:
    """The class of the device's habit, in days; None while none is known."""
    days = list(heard)
    gaps = sorted(newer - older for newer, older in pairwise(days))
    if len(gaps) < _GAPS_MIN:
        return None
    usual = math.ceil(gaps[math.ceil(0.9 * len(gaps)) - 1] * _MARGIN)
    return next((habit for habit in HABIT_DAYS if usual <= habit), None)
