"""What every event store does."""

import asyncio
from datetime import timedelta

import msgspec
import pytest

from pisync import limits
from pisync.clock import rfc3339, to_ms
from pisync.domain.device_state import LastEvent, project
from pisync.domain.events import ErrorDetail, SyncEvent, from_content
from pisync.stores.interfaces.events import (
    EventStore,
    HistoryQuery,
    InsertOutcome,
    OutcomeFilter,
)
from tests.support.replays import states_of
from tests.support.samples import NOW, START, event


async def minutes(store: EventStore, **query: object) -> list[int]:
    """The minutes after START of a page of PB-1's history."""
    asked = HistoryQuery(**{"device_id": "PB-1", "limit": 100, **query})  # type: ignore[arg-type]
    page = await store.history(asked)
    assert [row["timestamp"] for row in (await store.page(asked)).rows] == [
        rfc3339(entry.event.timestamp) for entry in page
    ]
    return [int((entry.event.timestamp - START) / timedelta(minutes=1)) for entry in page]


async def test_what_is_stored_comes_back_whole(event_store: EventStore) -> None:
    full = SyncEvent(
        device_id="PB-1",
        timestamp=START,
        total_files_synced=2**53 - 1,
        total_errors=2,
        internet_speed=0.1,
        device_type="PiBox",
        sync_duration_ms=0,
        errors=[ErrorDetail(code="", message='nul \0, quote ", smile 😀'), ErrorDetail(code="b", message="")],
    )
    assert await event_store.insert([full, event("PB-2")], NOW) == [InsertOutcome.STORED] * 2
    query = HistoryQuery(device_id="PB-1", limit=10)
    (entry,) = await event_store.history(query)
    assert (entry.event, entry.received_at) == (msgspec.structs.replace(full, errors=None), NOW)
    (row,) = (await event_store.page(query)).rows
    assert from_content("PB-1", START, row) == full


async def test_a_row_of_a_page_is_ready_to_be_encoded(event_store: EventStore) -> None:
    full = SyncEvent(
        device_id="PB-1",
        timestamp=START + timedelta(milliseconds=70),
        total_files_synced=3,
        total_errors=2,
        internet_speed=1e20,
        device_type="PiBox",
        sync_duration_ms=0,
        errors=[ErrorDetail(code="a", message='","')],
    )
    await event_store.insert([full, event("PB-1")], NOW)
    rows = (await event_store.page(HistoryQuery(device_id="PB-1", limit=10))).rows
    assert msgspec.json.decode(msgspec.json.encode(rows)) == [
        {
            "timestamp": "2026-05-08T12:00:00.070Z",
            "outcome": "partial",
            "total_files_synced": 3,
            "total_errors": 2,
            "internet_speed": 1e20,
            "device_type": "PiBox",
            "sync_duration_ms": 0,
            "errors": [{"code": "a", "message": '","'}],
            "received_at": "2026-06-01T00:00:00.000Z",
        },
        {
            "timestamp": "2026-05-08T12:00:00.000Z",
            "outcome": "success",
            "total_files_synced": 3,
            "total_errors": 0,
            "internet_speed": 3.2,
            "device_type": None,
            "sync_duration_ms": None,
            "errors": None,
            "received_at": "2026-06-01T00:00:00.000Z",
        },
    ]


async def test_large_counts_come_back_as_plain_integers(event_store: EventStore) -> None:
    """Rows of a page may have the class that MongoDB's driver makes of them, which the api encodes."""
    large = msgspec.structs.replace(event("PB-1"), total_files_synced=2**31, sync_duration_ms=2**53 - 1)
    await event_store.insert([large], NOW)
    query = HistoryQuery(device_id="PB-1", limit=1)
    [row] = (await event_store.page(query)).rows
    assert (row["total_files_synced"], row["sync_duration_ms"]) == (2**31, 2**53 - 1)
    [entry] = await event_store.history(query)
    assert entry.event == large
    lasts: list[SyncEvent | LastEvent] = [entry.event]
    for since in (None, NOW):
        states = states_of([batch async for batch in event_store.replay(since)])
        assert states == project([large], [to_ms(NOW)])
        lasts.append(states["PB-1"].last_event)
    for last in lasts:
        assert {type(last.total_files_synced), type(last.sync_duration_ms)} == {int}


async def test_when_events_were_received_is_told_of_each(event_store: EventStore) -> None:
    """Of neighbours a millisecond apart too, and of times that are finer than what is kept."""
    one = event("PB-1")
    next_ms = msgspec.structs.replace(one, timestamp=one.timestamp + timedelta(milliseconds=1))
    await event_store.insert([one, event("PB-2", 1)], NOW)
    await event_store.insert([next_ms], NOW + timedelta(hours=1))
    finer = msgspec.structs.replace(one, timestamp=one.timestamp + timedelta(microseconds=999))
    asked = [event("PB-2", 1), next_ms, finer, event("PB-3"), finer]
    assert await event_store.received(asked) == [NOW, NOW + timedelta(hours=1), NOW, None, NOW]
    assert await event_store.received([]) == []


async def test_an_event_is_stored_once(event_store: EventStore) -> None:
    first = [event("PB-1", 0), event("PB-1", 1, errors=1)]
    await event_store.insert(first, NOW)
    again = await event_store.insert(
        [event("PB-1", 2), first[1], event("PB-1", 2), first[0]], NOW + timedelta(hours=1)
    )
    assert sorted(again) == [InsertOutcome.DUPLICATE] * 3 + [InsertOutcome.STORED]
    assert again[1] == again[3] == InsertOutcome.DUPLICATE
    assert await minutes(event_store) == [2, 1, 0]


async def test_other_content_under_the_same_key_is_a_conflict(event_store: EventStore) -> None:
    await event_store.insert([event("PB-1", 0, errors=1)], NOW)
    outcomes = await event_store.insert([event("PB-1", 0), event("PB-1", 1)], NOW)
    assert outcomes == [InsertOutcome.CONFLICT, InsertOutcome.STORED]
    (kept,) = await event_store.history(
        HistoryQuery(device_id="PB-1", limit=1, before=START + timedelta(seconds=1))
    )
    assert kept.event.total_errors == 1


async def test_a_timestamp_is_kept_to_the_millisecond(event_store: EventStore) -> None:
    fine = event("PB-1")
    microseconds = START + timedelta(microseconds=1999)
    shifted = SyncEvent(
        **{name: getattr(fine, name) for name in fine.__struct_fields__} | {"timestamp": microseconds}
    )
    assert await event_store.insert([shifted], NOW) == [InsertOutcome.STORED]
    assert await event_store.insert([shifted], NOW) == [InsertOutcome.DUPLICATE]
    (entry,) = await event_store.history(HistoryQuery(device_id="PB-1", limit=1))
    assert entry.event.timestamp == START + timedelta(milliseconds=1)


async def test_racing_inserts_store_an_event_once(event_store: EventStore) -> None:
    batch = [event("PB-1", minute) for minute in range(50)]
    outcomes = await asyncio.gather(*(event_store.insert(batch, NOW) for _ in range(8)))
    for racers in zip(*outcomes, strict=True):
        assert sorted(racers) == [InsertOutcome.DUPLICATE] * 7 + [InsertOutcome.STORED]


async def test_history_is_newest_first_and_bounded(event_store: EventStore) -> None:
    await event_store.insert(
        [event(device, minute) for device in ("PB-0", "PB-1", "PB-10", "PB-2") for minute in range(6)], NOW
    )
    assert await minutes(event_store) == [5, 4, 3, 2, 1, 0]
    assert await minutes(event_store, limit=2) == [5, 4]
    assert await minutes(event_store, before=START + timedelta(minutes=3)) == [2, 1, 0]
    assert await minutes(event_store, after=START + timedelta(minutes=3)) == [5, 4]
    between = {"before": START + timedelta(minutes=4), "after": START + timedelta(minutes=1)}
    assert await minutes(event_store, **between) == [3, 2]


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (OutcomeFilter.SUCCESS, [0]),
        (OutcomeFilter.PARTIAL, [1]),
        (OutcomeFilter.FAILED, [2]),
        (OutcomeFilter.FAILURE, [2, 1]),
        (None, [2, 1, 0]),
    ],
)
async def test_history_by_outcome(
    event_store: EventStore, outcome: OutcomeFilter | None, expected: list[int]
) -> None:
    await event_store.insert(
        [event("PB-1", 0), event("PB-1", 1, errors=1), event("PB-1", 2, errors=1, files=0)], NOW
    )
    assert await minutes(event_store, outcome=outcome) == expected


async def test_a_device_is_known_by_its_events(event_store: EventStore) -> None:
    await event_store.insert([event("PB-1")], NOW)
    assert await event_store.knows("PB-1")
    assert not await event_store.knows("PB-")
    assert not await event_store.knows("PB-11")
    assert not await event_store.knows("a")


async def test_failures_are_counted_exactly(event_store: EventStore) -> None:
    await event_store.insert(
        [event("PB-1", minute, errors=int(minute != 3)) for minute in range(8)]
        + [event("PB-2", 0, errors=1)],
        NOW,
    )
    since = START + timedelta(minutes=2)
    assert await event_store.count_failures("PB-1", [None]) == [7]
    assert await event_store.count_failures("PB-1", [since]) == [5]
    assert await event_store.count_failures("PB-2", [None]) == [1]
    assert await event_store.count_failures("PB-3", [None]) == [0]


async def test_which_devices_fail_in_a_row(event_store: EventStore) -> None:
    rows = {
        "PB-1": (1, 1, 1),
        "PB-2": (1, 1),
        "PB-3": (0, 1, 1, 1),
        "PB-4": (1, 1, 1, 0),
        "PB-5": (1, 1, 0, 1),
    }
    for device_id, errors in rows.items():
        batch = [event(device_id, minute, errors=count) for minute, count in enumerate(errors)]
        await event_store.insert(batch[::-1], NOW)
    await event_store.insert([event("PB-1.0", minute, errors=1) for minute in range(3)], NOW)
    assert await event_store.failing([*rows, "PB-none", "PB-"], 3) == {"PB-1", "PB-3"}
    assert await event_store.failing(["PB-2", "PB-5"], 1) == {"PB-2", "PB-5"}


async def test_nothing_to_do(event_store: EventStore) -> None:
    assert await event_store.insert([], NOW) == []
    await event_store.prepare()
    await event_store.ping()


async def test_the_first_errors_of_some_events_are_told_cut_to_what_is_shown(event_store: EventStore) -> None:
    first = ErrorDetail(code="c" * 50, message="ж" * 1000)
    errors = [
        [first, ErrorDetail(code="E_2", message="2")],
        [ErrorDetail(code="", message="no code")],
        [],
        None,
    ]
    events = [
        msgspec.structs.replace(event(f"PB-{number}", 0, 1), errors=some)
        for number, some in enumerate(errors)
    ]
    await event_store.insert([*events, event("PB-1", 1, 1)], NOW)
    asked = [("PB-9", to_ms(START)), *((f"PB-{number}", to_ms(START)) for number in reversed(range(4)))]
    assert await event_store.first_errors(asked) == [
        None,
        None,
        None,
        ErrorDetail(code="", message="no code"),
        ErrorDetail(code="c" * limits.ERROR_CODE_CHARS_MAX, message="ж" * limits.SAMPLE_CHARS_MAX),
    ]
    assert await event_store.first_errors([]) == []
