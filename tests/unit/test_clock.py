"""Times as text."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from pisync.clock import from_ms, rfc3339, rfc3339_of_utc, to_ms

_LAST_MS = to_ms(datetime.max.replace(tzinfo=UTC))


@given(times_ms=st.lists(st.integers(to_ms(datetime.min.replace(tzinfo=UTC)), _LAST_MS)))
def test_many_at_once_are_the_same_text(times_ms: list[int]) -> None:
    moments = [from_ms(time_ms) for time_ms in times_ms]
    texts = rfc3339_of_utc([moment.replace(tzinfo=None) for moment in moments])
    assert texts == [rfc3339(moment) for moment in moments]
