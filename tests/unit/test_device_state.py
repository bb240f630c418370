"""The streak rule: what it says, and that order and repetition cannot matter."""

from datetime import timedelta, timezone
from functools import reduce

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pisync import limits
from pisync.clock import to_ms
from pisync.domain.days import DAY_MS, Days
from pisync.domain.device_state import DeviceState, project
from pisync.domain.events import ErrorDetail, SyncEvent
from tests.support.samples import START, event, event_at, events_of_few_devices


def state(*outcomes: int) -> DeviceState:
    """The state after syncs a minute apart with so many errors each."""
    return project([event("PB-1", minute, errors) for minute, errors in enumerate(outcomes)])["PB-1"]


def test_the_streak_counts_failures_since_the_newest_success() -> None:
    assert state(1, 1, 0, 1, 1).streak == 2
    assert state(1, 1, 0, 1, 1).failures == 4
    assert state(1, 1, 1, 0).streak == 0
    assert state(1, 1, 1).streak == 3
    assert state(0).streak == 0


def test_an_alert_stands_from_the_third_failure_in_a_row() -> None:
    assert [state(*[1] * count).alerting for count in (1, 2, 3, 4)] == [False, False, True, True]


def test_only_the_newest_failures_are_kept() -> None:
    many = project(event("PB-1", minute, 1) for minute in range(limits.FAILURES_KEPT_MAX + 5))["PB-1"]
    assert many.failures == limits.FAILURES_KEPT_MAX
    assert many.failures_ms[0] == project([event("PB-1", 5, 1)])["PB-1"].failures_ms[0]


DAYS = st.frozensets(st.integers(20_000, 20_200), max_size=40)


@given(DAYS, DAYS, DAYS)
def test_days_are_the_newest_64_of_the_union(
    one: frozenset[int], other: frozenset[int], third: frozenset[int]
) -> None:
    union = one | other | third
    newest = max(union, default=0)
    merged = Days.of(one).merge(Days.of(other)).merge(Days.of(third))
    assert set(merged) == {day for day in union if day > newest - 64}
    assert merged == Days.of(third).merge(Days.of(other)).merge(Days.of(one)) == Days.of(union)
    assert merged.merge(Days.of(one)) == merged


def test_facts_beside_the_streak() -> None:
    errors = [ErrorDetail(code="E" * 99, message=""), ErrorDetail(code="F", message="")]
    day = to_ms(START) // DAY_MS
    events = [
        event_at(to_ms(START), errors=1, details=errors),
        event_at(to_ms(START) - 1, errors=1),
        event_at(to_ms(START) - 2 * DAY_MS),
    ]
    # An offset of the device's clock does not change its day, which is UTC's.
    elsewhere = events[2].timestamp.astimezone(timezone(timedelta(hours=14)))
    events[2] = msgspec.structs.replace(events[2], timestamp=elsewhere)
    state = project(events, [to_ms(START) + DAY_MS, None, to_ms(START) + 3])["PB-1"]
    assert (set(state.ok), set(state.bad), set(state.heard)) == ({day - 2}, {day}, {day, day + 1})
    assert (state.received_ms, state.code) == (to_ms(START) + DAY_MS, "E" * limits.ERROR_CODE_CHARS_MAX)
    assert project(events[1:])["PB-1"].code == ""


copies_of_one_event = st.builds(
    event_at,
    st.just(to_ms(START)),
    files=st.integers(0, 2),
    errors=st.integers(0, 2),
    speed=st.sampled_from([0.5, 1, 2.5]),
    device_type=st.sampled_from([None, "PiBook", "PiBox"]),
    duration_ms=st.none() | st.integers(0, 2),
)


@given(st.lists(copies_of_one_event, min_size=1, max_size=5), st.data())
def test_an_event_that_came_again_with_other_content_gives_the_same_in_any_order(
    copies: list[SyncEvent], data: st.DataObject
) -> None:
    """As after the first was deleted: nobody knows any more that they are in conflict."""
    states = [project([copy])["PB-1"] for copy in copies]
    shuffled = data.draw(st.permutations(states + data.draw(st.lists(st.sampled_from(states)))))
    assert reduce(DeviceState.merge, shuffled) == reduce(DeviceState.merge, states)


@given(events_of_few_devices, st.data())
def test_any_order_repetition_and_split_gives_the_same_state(batch: list, data: st.DataObject) -> None:  # type: ignore[type-arg]
    whole = project(batch)
    replayed = data.draw(
        st.permutations(batch + data.draw(st.lists(st.sampled_from(batch)) if batch else st.just([])))
    )
    joined: dict[str, DeviceState] = {}
    while replayed:
        size = data.draw(st.integers(1, len(replayed)))
        for device_id, part in project(replayed[:size]).items():
            joined[device_id] = joined[device_id].merge(part) if device_id in joined else part
        replayed = replayed[size:]
    assert joined == whole
