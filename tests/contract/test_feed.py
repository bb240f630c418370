"""The feed of every projection: whoever reads it holds what the projection holds, whatever came between."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local_stack.process import running
from local_stack.servers import RedisServer
from pisync import limits
from pisync.domain.device_state import project
from pisync.domain.events import SyncEvent
from pisync.stores.interfaces.feed import Changes, FeedPosition, StateSummary
from pisync.stores.interfaces.projection import Projection, ProjectionReader
from pisync.stores.memory.projection import MemoryProjection
from pisync.stores.redis.keys import ROOTS, shard
from pisync.stores.redis.projection import RedisProjection
from tests.support.redis_nodes import redis_of
from tests.support.samples import attach_anew, event, events_of_few_devices


class Reader:
    """What somebody knows who reads the feed."""

    def __init__(self, store: ProjectionReader) -> None:
        self._store = store
        self.position: FeedPosition | None = None
        self.known: dict[str, StateSummary] = {}

    async def read(self) -> Changes:
        """The next part; all over again where the position is void."""
        changes = await self._store.changes(self.position)
        if changes.position is None:
            self.known = {}
        self.known.update(changes.devices)
        self.position = changes.position
        return changes

    async def read_all(self) -> int:
        """Everything that there is to read; how many devices were told."""
        told = 0
        while True:
            changes = await self.read()
            told += len(changes.devices)
            if changes.position is not None and changes.position.has_read_all and not changes.behind:
                return told


@pytest.fixture
async def reader(projection_store: Projection) -> Reader:
    return Reader(projection_store)


def facts(events: list[SyncEvent]) -> dict[str, StateSummary]:
    return {device_id: StateSummary.of(state) for device_id, state in project(events).items()}


async def test_everything_is_told_once_and_then_what_changed(
    projection_store: Projection, reader: Reader
) -> None:
    assert await reader.read_all() == 0
    many = [event(f"PB-{device}", 0, device % 2) for device in range(50)]
    await projection_store.apply(project(many))
    assert await reader.read_all() == 50
    assert reader.known == facts(many)
    assert await reader.read_all() == 0
    changed = [event("PB-3", 1), event("PB-new", 1)]
    await projection_store.apply(project(changed))
    assert await reader.read_all() == 2
    assert reader.known == facts([*many, *changed])
    late = Reader(projection_store)
    await late.read_all()
    assert late.known == reader.known


async def test_what_changes_nothing_is_not_told(projection_store: Projection, reader: Reader) -> None:
    """Neither a duplicate, nor a replay of everything, as the next catch-up without a watermark makes it."""
    many = [event(f"PB-{device}", minute, minute % 2) for device in range(9) for minute in range(4)]
    await projection_store.apply(project(many))
    await reader.read_all()
    for anew in (False, True):
        await projection_store.apply(project(many), anew=anew)
        assert await reader.read_all() == 0


async def test_a_part_is_bounded_and_says_how_much_is_left(
    projection_store: Projection, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CHANGES_AT_ONCE", 32)
    many = [event(f"PB-{device}", 0) for device in range(400)]
    await projection_store.apply(project(many))
    first = await reader.read()
    assert first.of == 400
    assert first.position is not None
    assert not first.position.has_read_all
    await reader.read_all()
    assert reader.known == facts(many)
    # A device at a time, so that each has a number of its own.
    for device in range(200):
        await projection_store.apply(project([event(f"PB-{device}", 1)]))
    changes = await reader.read()
    assert len(changes.devices) <= 32
    assert changes.behind == 200 - len(changes.devices)
    assert await reader.read_all() == changes.behind


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
@given(batch=events_of_few_devices, data=st.data())
@pytest.mark.parametrize("store_name", ["memory", "redis"])
async def test_who_reads_between_any_writes_ends_with_the_rule_applied_to_the_set(
    redis_url: str, store_name: str, batch: list[SyncEvent], data: st.DataObject
) -> None:
    """Three events at a time, some again, some as in a replay of everything; readers go on anywhere."""
    store: Projection = MemoryProjection() if store_name == "memory" else RedisProjection.connect(redis_url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "CHANGES_AT_ONCE", 1)
        patch.setattr(limits, "MERGED_AT_ONCE", 2)
        try:
            if isinstance(store, RedisProjection):
                await redis_of(store).flushall()
            await attach_anew(store)
            early, late = Reader(store), Reader(store)
            for start in range(0, len(batch), 3):
                part = batch[max(0, start - 1) : start + 3]
                await store.apply(project(part), anew=data.draw(st.booleans()))
                for one in (early, late):
                    if data.draw(st.booleans()):
                        await one.read()
            for one in (early, late):
                await one.read_all()
                assert one.known == facts(batch)
        finally:
            await store.close()


async def test_bridges_that_write_at_once_while_it_is_read(redis_url: str) -> None:
    stores = [RedisProjection.connect(redis_url) for _ in range(4)]
    try:
        await attach_anew(stores[0])
        for store in stores[1:]:
            await store.attach(())
        reader = Reader(stores[0])
        batches = [
            [event(f"PB-{device}", minute, minute % 3) for device in range(turn, 300, 2)]
            for turn, minute in enumerate(range(12))
        ]
        writes = asyncio.gather(
            *(stores[turn % 4].apply(project(batch)) for turn, batch in enumerate(batches))
        )
        while not writes.done():
            await reader.read()
        await writes
        await reader.read_all()
        assert reader.known == facts([one for batch in batches for one in batch])
    finally:
        for store in stores:
            await store.close()


async def test_another_projection_is_read_from_its_beginning(
    projection_store: Projection, reader: Reader
) -> None:
    await projection_store.apply(project([event("PB-1", 0), event("PB-2", 0)]))
    await reader.read_all()
    assert await projection_store.begin_rebuild("bridge-0", [], from_nothing=True)
    await projection_store.apply(project([event("PB-2", 0)]))
    assert (await reader.read()).position is None
    assert (await reader.read()).rebuilding
    await reader.read_all()
    assert set(reader.known) == {"PB-2"}
    await projection_store.finish_rebuild("bridge-0")
    assert not (await reader.read()).rebuilding


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[RedisProjection]:
    store = RedisProjection.connect(redis_url)
    await attach_anew(store)
    yield store
    await store.close()


BATCH = [event(f"PB-{device}", 0) for device in range(200)]


@pytest.mark.parametrize("loss", ["flushall", "by:changed", "epoch"])
async def test_numbers_that_were_lost_make_the_position_void(redis: RedisProjection, loss: str) -> None:
    reader = Reader(redis)
    await redis.apply(project(BATCH))
    await reader.read_all()
    root = shard("PB-1")
    if loss == "flushall":
        await redis_of(redis).flushall()
    else:
        await redis_of(redis).delete(f"{root}:{loss}")
    assert (await reader.read()).position is None
    if loss in {"flushall", "epoch"}:
        assert (await reader.read()).position is None
        await attach_anew(redis)
        await redis.apply(project(BATCH))
    await reader.read_all()
    assert reader.known == facts(BATCH)


async def test_devices_without_a_number_are_read_all_the_same_and_get_one_anew(
    redis: RedisProjection,
) -> None:
    await redis.apply(project(BATCH))
    await redis_of(redis).delete(*(f"{root}:by:changed" for root in ROOTS))
    reader = Reader(redis)
    await reader.read_all()
    assert reader.known == facts(BATCH)
    assert not any(record.numbered for record in await redis.records([one.device_id for one in BATCH]))
    await redis.apply(project(BATCH[:50]))
    assert await reader.read_all() == 0
    await redis.apply(project(BATCH), anew=True)
    assert await reader.read_all() == len(BATCH)
    assert all(record.numbered for record in await redis.records([one.device_id for one in BATCH]))


async def test_a_redis_that_went_back_and_on_from_there_is_read_anew(tmp_path: Path) -> None:
    """Its numbers may be higher by now than those that were read, and be those of other changes."""
    kept, former = tmp_path / "redis", tmp_path / "former"
    kept.mkdir()
    async with running(RedisServer(kept)) as server:
        store = RedisProjection.connect(server.url)

        try:
            await attach_anew(store)
            await redis_of(store).config_set("appendfsync", "always")
            await store.apply(project(BATCH))
            await server.kill()
            shutil.copytree(kept / "appendonlydir", former)
            await server.start()
            await store.attach(())
            await redis_of(store).config_set("appendfsync", "always")
            reader = Reader(store)
            await store.apply(project([event("PB-7", 1)]))
            await reader.read_all()
            await server.kill()
            shutil.rmtree(kept / "appendonlydir")
            former.rename(kept / "appendonlydir")
            await server.start()
            await store.attach(())
            assert await store.state("PB-7") == project(BATCH)["PB-7"]
            others = [one.device_id for one in BATCH if shard(one.device_id) == shard("PB-7")]
            after = [event(each, minute) for minute in range(1, 5) for each in others if each != "PB-7"]
            for one in after:
                await store.apply(project([one]))
            assert (await reader.read()).position is None
            await reader.read_all()
            assert reader.known == facts([*BATCH, *after])
        finally:
            await store.close()
