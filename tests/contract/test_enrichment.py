"""An event that is sent again with more members, with fewer or with others, in any order, from any bridge."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pisync import limits
from pisync.clock import read_rfc3339
from pisync.domain.accumulator import StoredEvents
from pisync.domain.device_state import project
from pisync.domain.events import ErrorDetail, SyncEvent, from_content
from pisync.stores.interfaces.events import EventStore, HistoryQuery, InsertOutcome, ReplayPosition
from pisync.stores.interfaces.projection import DeviceRecord, Projection
from pisync.stores.memory.events import MemoryEventStore
from pisync.stores.memory.projection import MemoryProjection
from pisync.stores.mongodb.events import MongoEventStore
from pisync.stores.redis.projection import RedisProjection
from tests.support.replays import entries_of, replayed
from tests.support.samples import NOW, attach_anew, event

STORED, DUPLICATE, ENRICHED, CONFLICT = (
    InsertOutcome.STORED,
    InsertOutcome.DUPLICATE,
    InsertOutcome.ENRICHED,
    InsertOutcome.CONFLICT,
)
BARE = event("PB-1", 0, errors=1)
DETAILS = [ErrorDetail(code="E1", message="no line")]
OPTIONAL: dict[str, Any] = {"device_type": "PiBox", "sync_duration_ms": 5400, "errors": DETAILS}
LATER = NOW + timedelta(hours=1)


LOOKED_FOR = "mongodb, looked for first"


@pytest.fixture(params=["memory", "mongodb", LOOKED_FOR])
def event_store_url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Where the event store is; None: in memory. Each batch may be looked for before it is inserted."""
    if request.param == "memory":
        return None
    if request.param == LOOKED_FOR:
        monkeypatch.setattr(limits, "LOOKED_FOR_MIN", 1)
        monkeypatch.setattr(limits, "LOOKED_FOR_SHARE", 0.0)
    found: str = request.getfixturevalue("mongodb_url")
    return found


def with_(one: SyncEvent = BARE, **members: Any) -> SyncEvent:
    return msgspec.structs.replace(one, **members)


async def row(store: EventStore, device_id: str = "PB-1") -> dict[str, Any]:
    """The only event of a device, as a page shows it."""
    (found,) = (await store.page(HistoryQuery(device_id=device_id, limit=10))).rows
    return found


@pytest.mark.parametrize("member", OPTIONAL)
async def test_what_was_absent_is_filled_in_once(event_store: EventStore, member: str) -> None:
    await event_store.insert([BARE], NOW)
    richer = with_(**{member: OPTIONAL[member]})
    assert await event_store.insert([richer], LATER) == [ENRICHED]
    kept = await row(event_store)
    assert kept[member] == msgspec.to_builtins(OPTIONAL[member])
    assert await event_store.insert([richer, BARE], LATER) == [DUPLICATE, DUPLICATE]
    assert await row(event_store) == kept


async def test_an_empty_list_of_errors_says_something(event_store: EventStore) -> None:
    await event_store.insert([BARE], NOW)
    assert await event_store.insert([with_(errors=[])], NOW) == [ENRICHED]
    assert (await row(event_store))["errors"] == []
    assert await event_store.insert([BARE, with_(errors=[])], NOW) == [DUPLICATE, DUPLICATE]
    assert await event_store.insert([with_(errors=DETAILS)], NOW) == [CONFLICT]
    assert (await row(event_store))["errors"] == []


@pytest.mark.parametrize(
    "other",
    [
        {"device_type": "PiBook"},
        {"device_type": "PiBook", "sync_duration_ms": 1},
        {"total_errors": 0, "sync_duration_ms": 1},
        {"internet_speed": 3.3},
        {"errors": [ErrorDetail(code="E1", message="no lin")]},
    ],
)
async def test_another_value_is_a_conflict_and_changes_nothing(
    event_store: EventStore, other: dict[str, Any]
) -> None:
    await event_store.insert([with_(device_type="PiBox", errors=DETAILS)], NOW)
    before = await row(event_store)
    assert await event_store.insert([with_(**other)], LATER) == [CONFLICT]
    assert await row(event_store) == before


async def test_one_batch_with_several_of_an_identity(event_store: EventStore) -> None:
    await event_store.insert([event("PB-2", 0, errors=1)], NOW)
    outcomes = await event_store.insert(
        [
            BARE,
            with_(device_type="PiBox"),
            BARE,
            with_(device_type="PiBook"),
            with_(errors=[]),
            with_(device_type="PiBox", sync_duration_ms=1),
            with_(event("PB-2", 0, errors=1), sync_duration_ms=2),
        ],
        NOW,
    )
    assert outcomes == [STORED, ENRICHED, DUPLICATE, CONFLICT, ENRICHED, ENRICHED, ENRICHED]
    kept = await row(event_store)
    assert (kept["device_type"], kept["errors"], kept["sync_duration_ms"]) == ("PiBox", [], 1)
    assert (await row(event_store, "PB-2"))["sync_duration_ms"] == 2


async def test_many_are_enriched_each_with_its_own(event_store: EventStore) -> None:
    bare = [event("PB-1", minute) for minute in range(130)]
    await event_store.insert(bare, NOW)
    richer = [
        with_(one, sync_duration_ms=minute, errors=[ErrorDetail(code="$_id", message="$$ROOT")])
        for minute, one in enumerate(bare)
    ]
    assert await event_store.insert(richer, LATER) == [ENRICHED] * 130
    rows = (await event_store.page(HistoryQuery(device_id="PB-1", limit=200))).rows
    assert [found["sync_duration_ms"] for found in rows] == list(range(129, -1, -1))
    assert {found["errors"][0]["code"] for found in rows} == {"$_id"}


async def test_what_was_enriched_is_replayed_since_then(event_store: EventStore) -> None:
    """Or a Redis that was away meanwhile would never hear of it."""
    await event_store.insert([BARE, event("PB-2")], NOW)
    await event_store.insert([with_(device_type="PiBox")], LATER)
    found = [entry.event for entry in await replayed(event_store, LATER)]
    assert found == [with_(device_type="PiBox")]
    # A bridge with a clock that is behind does not take it back.
    await event_store.insert([with_(sync_duration_ms=1)], NOW)
    found = [entry.event for entry in await replayed(event_store, LATER)]
    assert found == [with_(device_type="PiBox", sync_duration_ms=1)]


async def test_when_it_was_received_stays(event_store: EventStore) -> None:
    """Or an old backlog, sent again by a newer firmware, would look as if it had come today."""
    await event_store.insert([BARE], NOW)
    await event_store.insert([with_(device_type="PiBox")], LATER)
    (kept,) = await event_store.history(HistoryQuery(device_id="PB-1", limit=1))
    assert kept.received_at == NOW


async def test_an_interrupted_replay_goes_on_with_what_was_enriched(event_store: EventStore) -> None:
    await event_store.insert([BARE], NOW)
    await event_store.insert([with_(device_type="PiBox")], LATER)
    await event_store.insert([event("PB-2")], LATER)
    position = ReplayPosition()
    interrupted = event_store.replay(LATER, position)
    found = [await anext(interrupted), await anext(interrupted, StoredEvents(documents=[]))]
    found += [batch async for batch in event_store.replay(LATER, position)]
    assert {entry.event.device_id for batch in found for entry in entries_of(batch)} == {"PB-1", "PB-2"}


async def test_a_number_in_another_spelling_is_the_same(event_store: EventStore) -> None:
    await event_store.insert([with_(internet_speed=3.0, sync_duration_ms=20)], NOW)
    assert await event_store.insert([with_(internet_speed=3, sync_duration_ms=20.0)], NOW) == [DUPLICATE]


@pytest_asyncio.fixture
async def bridges(event_store: EventStore, event_store_url: str | None) -> AsyncIterator[list[EventStore]]:
    """The stores of several bridges over one database."""
    others = [] if event_store_url is None else [MongoEventStore.connect(event_store_url) for _ in range(3)]
    yield [event_store, *others]
    for other in others:
        await other.close()


async def test_racing_enrichments_are_all_there(bridges: list[EventStore]) -> None:
    many = [event("PB-1", minute, errors=1) for minute in range(60)]
    await bridges[0].insert(many, NOW)
    batches = [[with_(one, **{name: value}) for one in many] for name, value in OPTIONAL.items()] * 2
    stores = itertools.cycle(bridges)
    outcomes = await asyncio.gather(*(next(stores).insert(batch, LATER) for batch in batches))
    assert {outcome for batch in outcomes for outcome in batch} <= {DUPLICATE, ENRICHED}
    for found in (await bridges[0].page(HistoryQuery(device_id="PB-1", limit=100))).rows:
        assert {name: found[name] for name in OPTIONAL} == msgspec.to_builtins(OPTIONAL)


async def test_of_racing_values_of_one_member_one_is_kept_and_the_others_are_conflicts(
    bridges: list[EventStore],
) -> None:
    many = [event("PB-1", minute, errors=1) for minute in range(60)]
    await bridges[0].insert(many, NOW)
    stores = itertools.cycle(bridges)
    # Those in one half of the batch add two members, so that a part of what they add may be there already.
    batches = [
        [
            with_(one, sync_duration_ms=racer, **({"device_type": "PiBox"} if minute % 2 else {}))
            for minute, one in enumerate(many)
        ]
        for racer in range(8)
    ]
    outcomes = await asyncio.gather(*(next(stores).insert(batch, LATER) for batch in batches))
    rows = (await bridges[0].page(HistoryQuery(device_id="PB-1", limit=100))).rows[::-1]
    for minute, found in enumerate(rows):
        winner = found["sync_duration_ms"]
        kept = [racer for racer, batch in enumerate(outcomes) if batch[minute] is not CONFLICT]
        assert kept == [winner]
        assert found["device_type"] == ("PiBox" if minute % 2 else None)


# Copies of few events in batches: each copy's minute, and the optional members that it has.
COPIES = st.lists(
    st.lists(st.tuples(st.integers(0, 2), st.sets(st.sampled_from([*OPTIONAL]))), min_size=1, max_size=6),
    min_size=1,
    max_size=5,
)
Copies = list[list[tuple[int, set[str]]]]
DEVICES = itertools.count()


def at(one: SyncEvent, moment: datetime) -> SyncEvent:
    return with_(one, timestamp=moment)


def batches_of(copies: Copies, device_id: str, **other: Any) -> list[list[SyncEvent]]:
    """The copies as events; those that have the member in `other` have it with that value."""
    return [
        [
            with_(
                event(device_id, minute, errors=minute % 2),
                **{name: (OPTIONAL | other)[name] for name in names},
            )
            for minute, names in batch
        ]
        for batch in copies
    ]


def union_of(copies: Copies, device_id: str) -> list[SyncEvent]:
    """Each event once, with all that any copy of it has."""
    found: dict[int, set[str]] = {}
    for minute, names in itertools.chain.from_iterable(copies):
        found[minute] = found.get(minute, set()) | names
    [events] = batches_of([sorted(found.items())], device_id)
    return events


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(copies=COPIES)
async def test_the_order_of_copies_does_not_matter(event_store_url: str | None, copies: Copies) -> None:
    store: EventStore = (
        MemoryEventStore() if event_store_url is None else MongoEventStore.connect(event_store_url)
    )
    device_id = f"PB-{next(DEVICES)}"
    try:
        outcomes = [
            outcome for batch in batches_of(copies, device_id) for outcome in await store.insert(batch, NOW)
        ]
        expected = union_of(copies, device_id)
        assert outcomes.count(STORED) == len(expected)
        assert CONFLICT not in outcomes
        rows = (await store.page(HistoryQuery(device_id=device_id, limit=10))).rows
        assert [from_content(device_id, read_rfc3339(found["timestamp"])[0], found) for found in rows] == (
            expected[::-1]
        )
    finally:
        await store.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(copies=COPIES, offsets=st.lists(st.integers(0, 999), min_size=30, max_size=30))
async def test_the_projection_of_copies_is_that_of_the_event(
    projection_url: str | None, copies: Copies, offsets: list[int]
) -> None:
    """Also of copies whose times differ by what is finer than a millisecond."""
    store: Projection = (
        MemoryProjection() if projection_url is None else RedisProjection.connect(projection_url)
    )
    device_id = f"PB-{next(DEVICES)}"
    finer = itertools.cycle(offsets)
    try:
        await attach_anew(store)
        for batch in batches_of(copies, device_id):
            moments = [one.timestamp + timedelta(microseconds=next(finer)) for one in batch]
            await store.apply(project(map(at, batch, moments)))
        assert await store.records([device_id]) == [
            DeviceRecord.of(project(union_of(copies, device_id))[device_id])
        ]
    finally:
        await store.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
@given(copies=COPIES, others=COPIES)
async def test_values_in_conflict_change_nothing_that_counts(
    event_store_url: str | None, copies: Copies, others: Copies
) -> None:
    """Which of them is kept depends on the order; failures, streaks and the required members do not."""
    store: EventStore = (
        MemoryEventStore() if event_store_url is None else MongoEventStore.connect(event_store_url)
    )
    device_id = f"PB-{next(DEVICES)}"
    batches = batches_of(copies, device_id) + batches_of(others, device_id, device_type="PiBook")
    try:
        kept = [
            one
            for batch in batches
            for one, outcome in zip(batch, await store.insert(batch, NOW), strict=True)
            if outcome is not CONFLICT
        ]
        found = [entry.event for entry in await replayed(store, None)]
        stored = [one for one in found if one.device_id == device_id]
        assert {one.timestamp for one in stored} == {one.timestamp for batch in batches for one in batch}
        # What the bridge merges of it is what is stored.
        assert project(kept) == project(stored)
    finally:
        await store.close()
