"""Times as text."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from pisync.clock import from_ms, read_rfc3339, rfc3339, rfc3339_of_utc, to_ms

_LAST_MS = to_ms(datetime.max.replace(tzinfo=UTC))


@given(times_ms=st.lists(st.integers(to_ms(datetime.min.replace(tzinfo=UTC)), _LAST_MS)))
def test_many_at_once_are_the_same_text(times_ms: list[int]) -> None:
    moments = [from_ms(time_ms) for time_ms in times_ms]
    texts = rfc3339_of_utc([moment.replace(tzinfo=None) for moment in moments])
    assert texts == [rfc3339(moment) for moment in moments]


@given(st.text("0123456789", min_size=1, max_size=40), st.sampled_from(["Z", "z", "+05:30", "-23:59"]))
def test_a_time_is_cut_to_the_millisecond(fraction: str, offset: str) -> None:
    moment, is_cut = read_rfc3339(f"2026-05-08T12:00:07.{fraction}{offset}")
    assert to_ms(moment) % 10_000 == 7000 + int(fraction[:3].ljust(3, "0"))
    assert is_cut == (fraction[3:].strip("0") != "")
    assert moment.microsecond % 1000 == 0
