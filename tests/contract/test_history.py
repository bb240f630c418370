"""What is found of a device whose events lie years apart: in MongoDB as in memory, whatever is asked."""

import itertools
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pisync import clock, limits
from pisync.clock import from_ms, read_rfc3339, to_ms
from pisync.domain.events import SyncEvent
from pisync.domain.identity import bucket_of
from pisync.stores.interfaces.events import DaysHint, EventStore, HistoryQuery, OutcomeFilter
from pisync.stores.memory.events import MemoryEventStore
from pisync.stores.mongodb.events import MongoEventStore
from tests.support.samples import NOW, event_at

DAY_MS: Final = 86_400_000
TODAY_MS: Final = to_ms(clock.now()) // DAY_MS * DAY_MS
# Days back: some that are still to come, by a clock that was wrong, up to the first day that is taken.
DAYS: Final = st.one_of(
    st.integers(-40, 4),
    st.integers(5, 90),
    st.integers(91, 700),
    st.integers(701, (TODAY_MS - limits.CLOCK_EARLIEST_MS) // DAY_MS),
)
MOMENTS: Final = st.builds(
    lambda days, ms: TODAY_MS - days * DAY_MS + ms,
    DAYS,
    st.one_of(st.sampled_from([0, 1, DAY_MS // 2, DAY_MS - 1]), st.integers(0, DAY_MS - 1)),
)
# A device, a moment, errors and files.
EVENTS: Final = st.lists(
    st.tuples(st.integers(0, 2), MOMENTS, st.sampled_from([0, 0, 1, 2]), st.integers(0, 1)), max_size=40
)
NUMBERS: Final = itertools.count()


def devices_of_one_bucket() -> Iterator[str]:
    """Ids that no test has had; their events lie between each other's."""
    ids = (f"PB-{number}" for number in NUMBERS)
    return (device_id for device_id in ids if bucket_of(device_id) == 0)


def bounds(moments_ms: Sequence[int]) -> st.SearchStrategy[datetime | None]:
    """At an event, beside one, or nowhere near."""
    near = [from_ms(moment + off) for moment in moments_ms for off in (-1, 0, 1)] or [NOW]
    return st.one_of(st.none(), st.sampled_from(near), st.builds(from_ms, MOMENTS))


async def whole(store: EventStore, query: HistoryQuery, hint: DaysHint | None = None) -> list[datetime]:
    """All of a history, page after page."""
    found: list[datetime] = []
    before = query.before
    while True:
        page = await store.page(
            HistoryQuery(
                device_id=query.device_id,
                limit=query.limit,
                before=before,
                after=query.after,
                outcome=query.outcome,
            ),
            hint,
        )
        moments = [read_rfc3339(row["timestamp"])[0] for row in page.rows]
        found += moments
        if len(moments) < query.limit and not page.is_short:
            return found
        before = moments[-1]


def hints(batch: Sequence[SyncEvent], device_id: str) -> st.SearchStrategy[DaysHint]:
    """What a projection tells that is right, lacks days, has others, or has nothing."""
    its = {to_ms(event.timestamp) // DAY_MS for event in batch if event.device_id == device_id}
    some = st.sets(st.sampled_from(sorted(its))) if its else st.just(set[int]())
    others = st.sets(st.integers(0, 2**16 - 1), max_size=5)
    days = st.one_of(st.just(its), some, others, st.builds(set.union, some, others))
    return st.builds(hint_of, days)


def hint_of(days: set[int]) -> DaysHint:
    async def hint() -> set[int]:
        return days

    return hint


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
@given(given_=EVENTS, data=st.data())
async def test_history_is_the_same_whatever_the_events_and_whatever_is_known_of_their_days(
    mongodb_url: str,
    monkeypatch: pytest.MonkeyPatch,
    given_: list[tuple[int, int, int, int]],
    data: st.DataObject,
) -> None:
    monkeypatch.setattr(limits, "PAGE_DEFAULT", 1)  # every full page tells how many days the next one takes
    memory, store = MemoryEventStore(), MongoEventStore.connect(mongodb_url)
    try:
        await store.prepare()
        ids = list(itertools.islice(devices_of_one_bucket(), 3))
        batch = [
            event_at(at, ids[device], errors=errors, files=files) for device, at, errors, files in given_
        ]
        assert await store.insert(batch, NOW) == await memory.insert(batch, NOW)
        near = bounds([at for _, at, _, _ in given_])
        outcomes = st.sampled_from([None, *OutcomeFilter])
        queries = st.builds(
            HistoryQuery,
            device_id=st.sampled_from(ids),
            limit=st.sampled_from([1, 2, 5, 50]),
            before=near,
            after=near,
            outcome=outcomes,
        )
        for query in data.draw(st.lists(queries, min_size=1, max_size=4)):
            assert await store.history(query) == await memory.history(query)
            hint = data.draw(hints(batch, query.device_id))
            assert await whole(store, query, hint) == await whole(memory, query)
        for device_id in ids:
            moments = data.draw(st.lists(near, min_size=1, max_size=3))
            counts = await memory.count_failures(device_id, moments)
            assert await store.count_failures(device_id, moments) == counts
            assert await store.knows(device_id) == await memory.knows(device_id)
        for in_a_row in (1, 3):
            assert await store.failing(ids, in_a_row) == await memory.failing(ids, in_a_row)
    finally:
        await store.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=12)
@given(back=st.sets(st.integers(0, 250), min_size=1, max_size=60), data=st.data())
async def test_what_is_known_of_days_hides_none(
    mongodb_url: str, back: set[int], data: st.DataObject
) -> None:
    store = MongoEventStore.connect(mongodb_url)
    try:
        (device_id,) = itertools.islice(devices_of_one_bucket(), 1)
        batch = [event_at(TODAY_MS - day * DAY_MS, device_id) for day in sorted(back)]
        await store.insert(batch, NOW)
        for limit in (1, 3, 10, 50):
            hint = data.draw(hints(batch, device_id))
            query = HistoryQuery(device_id=device_id, limit=limit)
            assert await whole(store, query, hint) == [event.timestamp for event in batch]
    finally:
        await store.close()


def hourly(device_id: str, hours: int, *, errors: int = 0) -> list[SyncEvent]:
    """A sync an hour, up to now."""
    now_ms = to_ms(clock.now())
    return [event_at(now_ms - hour * 3_600_000, device_id, errors=errors) for hour in range(hours)]


async def test_a_page_whose_days_are_found_one_step_after_another(event_store: EventStore) -> None:
    """The steps are 8 days, 64 days, 512 days."""
    (device_id,) = itertools.islice(devices_of_one_bucket(), 1)
    days = [0, 7, 8, 9, 71, 72, 73, 583, 584, 585, 1100, 3000]
    events = [event_at(TODAY_MS - day * DAY_MS, device_id) for day in days]
    await event_store.insert(events[::-1], NOW)
    (beside,) = itertools.islice(devices_of_one_bucket(), 1)
    await event_store.insert([event_at(TODAY_MS - day * DAY_MS, beside) for day in range(0, 3100, 3)], NOW)
    for limit in (1, 3, 4, 5, 100):
        page = await event_store.history(HistoryQuery(device_id=device_id, limit=limit))
        assert [entry.event for entry in page] == events[:limit]


@pytest.mark.parametrize("ours_is_ahead", [timedelta(days=-90), timedelta(days=90)])
async def test_a_clock_that_is_wrong_hides_nothing(
    event_store: EventStore, monkeypatch: pytest.MonkeyPatch, ours_is_ahead: timedelta
) -> None:
    device_id, other, earlier = itertools.islice(devices_of_one_bucket(), 3)
    events = hourly(device_id, 60, errors=1)
    # A success after the failures of the other that fails, and before its own.
    events[10] = msgspec.structs.replace(events[10], total_errors=0)
    await event_store.insert(hourly(earlier, 60, errors=1)[40:], NOW)
    await event_store.insert([*events, *hourly(other, 1), *hourly(other, 60, errors=1)[1:]], NOW)
    wrong = clock.now() + ours_is_ahead
    monkeypatch.setattr("pisync.clock.now", lambda: wrong)
    page = await event_store.history(HistoryQuery(device_id=device_id, limit=50))
    assert [entry.event for entry in page] == events[:50]
    assert await event_store.failing([device_id, other, earlier], 3) == {device_id, earlier}
