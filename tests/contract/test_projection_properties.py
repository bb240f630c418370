"""That a projection is the rule applied to the set of events, in any order, with any repetition and split."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pisync import limits
from pisync.clock import to_ms
from pisync.domain.alerts import AlertChange
from pisync.domain.days import DAY_MS
from pisync.domain.device_state import DeviceState, project
from pisync.domain.events import ErrorDetail, SyncEvent
from pisync.stores.interfaces.projection import DeviceRecord, Projection
from pisync.stores.memory.projection import MemoryProjection
from pisync.stores.redis.keys import ROOTS
from pisync.stores.redis.projection import RedisProjection
from tests.support.redis_nodes import redis_of
from tests.support.samples import START, attach_anew, event_at

BEGIN_MS = to_ms(START)
Stored = tuple[SyncEvent, int]


def stored(device: int, moment: int, late: int) -> Stored:
    """An event, whose content follows from its identity, and when it was stored."""
    moment_ms = BEGIN_MS + moment % 7 * 5 + moment // 7 * 9 * DAY_MS
    mixed = device * 7 + moment * 3
    details = [ErrorDetail(code=f"E{mixed % 4}" * (mixed % 3 * 20 + 1), message="m")] if mixed % 4 else None
    errors = mixed % 5 % 3
    return event_at(moment_ms, f"PB-{device}", errors=errors, files=mixed % 9, details=details), (
        moment_ms + (moment + late) % 5 * DAY_MS
    )


few = st.lists(st.builds(stored, st.integers(0, 2), st.integers(0, 80), st.just(0)), max_size=70)
ONCE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80)


def states(batch: Sequence[tuple[SyncEvent, int | None]]) -> dict[str, DeviceState]:
    return project([event for event, _ in batch], [received_ms for _, received_ms in batch])


@asynccontextmanager
async def empty(redis_url: str) -> AsyncIterator[RedisProjection]:
    store = RedisProjection.connect(redis_url)
    try:
        await redis_of(store).flushall()
        await attach_anew(store)
        yield store
    finally:
        await store.close()


def parts(batch: list[Stored], data: st.DataObject) -> Iterator[list[tuple[SyncEvent, int | None]]]:
    """All of it in some order and split; some again, also without the time at which it was stored."""
    again: list[tuple[SyncEvent, int | None]] = []
    if batch:
        again = [(event, None) for event, _ in data.draw(st.lists(st.sampled_from(batch), max_size=20))]
        again += data.draw(st.lists(st.sampled_from(batch), max_size=20))
    left = data.draw(st.permutations([*batch, *again]))
    while left:
        size = data.draw(st.integers(1, len(left)))
        yield left[:size]
        left = left[size:]


async def hold_the_same(memory: Projection, redis: Projection, expected: dict[str, DeviceState]) -> None:
    for store in (memory, redis):
        for record, state in zip(await store.records(list(expected)), expected.values(), strict=True):
            assert record.state == state
            assert record.told == DeviceRecord.of(state).told
            assert dict(record.ranks) == dict(DeviceRecord.of(state).ranks)


@ONCE
@given(batch=few, data=st.data())
@pytest.mark.parametrize(("kept", "slack"), [(1000, 20), (4, 0), (6, 2)])
async def test_any_order_repetition_and_split(
    redis_url: str, kept: int, slack: int, batch: list[Stored], data: st.DataObject
) -> None:
    """Of every fact, also where failures are removed; and alerts are reported alike, and confirmed or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "FAILURES_KEPT_MAX", kept)
        patch.setattr(limits, "FAILURES_SLACK", slack)
        memory = MemoryProjection()
        async with empty(redis_url) as redis:
            for part in parts(batch, data):
                changes = await redis.apply(states(part))
                assert by_device(changes) == by_device(await memory.apply(states(part)))
                some = [change for change in changes if data.draw(st.booleans())]
                assert by_device(await redis.confirm(some)) == by_device(await memory.confirm(some))
            expected = states(batch)
            await hold_the_same(memory, redis, expected)
            everyone = [*expected, "PB-none"]
            assert await redis.records(everyone) == await memory.records(everyone)
            for root in ROOTS:
                for key in await redis_of(redis).keys(f"{root}:failures:*"):
                    assert await redis_of(redis).strlen(key) <= 8 * (kept + slack)


def by_device(changes: list[AlertChange]) -> dict[str, AlertChange]:
    return {change.device_id: change for change in changes}


@ONCE
@given(batch=few, data=st.data())
async def test_written_anew_it_is_the_same(redis_url: str, batch: list[Stored], data: st.DataObject) -> None:
    """Whatever was merged before, and whatever of it was lost."""
    expected = states(batch)
    async with empty(redis_url) as redis:
        for part in parts(batch, data):
            await redis.apply(states(part))
        for key in map(str, await redis_of(redis).keys("pisync:3:*")):
            if key.rpartition(":")[2] != "epoch" and data.draw(st.booleans()):
                await redis_of(redis).delete(key)
        for part in parts(batch, data):
            await redis.apply(states(part))
        await redis.apply(expected, anew=True)
        records = await redis.records(list(expected))
        assert [record.state for record in records] == list(expected.values())
        for record, state in zip(records, expected.values(), strict=True):
            assert record.told == DeviceRecord.of(state).told
            assert dict(record.ranks) == dict(DeviceRecord.of(state).ranks)


async def test_a_duplicate_does_not_move_the_newest_receipt(projection_store: Projection) -> None:
    event = event_at(BEGIN_MS)
    await projection_store.apply(project([event], [BEGIN_MS + 1]))
    await projection_store.apply(project([event]))
    [record] = await projection_store.records(["PB-1"])
    assert record.state == project([event], [BEGIN_MS + 1])["PB-1"]


async def test_late_failures_take_the_places_of_the_oldest(projection_store: Projection) -> None:
    """There are as many as before, and the streak is another."""
    kept, more = limits.FAILURES_KEPT_MAX, limits.FAILURES_SLACK + 1
    old = [event_at(BEGIN_MS + n, errors=1) for n in range(kept - 2)]
    success = event_at(BEGIN_MS + kept)
    new = [event_at(BEGIN_MS + kept + 10_000 * n, errors=1) for n in (1, 2)]
    late = [event_at(BEGIN_MS + kept + 10_000 + n, errors=1) for n in range(1, more + 1)]
    for part in (old, [success], new, late):
        await projection_store.apply(project(part))
    expected = DeviceRecord.of(project([*old, success, *new, *late])["PB-1"])
    [record] = await projection_store.records(["PB-1"])
    assert (record.state, record.told) == (expected.state, expected.told)
    assert record.told is not None
    assert record.told.streak == 2 + more


async def test_a_state_of_many_failures_and_a_long_array(projection_store: Projection) -> None:
    """As many as a message has, in the middle of as many as are kept."""
    many = [event_at(BEGIN_MS + 60_000 * n, errors=1) for n in range(limits.FAILURES_KEPT_MAX + 200)]
    middle = many[300:800]
    for part in (many[:300] + many[800:], middle, middle[::-1]):
        await projection_store.apply(project(part))
    expected = DeviceRecord.of(project(many)["PB-1"])
    [record] = await projection_store.records(["PB-1"])
    assert (record.state, record.told, dict(record.ranks)) == (
        expected.state,
        expected.told,
        dict(expected.ranks),
    )
