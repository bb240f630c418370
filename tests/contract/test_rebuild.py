"""The rebuild and its check, and what they ask of the stores, over the stores in memory and the real ones."""

import struct
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import repeat
from typing import Any
from unittest.mock import AsyncMock

import msgspec
import pytest
from redis.client import NEVER_DECODE

from bridge.alerts.judge import Judge
from bridge.alerts.rules import all_rules
from bridge.projection import check
from bridge.projection.check import Check, Findings
from bridge.projection.rebuild import rebuild
from bridge.projection.repair import Repair
from pisync import limits
from pisync.clock import to_ms
from pisync.domain.alerts import Rule
from pisync.domain.device_state import project
from pisync.domain.events import ErrorDetail, SyncEvent
from pisync.domain.identity import bucket_of
from pisync.errors import PiSyncError, ProjectionLost, RedisUnavailable
from pisync.stores.interfaces.alerts import AlertQuery
from pisync.stores.interfaces.events import EventStore, HistoryEntry, HistoryQuery, ReplayPosition
from pisync.stores.interfaces.projection import Attachment, DeviceRecord, Projection, Rank
from pisync.stores.interfaces.ranking import RankedBy, RankingQuery
from pisync.stores.memory.alerts import MemoryAlertStore
from pisync.stores.memory.events import MemoryEventStore
from pisync.stores.redis import keys
from pisync.stores.redis.projection import RedisProjection
from tests.support.redis_nodes import redis_of
from tests.support.replays import entries_of, replayed
from tests.support.samples import NOW, START, attach_anew, event, event_at, packed_head


def fleet(devices: int = 7, each: int = 9) -> list[SyncEvent]:
    """Events of some devices in the order of time; all but every third keep failing."""
    return [
        event(f"PB-{device}", minute, errors=device % 3 and 1 - (minute + device) % 5 // 4)
        for minute in range(each)
        for device in range(devices)
    ]


def fleet_of_days() -> list[SyncEvent]:
    """An event a day of each device of a fleet that has some in every bucket."""
    return [event(f"PB-{device}", 1440 * day) for day in range(9) for device in range(3 * limits.BUCKETS)]


class StoresRig:
    """Stores that hold the events of a fleet, and its alerts."""

    def __init__(self, events: EventStore, projection: Projection) -> None:
        self.events = events
        self.projection = projection
        self.alerts = MemoryAlertStore()
        self.judge = Judge(store=self.alerts, rules=all_rules(events=events, projection=projection))

    async def take_in(self, events: Sequence[SyncEvent]) -> None:
        """As a bridge does."""
        await self.events.insert(events, NOW)
        states = project(events, repeat(to_ms(NOW)))
        await self.judge.handle(await self.projection.apply(states))

    async def rebuild(self) -> int:
        told: list[int] = []
        replayed = await rebuild(
            events=self.events,
            projection=self.projection,
            alerts=self.judge,
            progress=lambda done, of: told.append(done),
        )
        assert told[-1] == replayed
        return replayed

    async def check(self) -> Findings:
        check = Check(events=self.events, projection=self.projection, alerts=self.alerts)
        return await check.run(lambda done, of: None)

    async def differences(self) -> set[tuple[str, str]]:
        return {(each.device_id, each.what) for each in (await self.check()).differences}


@pytest.fixture
def rig(event_store: EventStore, projection_store: Projection, monkeypatch: pytest.MonkeyPatch) -> StoresRig:
    monkeypatch.setattr(check, "PAUSE_S", 0)
    return StoresRig(event_store, projection_store)


@pytest.mark.parametrize("by_bucket", [True, False])
async def test_a_whole_replay_goes_bucket_after_bucket(
    event_store: EventStore, monkeypatch: pytest.MonkeyPatch, by_bucket: bool
) -> None:
    """Or some of a bucket, and then of the one of which there is most."""
    monkeypatch.setattr("pisync.limits.REPLAY_BATCH_EVENTS", 200)
    monkeypatch.setattr("pisync.stores.mongodb.replaying._PACKED_BYTES", 3_000)
    await event_store.insert(fleet_of_days(), NOW)
    buckets: list[int] = []
    found: list[tuple[str, datetime]] = []
    async for batch in event_store.replay(None, by_bucket=by_bucket, held_bytes_max=20_000):
        assert batch.bucket is not None
        events = [entry.event for entry in entries_of(batch)]
        assert {bucket_of(event.device_id) for event in events} == {batch.bucket}
        buckets.append(batch.bucket)
        found += [(event.device_id, event.timestamp) for event in events]
    assert sorted(found) == sorted((one.device_id, one.timestamp) for one in fleet_of_days())
    assert not by_bucket or buckets == sorted(buckets)


@pytest.mark.parametrize("since", [None, NOW])
async def test_a_replay_that_was_interrupted_goes_on_from_there(
    event_store: EventStore, monkeypatch: pytest.MonkeyPatch, since: datetime | None
) -> None:
    monkeypatch.setattr("pisync.limits.REPLAY_BATCH_EVENTS", 10)
    monkeypatch.setattr("pisync.limits.REPLAY_EVENTS_AT_ONCE", 4)
    for minute in range(9):
        await event_store.insert(fleet()[minute * 7 : minute * 7 + 7], NOW + timedelta(minutes=minute))
    position, batches, given = ReplayPosition(), 0, 0
    seen: list[HistoryEntry] = []
    is_interrupted = True
    while is_interrupted:
        is_interrupted = False
        async with aclosing(event_store.replay(since, position)) as replay:  # type: ignore[type-var]
            taken = 0
            async for batch in replay:
                batches, taken, given = batches + 1, taken + 1, given + len(batch)
                if taken == 3:  # it was not merged, and comes again
                    is_interrupted = True
                    break
                seen += entries_of(batch)
        await event_store.insert([event("PB-later", batches)], NOW + timedelta(days=1))
    assert {(one.event.device_id, one.event.timestamp) for one in seen} == {
        (one.device_id, one.timestamp) for one in fleet()
    }
    assert given < 63 * 2


async def test_of_errors_a_replay_and_history_have_the_first_code_and_a_page_has_all(
    event_store: EventStore,
) -> None:
    details = [ErrorDetail(code=f"E{number}", message="x" * 1000) for number in range(3)]
    failed = event_at(1_780_000_000_000, errors=1, details=details)
    others = [event_at(1_780_000_001_000, errors=1, details=[]), event_at(1_780_000_002_000)]
    await event_store.insert([failed, *others], NOW)
    query = HistoryQuery(device_id="PB-1", limit=9)
    first = [ErrorDetail(code="E0", message="")]
    for since in (None, NOW):
        entries = await replayed(event_store, since)
        assert {entry.received_at for entry in entries} == {NOW}
        assert [entry.event.errors for entry in entries] == [first, None, None]
    assert [entry.event.errors for entry in await event_store.history(query)] == [None, None, first]
    *_, row = (await event_store.page(query)).rows
    assert row["errors"] == msgspec.to_builtins(details)


async def test_records_are_what_the_state_says(projection_store: Projection) -> None:
    states = project(fleet())
    await projection_store.confirm(await projection_store.apply(states))
    assert await projection_store.records([*states, "PB-none"]) == [
        *map(DeviceRecord.of, states.values()),
        DeviceRecord.of(None),
    ]
    assert {each async for batch in projection_store.device_ids() for each in batch} == set(states)


async def test_from_nothing_removes_what_is_kept_but_the_marks(projection_store: Projection) -> None:
    await projection_store.confirm(await projection_store.apply(project(fleet())))
    await projection_store.set_watermark("bridge-1", 5, catching_up=True)
    assert await projection_store.begin_rebuild("bridge-0", ["PB-9"], from_nothing=True)
    assert not (await projection_store.status()).complete
    assert await projection_store.attach(()) == Attachment(
        built=True, pending=True, watermarked=frozenset(["bridge-1"]), watermark_ms=5
    )
    assert await projection_store.state("PB-1") is None
    for order in RankedBy:
        query = RankingQuery(more_than=0, ranked_by=order, limit=9)
        assert (await projection_store.repeated_failures(query)).devices == []
    assert [each async for batch in projection_store.device_ids() for each in batch] == ["PB-9"]
    await projection_store.finish_rebuild("bridge-0")
    assert (await projection_store.status()).behind == {"bridge-1"}
    await projection_store.set_watermark("bridge-1", 5, catching_up=False)
    assert (await projection_store.status()).complete


async def test_what_is_right_is_found_right_before_and_after(rig: StoresRig) -> None:
    await rig.take_in(fleet())
    before = await rig.check()
    assert (before.events, before.devices, before.differing, before.differences) == (63, 7, 0, [])
    alerts = await rig.alerts.find(AlertQuery(limit=100))
    assert alerts
    assert await rig.rebuild() == 63
    assert await rig.check() == before
    assert await rig.alerts.find(AlertQuery(limit=100)) == alerts
    assert (await rig.projection.status()).complete
    assert (await rig.projection.attach(())).watermarked == frozenset()


@pytest.mark.parametrize("devices", [7, 3 * limits.BUCKETS])
async def test_a_device_whose_events_come_in_several_batches(
    rig: StoresRig, monkeypatch: pytest.MonkeyPatch, devices: int
) -> None:
    """Of several days, so that devices of one bucket lie between its events."""
    monkeypatch.setattr("pisync.limits.REPLAY_BATCH_EVENTS", 4)
    monkeypatch.setattr("pisync.limits.COMPARED_DEVICES_AT_ONCE", 2)
    monkeypatch.setattr("pisync.limits.PAGE_MAX", 2)
    await rig.take_in(
        [
            event(one.device_id, 700 * ((one.timestamp - START) // timedelta(minutes=1)), one.total_errors)
            for one in fleet(devices)
        ]
    )
    assert (await rig.check()).devices == devices
    assert await rig.differences() == set()
    await rig.projection.apply(project([event("PB-3", 0.5, 1)]))
    differing = {what for device_id, what in await rig.differences() if device_id == "PB-3"}
    assert {"failures", "failures as ranked"} <= differing
    assert {device_id for device_id, _ in await rig.differences()} == {"PB-3"}


async def test_what_is_wrong_is_found_and_mended(rig: StoresRig) -> None:
    await rig.take_in(fleet())
    # Failures that are in no event, of a device that has some and of one that has none.
    wrong = [event("PB-1", 100 + minute, 1) for minute in range(3)]
    wrong += [event("PB-none", minute, 1) for minute in range(3)]
    await rig.projection.confirm(await rig.projection.apply(project(wrong)))
    # An event that was never merged, and an alert about nothing.
    await rig.events.insert([event("PB-2", 100)], NOW)
    await rig.alerts.open(Rule.STREAK, {"PB-0": 3}, NOW)
    found = await rig.differences()
    assert {device_id for device_id, _ in found} == {"PB-0", "PB-1", "PB-2", "PB-none"}
    assert {("PB-0", "open alert in MongoDB"), ("PB-1", "failures"), ("PB-2", "last success")} <= found
    assert {("PB-none", "failures"), ("PB-none", "streak as ranked"), ("PB-none", "alert confirmed")} <= found
    assert (await rig.check()).differing == 4
    await rig.rebuild()
    assert await rig.differences() == set()
    assert "PB-none" not in await rig.alerts.open_devices(Rule.STREAK)


async def test_an_empty_projection_differs_in_every_device(
    rig: StoresRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "SECOND_LOOKS_MAX", 2)
    await rig.events.insert(fleet(), NOW)
    findings = await rig.check()
    assert findings.differing == 7
    assert len({each.device_id for each in findings.differences}) == 2


async def test_a_device_that_moved_meanwhile_is_no_difference(rig: StoresRig) -> None:
    await rig.events.insert(fleet(), NOW)

    async def late(device_ids: Sequence[str]) -> list[DeviceRecord]:
        """Answer once from before the events were merged."""
        del rig.projection.records
        await rig.take_in(fleet())
        return [DeviceRecord.of(None) for _ in device_ids]

    rig.projection.records = late  # type: ignore[method-assign]
    assert (await rig.check()).differing == 0


async def test_what_an_event_is_enriched_with_is_in_the_projection(rig: StoresRig) -> None:
    bare = event("PB-1", 100, 1)
    typed = msgspec.structs.replace(bare, device_type="PiBox")
    timed = msgspec.structs.replace(bare, sync_duration_ms=5)
    await rig.take_in(fleet())
    for one in (typed, bare, timed, bare):
        await rig.take_in([one])
    assert await rig.differences() == set()
    await rig.rebuild()
    assert await rig.differences() == set()


async def test_an_enrichment_that_was_never_merged_is_found_and_repaired(rig: StoresRig) -> None:
    await rig.take_in(fleet())
    await rig.events.insert([msgspec.structs.replace(one, device_type="PiBox") for one in fleet()], NOW)
    assert {what for _, what in await rig.differences()} == {"newest event"}
    repair = Repair(bridge_id="bridge-0", events=rig.events, projection=rig.projection, alerts=rig.judge)
    await repair.compare()
    assert repair.repaired == 7
    assert await rig.differences() == set()


async def redis_pair(url: str) -> tuple[RedisProjection, RedisProjection]:
    return RedisProjection.connect(url), RedisProjection.connect(url)


async def test_who_is_attached_learns_that_it_is_lost(redis_url: str) -> None:
    bridge, rebuilder = await redis_pair(redis_url)
    try:
        await attach_anew(bridge)
        await rebuilder.attach(())
        assert await rebuilder.begin_rebuild("rebuild-1", [], from_nothing=True)
        with pytest.raises(ProjectionLost):
            await bridge.apply(project(fleet()))
        assert [each async for each in bridge.device_ids() if each] == []
        await bridge.attach(())
        await bridge.apply(project(fleet()))
        assert await rebuilder.state("PB-1") == project(fleet())["PB-1"]
    finally:
        await bridge.close()
        await rebuilder.close()


async def test_one_rebuild_at_a_time(redis_url: str) -> None:
    bridge, rebuilder = await redis_pair(redis_url)
    rig = StoresRig(MemoryEventStore(), rebuilder)
    try:
        await attach_anew(bridge)
        await bridge.apply(project(fleet()))
        assert await bridge.begin_rebuild("bridge-0", [])
        with pytest.raises(PiSyncError, match="nothing was changed"):
            await rig.rebuild()
        assert await bridge.state("PB-1") == project(fleet())["PB-1"]
    finally:
        await bridge.close()
        await rebuilder.close()


async def test_what_an_unfinished_removal_left_is_removed_by_whoever_is_next(redis_url: str) -> None:
    bridge, other = await redis_pair(redis_url)
    try:
        await attach_anew(bridge)
        await bridge.apply(project(fleet()))
        await redis_of(other).delete(*map(keys.epoch, keys.ROOTS))
        assert not (await bridge.attach(())).built
        assert await bridge.begin_rebuild("bridge-0", [])
        assert await bridge.state("PB-1") is None
    finally:
        await bridge.close()
        await other.close()


async def test_a_removal_stops_where_another_has_begun(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge, rebuilder = await redis_pair(redis_url)
    try:
        await attach_anew(bridge)
        await bridge.apply(project(fleet()))
        [client] = await redis_of(rebuilder).clients()
        scan = client.scan

        async def stalled(*arguments: object, **options: object) -> object:
            """Find the keys, then stall until a bridge has taken over and merged something."""
            found = await scan(*arguments, **options)  # type: ignore[arg-type]
            await redis_of(bridge).delete(keys.REBUILDER)
            assert await bridge.begin_rebuild("bridge-0", [])
            await bridge.apply(project(fleet()))
            return found

        monkeypatch.setattr(client, "scan", stalled)
        with pytest.raises(ProjectionLost, match="another bridge"):
            await rebuilder.begin_rebuild("rebuild-1", [], from_nothing=True)
        assert await bridge.state("PB-1") == project(fleet())["PB-1"]
    finally:
        await bridge.close()
        await rebuilder.close()


Client = Any  # Redis's own, past the product


async def lose_ranks(client: Client, root: str) -> None:
    await client.delete(*(f"{root}:by:{rank}" for rank in Rank))


async def lose_head(client: Client, root: str) -> None:
    await client.hdel(f"{root}:heads", "PB-1")


async def lose_failures(client: Client, root: str) -> None:
    await client.delete(f"{root}:failures:PB-1")


async def lose_all(client: Client, root: str) -> None:
    await client.delete(f"{root}:heads", f"{root}:failures:PB-1")


async def cut_failures(client: Client, root: str) -> None:
    await client.set(f"{root}:failures:PB-1", b"1234567")


async def mix_ranks_up(client: Client, root: str) -> None:
    for rank in Rank:
        await client.zadd(f"{root}:by:{rank}", {"PB-1": 99})


async def belittle(client: Client, root: str) -> None:
    """A head that knows of fewer failures than there are."""
    head = bytearray(await packed_head(client, "PB-1"))
    struct.pack_into("<H", head, 25, 1)
    await client.hset(f"{root}:heads", "PB-1", bytes(head))


async def lose_number(client: Client, root: str) -> None:
    await client.zrem(f"{root}:by:changed", "PB-1")


LOST = [lose_ranks, lose_head, lose_failures, lose_all, cut_failures, mix_ranks_up, belittle, lose_number]


@pytest.mark.parametrize("merges_on", [False, True])
@pytest.mark.parametrize("lose", LOST)
async def test_a_key_that_redis_lost_is_found_and_made_again(
    redis_url: str,
    lose: Callable[[Client, str], Awaitable[None]],
    merges_on: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pisync.limits.REPLAY_BATCH_EVENTS", 4)
    store = RedisProjection.connect(redis_url)
    rig = StoresRig(MemoryEventStore(), store)
    try:
        await attach_anew(store)
        await rig.take_in(fleet())
        before = await store.records(["PB-1", "PB-2"])
        await lose(redis_of(store), keys.shard("PB-1"))
        assert {device_id for device_id, _ in await rig.differences()} == {"PB-1"}
        if merges_on:  # so that what is left may agree with itself
            own = [one for one in fleet() if one.device_id == "PB-1"]
            await store.apply(project(own[:1]))
            await store.apply(project(own[-1:]))
        assert await store.records(["PB-1", "PB-2"]) != before
        repair = Repair(bridge_id="bridge-0", events=rig.events, projection=store, alerts=rig.judge)
        await repair.compare()
        assert await store.records(["PB-1", "PB-2"]) == before
        assert repair.repaired
        await repair.compare()
        repaired = repair.repaired
        # Live events that the comparison does not know of are no loss.
        await store.apply(project([event("PB-1", 900, 1)]))
        await repair.compare()
        assert repair.repaired == repaired
    finally:
        await store.close()


async def test_one_bridge_compares_at_a_time(redis_url: str) -> None:
    store = RedisProjection.connect(redis_url)
    try:
        assert await store.claim_comparison("bridge-0")
        assert not await store.claim_comparison("bridge-1")
        assert await store.claim_comparison("bridge-0")
    finally:
        await store.close()


def test_a_record_tells_of_everything() -> None:
    state = project(fleet())["PB-1"]
    record = DeviceRecord.of(state)
    assert record != replace(record, alerting=not record.alerting)
    assert record != replace(record, ranks={**record.ranks, Rank.STREAK: 99})


async def copied(store: RedisProjection, root: str) -> dict[str, bytes]:
    """All keys of a shard, as Redis writes them down."""
    client = await store._connection.at(root)
    dump = client.execute_command
    return {
        key: await dump("DUMP", key, **{NEVER_DECODE: True})  # type: ignore[no-untyped-call]
        for key in await redis_of(store).keys(f"{root.replace('{', '[{]').replace('}', '[}]')}:*")
    }


async def put_back(store: RedisProjection, root: str, copy: dict[str, bytes]) -> None:
    """Have a shard be what it was."""
    await redis_of(store).delete(
        *await redis_of(store).keys(f"{root.replace('{', '[{]').replace('}', '[}]')}:*")
    )
    client = await store._connection.at(root)
    for key, dump in copy.items():
        await client.restore(key, 0, dump)


async def test_shards_that_go_back_to_different_times_are_made_up_for_from_the_oldest(redis_url: str) -> None:
    """Each has the marks of its own time, and the lowest of all is where the replay begins."""
    store = RedisProjection.connect(redis_url)
    rig = StoresRig(MemoryEventStore(), store)
    older, newer = keys.shard("PB-1"), keys.shard("PB-2")
    assert older != newer
    try:
        await attach_anew(store)
        events = fleet()
        copies = {}
        for part, root in enumerate((older, newer)):
            await rig.take_in(events[part * 20 : part * 20 + 20])
            await store.set_watermark("bridge-0", 1000 * (part + 1), catching_up=False)
            copies[root] = await copied(store, root)
        await rig.take_in(events[40:])
        await store.set_watermark("bridge-0", 3000, catching_up=False)
        for root, copy in copies.items():
            await put_back(store, root, copy)
        found = await store.attach({"bridge-0"})
        assert (found.built, found.watermark_ms) == (True, 1000)
        await store.apply(project(events, repeat(to_ms(NOW))))
        await rig.judge.handle(await store.compare_alerts(await rig.alerts.open_devices(Rule.STREAK)))
        assert await rig.differences() == set()
    finally:
        await store.close()


@pytest.mark.parametrize("old", [3, limits.SHARDS // 2, limits.SHARDS - 3])
async def test_what_a_shard_of_an_earlier_projection_holds_is_thrown_away(redis_url: str, old: int) -> None:
    """It may be what the rebuild took out: merging with it would keep that. Most of them may be of before."""
    store = RedisProjection.connect(redis_url)
    rig = StoresRig(MemoryEventStore(), store)
    try:
        await attach_anew(store)
        wrong = [event(device, 500, errors=5) for device in (f"PB-{number}" for number in range(200))]
        await store.apply(project(wrong))  # of which there is no event
        roots = keys.ROOTS[:old]
        copies = {root: await copied(store, root) for root in roots}
        await rig.take_in(fleet())
        assert await store.begin_rebuild("bridge-0", [], from_nothing=True)
        await store.apply(project(fleet(), repeat(to_ms(NOW))))
        await store.finish_rebuild("bridge-0")
        for root, copy in copies.items():
            await put_back(store, root, copy)
        assert not (await store.attach(())).built
        assert await store.begin_rebuild("bridge-0", await rig.alerts.open_devices(Rule.STREAK))
        await store.apply(project(fleet(), repeat(to_ms(NOW))))
        await store.finish_rebuild("bridge-0")
        assert await rig.differences() == set()
    finally:
        await store.close()


async def rebuilt(store: RedisProjection) -> dict[str, dict[str, bytes]]:
    """A projection from which a rebuild took what was wrong; returns each shard as it was before."""
    await attach_anew(store)
    wrong = [event(device, 500, errors=5) for device in (f"PB-{number}" for number in range(200))]
    await store.apply(project(wrong))
    before = {root: await copied(store, root) for root in keys.ROOTS}
    assert await store.begin_rebuild("bridge-0", [], from_nothing=True)
    await store.finish_rebuild("bridge-0")
    return before


async def test_a_rebuild_throws_away_what_one_before_did_not_trust_and_never_got_to(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed when it had taken a few epochs away: those that are left are most, and agree."""
    store = RedisProjection.connect(redis_url)
    try:
        before = await rebuilt(store)
        old = keys.ROOTS[3:]
        for root in old:
            await put_back(store, root, before[root])
        await store.attach(())
        with monkeypatch.context() as patching:
            patching.setattr(store, "_remove_leftovers", AsyncMock(side_effect=RedisUnavailable("killed")))
            with pytest.raises(RedisUnavailable, match="killed"):
                await store.begin_rebuild("bridge-0", [])
        for root in old:
            await redis_of(store).set(keys.epoch(root), "old")
        assert not (await store.attach(())).built
        assert await store.begin_rebuild("bridge-0", [])
        assert [each async for each in store.device_ids() if each] == []
        await store.finish_rebuild("bridge-0")
        assert (await store.attach(())).built
        assert await store.begin_rebuild("bridge-0", [])
    finally:
        await store.close()


async def test_a_shard_that_goes_back_while_a_rebuild_empties_it_does_not_become_part_of_it(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A primary that was a replica meanwhile, over the same connection: it has what was removed again."""
    store = RedisProjection.connect(redis_url)
    try:
        before = await rebuilt(store)
        await put_back(store, keys.ROOTS[0], before[keys.ROOTS[0]])
        await store.attach(())
        remove = store._remove_leftovers

        async def goes_back(bridge_id: str) -> None:
            await remove(bridge_id)
            await put_back(store, keys.ROOTS[1], before[keys.ROOTS[1]])
            [node] = store._histories
            store._histories[node] = "0" * 40  # what it is now is not what was attached to

        monkeypatch.setattr(store, "_remove_leftovers", goes_back)
        with pytest.raises(ProjectionLost):
            await store.begin_rebuild("bridge-0", [])
        monkeypatch.setattr(store, "_remove_leftovers", remove)
        assert not (await store.attach(())).built
        assert await store.begin_rebuild("bridge-0", [])
        assert [each async for each in store.device_ids() if each] == []
    finally:
        await store.close()
