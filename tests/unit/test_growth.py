"""An incident that grows is told once a doubling, whoever looks, and whatever they know of each other."""

import math
from datetime import datetime

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pisync import limits
from pisync.domain import notifications
from tests.support.notifications import after, subject


@settings(max_examples=60)
@given(
    st.integers(3, 60),
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 3000), st.integers(0, 2)), min_size=1, max_size=40),
)
def test_growth_is_told_at_most_once_a_doubling_whoever_looks(
    first: int, looks: list[tuple[int, int, int]]
) -> None:
    """Three workers that each remember what they told themselves, and know nothing of the others."""
    opened = subject(devices=first, devices_first=first)
    seen = [opened] * 3
    told: dict[int, datetime] = {}
    minute, most = 0, first
    for later, devices, worker in looks:
        minute, most = minute + later, max(most, devices)
        grown = notifications.grown(replace(seen[worker], devices=devices), after(minute))
        if grown is not None:
            assert devices >= first * limits.INCIDENT_GREW_TIMES**grown.growth
            assert minute * 60 >= limits.INCIDENT_GREW_S
            told.setdefault(grown.growth, after(minute))  # its id has the number
            seen[worker] = grown
    assert len(told) <= math.log2(most / first)
    for worker in range(3):
        last = notifications.grown(replace(seen[worker], devices=most), after(minute + 10))
        assert notifications.growth(last or seen[worker]) == math.floor(math.log2(most / first) + 1e-9)
