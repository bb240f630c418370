"""The streak rule: what it says, and that order and repetition cannot matter."""

from hypothesis import given
from hypothesis import strategies as st

from pisync import limits
from pisync.domain.device_state import DeviceState, project
from tests.support.samples import event, events_of_few_devices


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
