"""What only the projection in Redis can show: defects in scripts, being unavailable, shards."""

import asyncio
import binascii
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Final

import pytest
from redis.exceptions import ResponseError

from bridge.projection.replay import Replay
from local_stack.process import running
from local_stack.servers import RedisServer
from pisync import limits
from pisync.clock import to_ms
from pisync.domain.alerts import AlertChange, Rule
from pisync.domain.device_state import project
from pisync.domain.events import SyncEvent
from pisync.errors import ConfigurationError, ProjectionLost, RedisUnavailable
from pisync.stores.interfaces.projection import DeviceRecord, Rank
from pisync.stores.interfaces.ranking import RankedBy, RankingQuery
from pisync.stores.memory.events import MemoryEventStore
from pisync.stores.redis import keys, scripts
from pisync.stores.redis.projection import RedisProjection
from pisync.stores.redis.reader import RedisProjectionReader
from pisync.stores.redis.scripts import Script
from tests.support.redis_nodes import redis_of
from tests.support.replays import states_of
from tests.support.samples import NOW, START, attach_anew, event

BATCH: Final = project([event("PB-1", 0, 1)])


@pytest.fixture
async def projection(redis_url: str) -> AsyncIterator[RedisProjection]:
    """An empty projection, complete, to which `bridge-0` is attached."""
    projection = RedisProjection.connect(redis_url)
    await attach_anew(projection)
    yield projection
    await projection.close()


async def test_redis_away_is_said_and_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REDIS_SOCKET_TIMEOUT_S", 2)
    async with running(RedisServer(tmp_path)) as server:
        projection = RedisProjection.connect(server.url)
        try:
            await attach_anew(projection)
            await projection.apply(BATCH)
            server.pause()
            with pytest.raises(RedisUnavailable, match="Redis"):
                await projection.apply(BATCH)
            server.resume()
            await server.kill()
            with pytest.raises(RedisUnavailable, match="Redis"):
                await projection.ping()
            await server.start()
            # It may have lost what it was given: it is another process now.
            for _ in range(2):
                with pytest.raises(RedisUnavailable, match="restarted"):
                    await projection.apply(BATCH)
            await projection.attach(())
            await projection.apply(BATCH)
        finally:
            await projection.close()


async def test_the_first_read_after_a_restart_finds_a_redis_that_is_there(tmp_path: Path) -> None:
    """All connections in the pool are dead, and the driver does not see it before it uses them."""
    query = RankingQuery(more_than=0, ranked_by=RankedBy.FAILURES, limit=1)
    async with running(RedisServer(tmp_path)) as server:
        reader = RedisProjectionReader.connect(server.url)
        reads: list[Callable[[], Awaitable[object]]] = [
            lambda: reader.state("PB-1"),
            lambda: reader.repeated_failures(query),
            lambda: reader.records(["PB-1"]),
            reader.heartbeats,
            reader.status,
            reader.ping,
        ]
        try:
            for read in reads:
                await asyncio.gather(*(read() for _ in range(5)))
                await server.kill()
                await server.start()
                await read()
                await asyncio.gather(*(read() for _ in range(5)))
        finally:
            await reader.close()


async def test_scripts_that_redis_forgot_are_loaded_again(projection: RedisProjection) -> None:
    await projection.apply(BATCH)
    await redis_of(projection).script_flush()
    await projection.apply(project([event("PB-1", 1, 1)]))
    state = await projection.state("PB-1")
    assert state is not None
    assert state.failures == 2


async def test_every_key_of_a_device_is_in_its_shard(projection: RedisProjection) -> None:
    await projection.apply(project([event(f"PB-{number}", 0, 1) for number in range(40)]))
    found = [key async for key in redis_of(projection).scan_iter() if key != keys.EVICTED]
    assert {keys.root_of(key) for key in found} == set(keys.ROOTS)
    for number in range(40):
        root = keys.shard(f"PB-{number}")
        assert [key for key in found if key.endswith(f":PB-{number}")] == [f"{root}:failures:PB-{number}"]
        assert await redis_of(projection).hexists(f"{root}:heads", f"PB-{number}")


def test_a_shard_lies_in_its_sixteenth_of_the_slots_of_a_cluster() -> None:
    assert [binascii.crc_hqx(tag.encode(), 0) % 16_384 // 1024 for tag in keys.TAGS] == list(
        range(limits.SHARDS)
    )
    for tag, root in zip(keys.TAGS, keys.ROOTS, strict=True):
        assert root.partition("{")[2] == f"{tag}}}"


async def test_a_former_layout_is_no_projection_and_goes(projection: RedisProjection) -> None:
    """Whatever its keys hold; another program's keys stay."""
    client = redis_of(projection)
    await client.flushall()
    former = [
        *(f"pisync:{{{number:02}}}:{name}" for number in range(16) for name in ("epoch", "device:PB-1")),
        *(f"pisync:2:{{{tag}}}:{name}" for tag in keys.TAGS for name in ("epoch", "by:received")),
    ]
    for key in former:
        await client.set(key, "0123456789abcdef")
    await client.set("pisync:stranger", "x")
    assert not (await projection.attach(())).built
    await attach_anew(projection)
    assert await client.exists(*former) == 0
    assert await client.exists("pisync:stranger") == 1
    assert (await projection.attach(())).built


async def calls_in_redis(projection: RedisProjection, batch: Sequence[SyncEvent]) -> dict[str, int]:
    """The commands that Redis runs while it merges these events, those inside the script among them."""
    await redis_of(projection).config_resetstat()
    await projection.apply(project(batch, repeat(to_ms(START))))
    found = await redis_of(projection).info("commandstats")
    names = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in found.items()}
    return {name: calls for name, calls in names.items() if name not in {"config|resetstat", "info"}}


ONE_SHARD: Final = [each for each in map("PB-{}".format, range(4000)) if keys.shard(each) == keys.ROOTS[0]]


async def test_what_a_batch_costs_is_counted(projection: RedisProjection) -> None:
    """Commands for a shard, not for a device, but for the failures of those that failed."""
    some = ONE_SHARD[: limits.MERGED_AT_ONCE]
    await projection.apply(project([event(each, minute, minute % 2) for each in some for minute in range(4)]))
    once = dict.fromkeys(("evalsha", "get", "hmget", "hset"), 1)
    once["zrevrange"] = 1
    # The streak that ends: the ranks by it and by last seen, and the number of the change.
    well = await calls_in_redis(projection, [event(each, 10) for each in some])
    assert well == once | {"zadd": 3}
    well = await calls_in_redis(projection, [event(each, 11) for each in some])
    assert well == once | {"zadd": 2}
    again = await calls_in_redis(projection, [event(each, 11) for each in some])
    assert again == {"evalsha": 1, "get": 1, "hmget": 1}
    # A failure, for which there is room; the ranks by failures, streak and last seen, and the number.
    failing = await calls_in_redis(projection, [event(each, 12, 1) for each in some])
    assert failing == once | {"zadd": 4, "strlen": len(some), "setrange": len(some)}
    await projection.apply(project([event(each, 13, 1) for each in some]))
    # Alerts are asked for once for all.
    alerting = await calls_in_redis(projection, [event(each, 14, 1) for each in some])
    asking = dict.fromkeys(("exists", "zcount", "time", "smismember"), 1)
    assert alerting == once | asking | {"zadd": 4, "strlen": len(some), "setrange": len(some)}


async def test_a_call_merges_so_many_devices_at_most(projection: RedisProjection) -> None:
    many = ONE_SHARD[: 2 * limits.MERGED_AT_ONCE + 1]
    await projection.apply(BATCH)
    counted = await calls_in_redis(projection, [event(each, 0) for each in many])
    assert counted["evalsha"] == counted["hmget"] == 3
    assert len(await projection.records(many)) == len(many)


async def test_what_a_device_with_many_failures_takes(projection: RedisProjection) -> None:
    """It grows no further, and room for more is a fraction of what is there."""
    failures = f"{keys.shard('PB-1')}:failures:PB-1"
    sizes: list[int] = []
    for minute in range(limits.FAILURES_KEPT_MAX + 3 * limits.FAILURES_SLACK):
        await projection.apply(project([event("PB-1", minute, 1)]))
        sizes.append(await redis_of(projection).memory_usage(failures) or 0)
    assert all(size <= 8 * (count * 1.25 + 6) * 1.25 + 150 for count, size in enumerate(sizes, 1))
    assert max(sizes) <= 8 * (limits.FAILURES_KEPT_MAX + limits.FAILURES_SLACK) + 150
    state = await projection.state("PB-1")
    assert state is not None
    assert state.failures == limits.FAILURES_KEPT_MAX


def test_a_url_that_cannot_be_understood() -> None:
    with pytest.raises(ConfigurationError, match="PISYNC_REDIS_URL"):
        RedisProjection.connect("redis://h:port/0")


USES: Final[dict[str, Callable[[RedisProjection], Awaitable[object]]]] = {
    "merge_states.lua": lambda projection: projection.apply(BATCH),
    "confirm_alerts.lua": lambda projection: projection.confirm(
        [AlertChange(device_id="PB-1", rule=Rule.STREAK, streak=3, opens=True)]
    ),
    "compare_alerts.lua": lambda projection: projection.compare_alerts([]),
    "finish_catch_up.lua": lambda projection: projection.finish_catch_up("bridge-0"),
    "set_watermark.lua": lambda projection: projection.set_watermark("bridge-0", 1, catching_up=False),
    "finish_rebuild.lua": lambda projection: projection.finish_rebuild("bridge-0"),
    "delete_keys.lua": lambda projection: projection.begin_rebuild("bridge-0", [], from_nothing=True),
    "begin_rebuild.lua": lambda projection: projection.begin_rebuild("bridge-0", []),
    "read_devices.lua": lambda projection: projection.state("PB-1"),
    "read_changes.lua": lambda projection: projection.changes(None),
    "rank_devices.lua": lambda projection: projection.status(),
}


def test_every_script_is_among_the_uses() -> None:
    lua = Path(scripts.__file__).parent / "lua"
    assert {path.name for path in lua.iterdir()} == set(USES)


@pytest.mark.parametrize(
    "defect",
    [
        "redis.cal('GET', KEYS[1])",
        "return nothing",
        "return 1 +",
        "redis.call('GETT', KEYS[1])",
        "redis.call('ZADD', KEYS[1] .. ':by:streak', 'many', 'PB-1')",
    ],
)
@pytest.mark.parametrize("name", USES)
async def test_a_defect_in_a_script_is_no_reason_to_try_again(
    projection: RedisProjection, name: str, defect: str
) -> None:
    """It comes out as the driver's error, which nobody waits for to pass."""
    await projection.apply(BATCH)
    for owner in (projection, projection._ranking, projection._feed):
        for script in vars(owner).values():
            if isinstance(script, Script) and script._name == name:
                script._source, script._digest = f"{defect}\n{script._source}", ""
    with pytest.raises(ResponseError) as raised:
        await USES[name](projection)
    assert raised.value.__notes__ == [f"in {name}"]


async def test_a_key_of_a_type_that_no_script_makes_is_a_defect(projection: RedisProjection) -> None:
    await redis_of(projection).set(f"{keys.shard('PB-1')}:by:streak", "text")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await projection.apply(BATCH)
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await projection.compare_alerts([])
    assert await projection.begin_rebuild("bridge-0", [], from_nothing=True)  # as `pisync rebuild` does
    await projection.apply(BATCH)


async def test_another_projection_than_the_attached_one_is_said(projection: RedisProjection) -> None:
    await redis_of(projection).set(f"{keys.shard('PB-1')}:epoch", "another")
    with pytest.raises(ProjectionLost):
        await projection.apply(BATCH)


@pytest.mark.parametrize(
    ("condition", "back", "word"),
    [
        ({"maxmemory": "1"}, {"maxmemory": "0"}, "OOM"),
        ({"min-replicas-to-write": "1"}, {"min-replicas-to-write": "0"}, "NOREPLICAS"),
    ],
)
async def test_a_redis_that_does_not_write_for_now_is_unavailable(
    projection: RedisProjection, condition: dict[str, str], back: dict[str, str], word: str
) -> None:
    for name, value in condition.items():
        await redis_of(projection).config_set(name, value)
    try:
        with pytest.raises(RedisUnavailable, match=word):
            await projection.apply(BATCH)
    finally:
        for name, value in back.items():
            await redis_of(projection).config_set(name, value)
    await projection.apply(BATCH)


async def test_a_redis_that_may_evict_keys_is_not_attached_to(tmp_path: Path) -> None:
    async with running(RedisServer(tmp_path)) as server:
        projection = RedisProjection.connect(server.url)
        try:
            await attach_anew(projection)
            client = redis_of(projection)
            await client.config_set("maxmemory", "100mb")
            await projection.set_watermark(
                "bridge-0", 1, catching_up=False
            )  # it refuses, but removes nothing
            await client.config_set("maxmemory-policy", "allkeys-lru")
            for attempt in (
                projection.set_watermark("bridge-0", 2, catching_up=False),
                projection.attach(()),
            ):
                with pytest.raises(RedisUnavailable, match="allkeys-lru"):
                    await attempt
            await client.config_set("maxmemory-policy", "noeviction")
            assert (await projection.attach(())).built
        finally:
            await projection.close()


async def test_a_redis_that_evicted_keys_is_filled_anew(tmp_path: Path) -> None:
    async with running(RedisServer(tmp_path)) as server:
        projection = RedisProjection.connect(server.url)
        try:
            await attach_anew(projection)
            client = redis_of(projection)
            # Others' keys here, so that nothing but the count tells.
            for number in range(20):
                await client.set(f"other:{number}", "x" * 100_000, ex=1000)
            await client.config_set("maxmemory-policy", "volatile-random")
            await client.config_set("maxmemory", (await client.info())["used_memory"] - 300_000)
            await client.set("other", "x")
            await client.config_set("maxmemory", "0")
            with pytest.raises(ProjectionLost):
                await projection.set_watermark("bridge-0", 1, catching_up=False)
            assert not (await projection.attach(())).built
            await attach_anew(projection)
            assert (await projection.attach(())).built
            await projection.set_watermark("bridge-0", 1, catching_up=False)
        finally:
            await projection.close()


LOST: Final = ["heads", "failures:", *(f"by:{rank}" for rank in Rank), "by:changed"]


@pytest.mark.parametrize("lost", LOST)
async def test_a_replay_of_everything_mends_what_was_evicted(projection: RedisProjection, lost: str) -> None:
    events = MemoryEventStore()
    failing = [event(f"PB-{device}", minute, 1) for device in range(40) for minute in range(device % 5)]
    await events.insert([*failing, *(event(f"PB-{device}", 9) for device in range(30, 60))], NOW)
    states = states_of([batch async for batch in events.replay(None)])
    whole = [replace(DeviceRecord.of(state), alerting=False) for state in states.values()]
    for evicts in (True, False):
        await projection.begin_rebuild("bridge-0", [])
        replay = Replay(events=events, projection=projection, start_ms=0)
        assert sum([count async for count in replay.run()]) == len(events.events)
        assert await projection.records([*states]) == whole
        if evicts:
            found = [key async for key in redis_of(projection).scan_iter() if f"}}:{lost}" in key]
            assert found
            await redis_of(projection).delete(*found)
            assert await projection.records([*states]) != whole


async def test_facts_that_are_missing_are_none(projection: RedisProjection) -> None:
    await projection.apply(project([event("PB-1", minute, 1) for minute in range(4)]))
    root = keys.shard("PB-1")
    await redis_of(projection).delete(f"{root}:failures:PB-1", f"{root}:heads", f"{root}:by:streak")
    query = RankingQuery(more_than=0, ranked_by=RankedBy.FAILURES, limit=9)
    [row] = (await projection.repeated_failures(query)).devices
    assert (row.failures, row.streak, row.last_failure_ms, row.last_seen_ms) == (4, None, None, None)
    await redis_of(projection).delete(f"{root}:by:failures")
    for order in RankedBy:
        query = RankingQuery(more_than=0, ranked_by=order, limit=9)
        assert (await projection.repeated_failures(query)).devices == []


async def test_a_replica_is_unavailable(tmp_path: Path) -> None:
    """Redis was made one under us, or has lost its primary and may not answer."""
    async with running(RedisServer(tmp_path)) as server:
        projection = RedisProjection.connect(server.url)
        try:
            await attach_anew(projection)
            await redis_of(projection).replicaof("127.0.0.1", "1")
            with pytest.raises(RedisUnavailable, match="READONLY"):
                await projection.apply(BATCH)
            await redis_of(projection).config_set("replica-serve-stale-data", "no")
            with pytest.raises(RedisUnavailable, match="MASTERDOWN"):
                await projection.apply(BATCH)
            await redis_of(projection).replicaof("NO", "ONE")
            await projection.apply(BATCH)
        finally:
            await projection.close()


async def applied_forever(projection: RedisProjection) -> None:
    while True:
        await projection.apply(BATCH)


async def test_a_redis_that_is_busy_is_unavailable(tmp_path: Path) -> None:
    """Another script runs for too long; that an operator kills one of ours is no defect either."""
    async with running(RedisServer(tmp_path)) as server:
        projection, endless = RedisProjection.connect(server.url), RedisProjection.connect(server.url)
        try:
            await attach_anew(projection)
            await redis_of(projection).config_set("busy-reply-threshold", "10")
            await projection.apply(BATCH)
            await endless.attach(())
            endless._apply._source = "while true do end"
            stuck = asyncio.create_task(endless.apply(BATCH))
            with pytest.raises(RedisUnavailable, match="BUSY"):
                await applied_forever(projection)
            await redis_of(projection).script_kill()
            with pytest.raises(RedisUnavailable, match="killed"):
                await stuck
        finally:
            await projection.close()
            await endless.close()


@pytest.mark.parametrize(
    "reply",
    [
        "LOADING Redis is loading the dataset in memory",
        "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
        "CLUSTERDOWN The cluster is down",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "MOVED 1234 127.0.0.1:7001",
        "NOAUTH Authentication required.",
        "NOPERM this user has no permissions to run the 'evalsha' command",
        "ERR The user executing the script can't run this command or subcommand script: 0, on line 1.",
        "ERR max number of clients reached",
        # Redis 6 tells it in Lua's words.
        "ERR Error running script (call to f_0): @user_script:41: @user_script: 41: -OOM command not allowed",
        "ERR Error running script (call to f_0): @user_script:41: -MISCONF Redis is configured to save RDB",
        "ERR Error running script (call to f_0): @user_script:1: Script killed by user with SCRIPT KILL...",
    ],
)
async def test_what_else_redis_may_answer_for_a_while(projection: RedisProjection, reply: str) -> None:
    projection._apply._source = f'return redis.error_reply("{reply}")'
    with pytest.raises(RedisUnavailable):
        await projection.apply(BATCH)


async def test_a_redis_that_refuses_the_connection_is_unavailable(tmp_path: Path) -> None:
    """Whatever the connection was made for: no script is to blame."""
    async with running(RedisServer(tmp_path)) as server:
        projection = RedisProjection.connect(server.url.removesuffix("/0") + "/99")
        try:
            for ask in (projection.ping, projection.status, lambda: projection.attach(())):
                with pytest.raises(RedisUnavailable, match="out of range"):
                    await ask()
        finally:
            await projection.close()
