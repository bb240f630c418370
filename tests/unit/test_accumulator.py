"""Stored events become the states that the rule says, in whatever batches they come, in bounded memory."""

import tracemalloc
from datetime import UTC
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pisync.clock import from_ms, to_ms
from pisync.domain.accumulator import Accumulator, StoredEvents
from pisync.domain.days import DAY_MS
from pisync.domain.device_state import DeviceState, project
from pisync.domain.events import ErrorDetail
from pisync.stores.interfaces.events import HistoryEntry
from pisync.stores.memory.events import stored_events
from tests.support import counting
from tests.support.samples import START, event_at

BEGIN_MS = to_ms(START)


def entry(device: int, moment: int, received_day: int, bare: bool) -> HistoryEntry:
    """An event whose content follows from its identity, or from before it was enriched."""
    mixed = device * 7 + moment * 3
    codes = [f"E{mixed % 4}" * (mixed % 3 * 20 + 1), "F"]
    details = [ErrorDetail(code=code, message="m") for code in codes] if mixed % 4 else []
    moment_ms = BEGIN_MS + moment % 7 * 5 + moment // 7 * 9 * DAY_MS
    event = event_at(moment_ms, f"PB-{device}", errors=mixed % 5 % 3, files=mixed % 9)
    if not bare:
        event = msgspec.structs.replace(event, errors=details, sync_duration_ms=mixed, device_type="PiBox")
    return HistoryEntry(event=event, received_at=from_ms(moment_ms + received_day * DAY_MS))


entries = st.lists(
    st.builds(entry, st.integers(0, 2), st.integers(0, 80), st.integers(0, 99), st.booleans()), max_size=60
)


def as_it_was(enriched: HistoryEntry) -> HistoryEntry:
    """The same event before it was enriched."""
    event = msgspec.structs.replace(enriched.event, errors=None, sync_duration_ms=None, device_type=None)
    return msgspec.structs.replace(enriched, event=event)


@given(entries, st.data())
def test_states_are_what_the_rule_says(found: list[HistoryEntry], data: st.DataObject) -> None:
    """In any order, batches and repetition, enriched in between or not, and taken in between or not."""
    copies = data.draw(st.lists(st.sampled_from(found), max_size=9)) if found else []
    found = found + list(map(as_it_was, copies))
    expected = project([one.event for one in found], [to_ms(one.received_at) for one in found])
    again = data.draw(st.lists(st.sampled_from(found), max_size=9)) if found else []
    rest = data.draw(st.permutations(found + again))
    states: dict[str, DeviceState] = {}
    accumulator = Accumulator()

    def take() -> None:
        for some in accumulator.take(2):
            assert len(some) <= 2
            for device_id, state in some.items():
                states[device_id] = states[device_id].merge(state) if device_id in states else state
        assert accumulator.bytes_held == 0

    while rest:
        size = data.draw(st.integers(1, len(rest)))
        accumulator.add(stored_events(rest[:size]))
        rest = rest[size:]
        if data.draw(st.booleans()):
            take()
    take()
    assert states == expected


def documents(devices: int, each: int) -> list[dict[str, Any]]:
    """As the driver decodes them: nothing is shared."""
    found = []
    for number in range(devices * each):
        moment = from_ms(BEGIN_MS + number // devices * DAY_MS).astimezone(UTC).replace(tzinfo=None)
        identity = {"bucket": 1, "day": number, "device_id": f"PB-{number % devices}", "timestamp": moment}
        document = {
            "_id": identity,
            "received_at": moment.replace(microsecond=5000),
            "total_files_synced": 1000 + number,
            "total_errors": number % 2 * 1000,
            "internet_speed": number / 7,
            "device_type": f"PiBox {number}",
            "sync_duration_ms": 1_000_000 + number,
        }
        found.append(document)
    return found


@pytest.mark.parametrize(("devices", "each"), [(1, 3000), (30, 100), (1500, 2)])
def test_the_memory_it_says_it_holds_is_no_less_than_it_holds(devices: int, each: int) -> None:
    tracemalloc.start()
    try:
        accumulator = Accumulator()
        before, _ = tracemalloc.get_traced_memory()
        accumulator.add(StoredEvents(documents=documents(devices, each)))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert accumulator.bytes_held / 2 < after - before <= accumulator.bytes_held


def test_an_event_costs_no_call_of_a_function_of_ours() -> None:
    batch = StoredEvents(documents=documents(10, 50))
    accumulator = Accumulator()
    with counting.calls() as calls:
        accumulator.add(batch)
    # What is called are two methods of lists, one of a dictionary, and for a failure another.
    assert calls.count <= 4 * len(batch) + 10 * 3
