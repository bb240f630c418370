"""What every projection does, and that it is the pure rule applied to the set of events."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from itertools import product

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local_stack.servers import RedisServer
from pisync import clock, limits
from pisync.clock import to_ms
from pisync.domain.alerts import AlertChange, Rule
from pisync.domain.device_state import project
from pisync.domain.events import SyncEvent
from pisync.errors import ProjectionLost, RedisUnavailable
from pisync.stores.interfaces.projection import Projection
from pisync.stores.interfaces.ranking import FailingDevice, RankedBy, RankingQuery
from pisync.stores.memory.projection import MemoryProjection
from pisync.stores.redis.connection import RedisConnection
from pisync.stores.redis.keys import ROOTS, shard
from pisync.stores.redis.projection import RedisProjection
from tests.support.redis_nodes import redis_of
from tests.support.samples import START, attach_anew, event, events_of_few_devices
from tests.support.waiting import until


async def apply(store: Projection, events: Iterable[SyncEvent]) -> list[AlertChange]:
    return await store.apply(project(events))


async def page(store: Projection, **query: object) -> list[FailingDevice]:
    arguments = {"more_than": 3, "ranked_by": RankedBy.FAILURES, "limit": 100} | query
    return (await store.repeated_failures(RankingQuery(**arguments))).devices  # type: ignore[arg-type]


async def test_a_device_never_seen(projection_store: Projection) -> None:
    assert await projection_store.state("PB-1") is None
    assert await page(projection_store) == []
    assert await apply(projection_store, []) == []


async def test_states_are_joined(projection_store: Projection) -> None:
    parts = [
        [event("PB-1", 3, 1)],
        [event("PB-1", 1, 1)],
        [event("PB-1", 2)],
        [event("PB-1", 0)],
        [event("PB-1", 3, 1)],
    ]
    for part in parts:
        await apply(projection_store, part)
    state = await projection_store.state("PB-1")
    assert state == project([one for part in parts for one in part])["PB-1"]
    assert state is not None
    assert (state.failures, state.streak, state.last_event.timestamp_ms) == (2, 1, to_ms(START) + 180_000)


async def test_states_of_several_devices_in_their_order(projection_store: Projection) -> None:
    kept = [event("PB-1", 0, 1), event("PB-2", 0), event("PB-2", 1, 1)]
    await apply(projection_store, kept)
    states = project(kept)
    found = await projection_store.states_of(["PB-2", "PB-none", "PB-1"])
    assert found == [states["PB-2"], None, states["PB-1"]]
    assert await projection_store.states_of([]) == []


async def test_only_the_newest_failures_are_kept(projection_store: Projection) -> None:
    many = [event("PB-1", minute, 1) for minute in range(limits.FAILURES_KEPT_MAX + 30)]
    for part in (many[500:], many[:20], many[20:500]):
        await apply(projection_store, part)
    state = await projection_store.state("PB-1")
    assert state == project(many)["PB-1"]
    (row,) = await page(projection_store)
    assert row.failures == row.streak == limits.FAILURES_KEPT_MAX


async def test_an_alert_is_reported_until_it_is_confirmed(projection_store: Projection) -> None:
    assert await apply(projection_store, [event("PB-1", 0, 1), event("PB-1", 1, 1)]) == []
    opened = [AlertChange(device_id="PB-1", rule=Rule.STREAK, streak=3, opens=True)]
    assert await apply(projection_store, [event("PB-1", 2, 1)]) == opened
    assert await apply(projection_store, [event("PB-1", 2, 1)]) == opened
    assert await projection_store.confirm(opened) == []
    assert await apply(projection_store, [event("PB-1", 3, 1)]) == []
    closed = [AlertChange(device_id="PB-1", rule=Rule.STREAK, streak=0, opens=False)]
    assert await apply(projection_store, [event("PB-1", 4)]) == closed
    assert await projection_store.confirm(closed) == []
    assert await apply(projection_store, [event("PB-1", 5)]) == []


async def test_a_late_success_closes_the_alert_it_ends(projection_store: Projection) -> None:
    opened = await apply(projection_store, [event("PB-1", minute, 1) for minute in range(3)])
    await projection_store.confirm(opened)
    assert await apply(projection_store, [event("PB-1", 0.5)]) == [
        AlertChange(device_id="PB-1", rule=Rule.STREAK, streak=2, opens=False)
    ]


async def test_an_alert_that_is_outdated_when_confirmed_is_reported(projection_store: Projection) -> None:
    opened = await apply(projection_store, [event("PB-1", minute, 1) for minute in range(3)])
    assert await apply(projection_store, [event("PB-1", 9)]) == []  # never confirmed, so nothing to close
    closed = [AlertChange(device_id="PB-1", rule=Rule.STREAK, streak=0, opens=False)]
    assert await projection_store.confirm(opened) == closed
    assert await projection_store.confirm(closed) == []


FAILING = [event("PB-1", minute, 1) for minute in range(3)]
OPENED = [AlertChange(device_id="PB-1", rule=Rule.STREAK, streak=3, opens=True)]


async def test_alerts_are_compared_with_those_open_and_those_confirmed(projection_store: Projection) -> None:
    await apply(projection_store, FAILING)
    assert await projection_store.compare_alerts([]) == OPENED
    assert await projection_store.compare_alerts(["PB-1"]) == OPENED  # it is not confirmed
    await projection_store.confirm(OPENED)
    assert await projection_store.compare_alerts(["PB-1"]) == []
    assert await projection_store.compare_alerts([]) == OPENED
    closed = [AlertChange(device_id="PB-2", rule=Rule.STREAK, streak=0, opens=False)]
    assert await projection_store.compare_alerts(["PB-1", "PB-2"]) == closed


async def test_the_last_bridge_to_catch_up_compares_everything(projection_store: Projection) -> None:
    for bridge_id in ("bridge-0", "bridge-1"):
        await projection_store.set_watermark(bridge_id, 0, catching_up=True)
    assert await apply(projection_store, FAILING) == []
    # Neither while a bridge catches up itself, nor while another does.
    assert await projection_store.compare_alerts([]) == []
    await projection_store.finish_catch_up("bridge-1")
    assert await projection_store.compare_alerts([]) == []
    assert await apply(projection_store, FAILING) == []
    await projection_store.finish_catch_up("bridge-0")
    assert await projection_store.compare_alerts([]) == OPENED
    assert await apply(projection_store, FAILING) == OPENED


async def test_comparing_does_not_say_that_a_bridge_has_caught_up(projection_store: Projection) -> None:
    await projection_store.set_watermark("bridge-0", 0, catching_up=True)
    await projection_store.compare_alerts([])
    assert not (await projection_store.status()).complete
    await projection_store.set_watermark("bridge-0", 0, catching_up=False)
    await projection_store.finish_catch_up("bridge-0")
    assert (await projection_store.status()).complete


class Registry:
    """Which bridges there are, as a reader of the projection is told."""

    def __init__(self) -> None:
        self.instances: dict[str, str] | None = {}

    def __call__(self) -> dict[str, str] | None:
        return self.instances


@pytest_asyncio.fixture
async def registry() -> Registry:
    return Registry()


@pytest_asyncio.fixture
async def judged(projection_url: str | None, registry: Registry) -> AsyncIterator[Projection]:
    """A complete projection, whose reader goes by the registry."""
    store: Projection = MemoryProjection(registry)
    if projection_url:
        store = RedisProjection(RedisConnection(projection_url), registry)
    await attach_anew(store)
    yield store
    await store.close()


async def behind(store: Projection) -> set[str] | None:
    """The bridges whose events may be missing; None: it is complete."""
    status = await store.status()
    return None if status.complete else set(status.behind)


async def test_complete_only_while_every_watermark_is_young(
    judged: Projection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bridge_id in ("bridge-0", "bridge-1"):
        await judged.set_watermark(bridge_id, 1, catching_up=False)
    assert await behind(judged) is None
    monkeypatch.setattr(limits, "PROJECTION_YOUNG_S", 0.2)

    async def renewed_by_one() -> bool:
        await judged.set_watermark("bridge-0", 1, catching_up=False)
        return await behind(judged) == {"bridge-1"}

    await until(renewed_by_one)
    query = RankingQuery(more_than=0, ranked_by=RankedBy.STREAK, limit=1)
    assert not (await judged.repeated_failures(query)).projection.complete
    monkeypatch.undo()
    for bridge_id in ("bridge-0", "bridge-1"):
        await judged.set_watermark(bridge_id, 1, catching_up=False)
    assert await behind(judged) is None
    assert (await judged.repeated_failures(query)).projection.complete


async def test_an_event_that_waits_for_long_to_be_merged_makes_its_watermark_old(judged: Projection) -> None:
    await judged.set_watermark("bridge-0", 1, catching_up=False, unmerged_ms=3_600_000)
    assert await behind(judged) == {"bridge-0"}
    await judged.set_watermark("bridge-0", 1, catching_up=False)
    assert await behind(judged) is None


async def test_a_bridge_that_the_projection_never_heard_of_counts(
    judged: Projection, registry: Registry
) -> None:
    await judged.set_watermark("bridge-0", 1, catching_up=False)
    registry.instances = {"bridge-0": "a", "bridge-1": "b"}
    assert await behind(judged) == {"bridge-1"}
    registry.instances = {"bridge-0": "a"}
    assert await behind(judged) is None
    registry.instances = None  # MongoDB does not answer, so there may be others
    assert await behind(judged) == set()


async def test_a_bridge_that_stopped_with_nothing_left_is_complete_until_its_next_life(
    judged: Projection, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PROJECTION_YOUNG_S", 0)
    registry.instances = {"bridge-0": "first"}
    await judged.set_watermark("bridge-0", 1, catching_up=False, stopped="first")
    assert await behind(judged) is None
    registry.instances = {"bridge-0": "second"}
    assert await behind(judged) == {"bridge-0"}
    registry.instances = {}
    assert await behind(judged) == {"bridge-0"}
    await judged.leave("bridge-0")
    assert await behind(judged) is None


async def test_a_bridge_that_attaches_again_is_behind_until_it_has_caught_up(judged: Projection) -> None:
    await judged.set_watermark("bridge-0", 1, catching_up=False)
    await judged.set_watermark("bridge-0", 1, catching_up=True)
    assert await behind(judged) == {"bridge-0"}


async def test_a_replay_that_stalls_does_not_become_complete(redis_url: str) -> None:
    """Who catches up counts as dead after a while, as far as alerts go; its events are missing still."""
    store = RedisProjection.connect(redis_url)
    try:
        await attach_anew(store)
        await store.set_watermark("bridge-0", 1, catching_up=True)
        await redis_of(store).delete(*(f"{root}:catching_up" for root in ROOTS))
        assert await behind(store) == {"bridge-0"}
    finally:
        await store.close()


async def test_a_mark_from_before_redis_set_its_clock_back_is_not_young(redis_url: str) -> None:
    store = RedisProjection.connect(redis_url)
    try:
        await attach_anew(store)
        await store.set_watermark("bridge-0", 1, catching_up=False, unmerged_ms=-3_600_000)
        assert await behind(store) == {"bridge-0"}
    finally:
        await store.close()


async def test_where_redis_takes_no_writes_its_answers_do_not_stay_complete(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RedisProjection.connect(redis_url)
    try:
        await attach_anew(store)
        await store.set_watermark("bridge-0", 1, catching_up=False)
        assert await behind(store) is None
        await redis_of(store).config_set("maxmemory", "1")
        with pytest.raises(RedisUnavailable):
            await store.set_watermark("bridge-0", 2, catching_up=False)
        monkeypatch.setattr(limits, "PROJECTION_YOUNG_S", 0.05)

        async def old() -> bool:
            return await behind(store) == {"bridge-0"}

        await until(old)
    finally:
        await redis_of(store).config_set("maxmemory", "0")
        await store.close()


async def test_a_bridge_that_never_catches_up_keeps_alerts_silent_for_some_minutes_only(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it starts again, and another catch-up has its own minutes."""
    monkeypatch.setattr(limits, "QUIET_S_MAX", 1)
    store = RedisProjection.connect(redis_url)
    try:
        await attach_anew(store)

        async def reported() -> bool:
            await store.set_watermark("bridge-1", 0, catching_up=True)
            return await apply(store, FAILING) == OPENED == await store.compare_alerts([])

        assert not await reported()
        await until(reported)
        monkeypatch.setattr(limits, "QUIET_S_MAX", 600)
        await store.finish_catch_up("bridge-1")
        assert not await reported()
    finally:
        await store.close()


async def test_a_rebuild_that_never_ends_keeps_alerts_silent_for_some_minutes_only(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "QUIET_S_MAX", 1)
    store = RedisProjection.connect(redis_url)
    try:
        await store.attach(())

        async def reported() -> bool:
            assert await store.begin_rebuild("bridge-0", [])
            return await apply(store, FAILING) == OPENED == await store.compare_alerts([])

        assert not await reported()
        await until(reported)
        assert not (await store.status()).complete
    finally:
        await store.close()


async def test_confirmed_alerts_have_a_key_for_their_rule(redis_url: str) -> None:
    store = RedisProjection.connect(redis_url)
    try:
        await attach_anew(store)
        await store.confirm(await apply(store, FAILING))
        assert await redis_of(store).smembers(f"{shard('PB-1')}:alerting:streak") == {"PB-1"}
        assert not await redis_of(store).exists(f"{shard('PB-1')}:alerting")
    finally:
        await store.close()


async def test_a_bridge_learns_that_what_it_caught_up_with_is_lost(redis_url: str) -> None:
    store = RedisProjection.connect(redis_url)
    try:
        await attach_anew(store)
        await redis_of(store).flushall()
        with pytest.raises(ProjectionLost):
            await store.finish_catch_up("bridge-0")
        with pytest.raises(ProjectionLost):
            await store.compare_alerts([])
    finally:
        await store.close()


@pytest.fixture
def fleet() -> list[SyncEvent]:
    """Devices with 0 to 9 failures, two of each number, and streaks that go another way."""
    return [
        event(f"PB-{twin}{failures}", minute * 10 + failures, errors=1)
        for twin in "ab"
        for failures in range(10)
        for minute in range(failures)
    ] + [event(f"PB-{twin}{number}", 35) for twin in "ab" for number in range(0, 10, 3)]


async def test_the_redis_under_a_locale_does_collate(collating_redis_server: RedisServer) -> None:
    """Or the tests over it would show nothing."""
    store = RedisProjection.connect(collating_redis_server.url)
    try:
        assert await redis_of(store).eval("return tostring('a' < 'B')", 0) == "true"  # by bytes it is not
    finally:
        await store.close()


async def test_pages_go_by_bytes_where_ids_differ_in_case_and_punctuation(
    projection_store: Projection,
) -> None:
    ids = ["".join(letters) for letters in product("aAbB1", "aB-._", "aA-._1")]
    await apply(projection_store, [event(each, minute, 1) for each in ids for minute in range(4)])
    rows: list[FailingDevice] = []
    while part := await page(projection_store, limit=7, after=rows[-1].position if rows else None):
        rows += part
        assert len(rows) <= len(ids)
    assert [row.device_id for row in rows] == sorted(ids, reverse=True)


@pytest.mark.parametrize("ranked_by", RankedBy)
@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_pages_give_each_row_once_in_order(
    projection_store: Projection, fleet: list[SyncEvent], ranked_by: RankedBy, limit: int
) -> None:
    await apply(projection_store, fleet)
    rows: list[FailingDevice] = []
    while part := await page(
        projection_store, ranked_by=ranked_by, limit=limit, after=rows[-1].position if rows else None
    ):
        assert len(part) <= limit
        rows += part
    assert sorted(row.device_id for row in rows) == [
        f"PB-{twin}{number}" for twin in "ab" for number in range(4, 10)
    ]
    assert rows == sorted(rows, key=lambda row: (row.position.score, row.device_id), reverse=True)
    states = project(fleet)
    for row in rows:
        state = states[row.device_id]
        scores = {
            RankedBy.FAILURES: state.failures,
            RankedBy.STREAK: state.streak,
            RankedBy.LAST_SEEN: state.last_event.timestamp_ms,
        }
        assert (row.failures, row.streak) == (state.failures, state.streak)
        assert (row.last_failure_ms, row.last_success_ms) == (state.failures_ms[-1], state.last_success_ms)
        assert (row.last_seen_ms, row.position.score) == (state.last_event.timestamp_ms, scores[ranked_by])


async def test_a_page_is_whole_even_where_all_its_devices_are_in_one_shard(
    projection_store: Projection,
) -> None:
    ids = [f"PB-{number}" for number in range(2000)]
    together = [device_id for device_id in ids if shard(device_id) == shard(ids[0])][:90]
    elsewhere = [device_id for device_id in ids if shard(device_id) != shard(ids[0])][:20]
    failures = dict.fromkeys(together, 9) | dict.fromkeys(elsewhere, 5)
    await apply(
        projection_store, [event(each, minute, 1) for each in failures for minute in range(failures[each])]
    )
    expected = sorted(failures, key=lambda each: (failures[each], each), reverse=True)
    for limit in (50, 100, 200):
        assert [row.device_id for row in await page(projection_store, limit=limit)] == expected[:limit]


async def test_failures_since_a_moment(projection_store: Projection, fleet: list[SyncEvent]) -> None:
    await apply(projection_store, fleet)
    since_ms = to_ms(START) + 45 * 60_000
    rows = await page(projection_store, more_than=2, since_ms=since_ms)
    assert {row.device_id: row.failures_since for row in rows} == {
        f"PB-{twin}{number}": sum(minute * 10 + number >= 45 for minute in range(number))
        for twin in "ab"
        for number in (7, 8, 9)
    }


async def test_a_page_goes_on_where_its_last_device_was_even_if_that_moved(
    projection_store: Projection, fleet: list[SyncEvent]
) -> None:
    await apply(projection_store, fleet)
    first = await page(projection_store, limit=5)
    await apply(projection_store, [event(first[-1].device_id, 500 + minute, 1) for minute in range(50)])
    second = await page(projection_store, limit=100, after=first[-1].position)
    assert not {row.device_id for row in first} & {row.device_id for row in second}
    assert len(first) + len(second) == 12


async def test_racing_bridges_change_nothing(projection_store: Projection, fleet: list[SyncEvent]) -> None:
    halves = [fleet[::2], fleet[1::2], fleet[::-1]]
    await asyncio.gather(*(apply(projection_store, half) for half in halves))
    for device_id, state in project(fleet).items():
        assert await projection_store.state(device_id) == state


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(batch=events_of_few_devices, data=st.data())
async def test_any_order_repetition_and_split_is_the_rule_applied_to_the_set(
    redis_url: str, batch: list[SyncEvent], data: st.DataObject
) -> None:
    store = RedisProjection.connect(redis_url)
    try:
        await redis_of(store).flushall()
        await attach_anew(store)
        repeated = data.draw(st.lists(st.sampled_from(batch), max_size=20)) if batch else []
        replayed = data.draw(st.permutations(batch + repeated))
        while replayed:
            size = data.draw(st.integers(1, len(replayed)))
            await apply(store, replayed[:size])
            replayed = replayed[size:]
        expected = project(batch)
        for device_id, state in expected.items():
            assert await store.state(device_id) == state
        rows = {row.device_id: row for row in await page(store, more_than=0)}
        failing = {device_id: state for device_id, state in expected.items() if state.failures}
        assert {name: (row.failures, row.streak) for name, row in rows.items()} == {
            name: (state.failures, state.streak) for name, state in failing.items()
        }
    finally:
        await store.close()


async def test_a_rebuild_goes_on_in_the_next_life_of_who_began_it(redis_url: str) -> None:
    store, other = RedisProjection.connect(redis_url), RedisProjection.connect(redis_url)
    try:
        await store.attach(())
        assert await store.begin_rebuild("bridge-0", [])
        await other.attach(())
        assert not await other.begin_rebuild("bridge-1", [])
        assert await other.begin_rebuild("bridge-0", [])
        with pytest.raises(ProjectionLost):
            await store.finish_rebuild("bridge-0")
        await other.finish_rebuild("bridge-0")
        assert (await other.status()).complete
    finally:
        await store.close()
        await other.close()


async def test_a_heartbeat_is_a_watermark_or_word_of_a_catch_up(projection_store: Projection) -> None:
    assert await projection_store.heartbeats() == {}
    await projection_store.set_watermark("bridge-0", 1000, catching_up=False)
    await projection_store.set_watermark("bridge-1", 0, catching_up=True)
    heartbeats = await projection_store.heartbeats()
    assert heartbeats["bridge-0"] == 1000
    assert abs(heartbeats["bridge-1"] - clock.to_ms(clock.now())) < 60_000
    marks = await projection_store.marks()
    assert marks["bridge-0"].sign_ms == 1000
    assert abs(marks["bridge-1"].sign_ms - heartbeats["bridge-1"]) < 10_000
    await projection_store.leave("bridge-0")
    assert "bridge-0" not in await projection_store.heartbeats()
