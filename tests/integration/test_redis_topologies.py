"""Redis as several processes beneath a real bridge: what they lose or move, the projection has again.

Each time `pisync rebuild --check` compares everything with MongoDB at the end, and finds nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from bench.redis_topologies import (
    Cluster,
    ClusterNode,
    ConfiguredRedis,
    ValkeyNode,
    is_linked,
    running_cluster,
    running_watched,
    valkey_server,
)
from local_stack import ports
from local_stack.process import running
from local_stack.servers import MosquittoServer
from pisync.clock import to_ms
from pisync.domain.events import SyncEvent
from pisync.errors import RedisUnavailable
from pisync.stores.redis import keys
from pisync.stores.redis.connection import _slot
from pisync.stores.redis.projection import RedisProjection
from tests.support.programs import program, truth
from tests.support.waiting import until
from tests.support.world import World, fleet, publish

DEVICES: Final = 40
MINUTES: Final = 12


@dataclass(frozen=True)
class Place:
    """Where Redis is, as a world knows it."""

    url: str


@dataclass(frozen=True, kw_only=True)
class Rig:
    """A bridge over some Redis, and a fleet that publishes minute by minute."""

    world: World
    mongodb_url: str
    directory: Path
    sent: list[SyncEvent] = field(default_factory=list)

    async def publish(self, minutes: int = 1) -> None:
        """Publish the next minutes, without waiting for what becomes of them."""
        begun = len(self.sent) // DEVICES
        events = fleet(DEVICES, begun + minutes)[begun * DEVICES :]
        await publish(self.world, events)
        self.sent.extend(events)

    async def merged(self) -> None:
        """Wait until all that was published is stored and merged, and the projection says so."""
        await self.world.truth.has(len(self.sent))
        await self.world.complete()
        await self.world.projected(self.sent)
        await self.world.alerted(self.sent)

    async def keep_publishing(self, until_told: asyncio.Event) -> None:
        """Publish until told to end."""
        while not until_told.is_set():
            await self.publish()

    async def right(self) -> None:
        """All is stored, merged and told, and a comparison of everything finds nothing."""
        await self.merged()
        checking = program(
            "rebuild",
            self.directory / "check.log",
            "--check",
            mongodb_url=self.mongodb_url,
            redis_url=self.world.redis.url,
        )
        await checking.start()
        code = await checking.wait()
        assert checking.log is not None
        assert code == 0, checking.log.read_text()
        assert await self.world.truth.events() == len(self.sent)

    def pause(self) -> None:
        """Stop the bridge without its knowing."""
        self.world.bridge.pause()

    def resume(self) -> None:
        """Have it go on."""
        self.world.bridge.resume()


@asynccontextmanager
async def rig_over(url: str, mongodb_url: str, directory: Path) -> AsyncIterator[Rig]:
    """A rig whose bridge is connected, with a first minute merged."""
    async with (
        running(MosquittoServer(directory / "mosquitto")) as mosquitto,
        truth(mongodb_url) as view,
    ):
        bridge = program(
            "bridge",
            directory / "bridge.log",
            mqtt_url=mosquitto.url,
            mongodb_url=mongodb_url,
            redis_url=url,
        )
        async with running(bridge):
            world = World(mosquitto, None, Place(url), bridge, view)  # type: ignore[arg-type]
            rig = Rig(world=world, mongodb_url=mongodb_url, directory=directory)
            try:
                await world.said("connected")
                await rig.publish()
                await rig.merged()
                yield rig
            finally:
                with suppress(ProcessLookupError):
                    rig.resume()


def when_ms(one: SyncEvent) -> int:
    """The device's own time of an event, in epoch milliseconds."""
    return to_ms(one.timestamp)


async def test_a_primary_is_killed_under_load_and_a_replica_promoted(
    mongodb_url: str, tmp_path: Path
) -> None:
    async with (
        running_watched(tmp_path / "redis") as watched,
        rig_over(watched.url, mongodb_url, tmp_path) as rig,
    ):
        told = asyncio.Event()
        load = asyncio.create_task(rig.keep_publishing(told))
        before = await watched.primary()
        await rig.world.truth.has(5 * DEVICES)
        await before.kill()

        async def promoted() -> bool:
            return await watched.primary() is not before

        await until(promoted)
        stored = await rig.world.truth.events()
        await rig.world.truth.has(stored + 3 * DEVICES)  # MongoDB went on, and goes on
        told.set()
        await load
        await rig.right()


async def test_what_a_replica_never_got_is_replayed(mongodb_url: str, tmp_path: Path) -> None:
    """Its link is cut first, so that the failover loses what was merged, and its watermark with it."""
    async with (
        running_watched(tmp_path / "redis") as watched,
        rig_over(watched.url, mongodb_url, tmp_path) as rig,
    ):
        before = await watched.primary()
        [replica] = [server for server in watched.servers if server is not before]
        await until(lambda: is_linked(replica))
        replica.pause()
        try:
            # What it has not read of the link yet would reach it later.
            await before.ask("CLIENT", "KILL", "TYPE", "replica")
            await rig.publish(4)
            await rig.merged()
            rig.pause()
            await before.kill()
        finally:
            replica.resume()

        async def promoted() -> bool:
            return await watched.primary() is replica and (await replica.ask("ROLE"))[0] == "master"

        await until(promoted)
        store = RedisProjection.connect(watched.url)
        try:
            lost = await store.state("PB-1")
            assert lost is not None
            assert lost.last_event.timestamp_ms < max(map(when_ms, rig.sent))

            async def silent() -> bool:
                return not (await store.status()).complete

            await until(silent)  # its mark grows old, and nobody says that all is there
        finally:
            await store.close()
        rig.resume()
        await rig.right()


async def test_a_primary_that_came_back_with_less_over_the_same_connection(
    mongodb_url: str, tmp_path: Path
) -> None:
    """A → B → A: the same process, the same epoch, the same connection, and what B never had is gone."""
    async with (
        running(ConfiguredRedis(tmp_path / "a")) as server,
        running(ConfiguredRedis(tmp_path / "b", "--repl-diskless-sync-delay", "0")) as other,
        rig_over(server.url, mongodb_url, tmp_path) as rig,
    ):
        await other.ask("REPLICAOF", ports.HOST, server.port)
        await until(lambda: is_linked(other))
        await other.ask("REPLICAOF", "NO", "ONE")
        await rig.publish(5)
        await rig.merged()
        rig.pause()
        await server.ask("REPLICAOF", ports.HOST, other.port)
        await until(lambda: is_linked(server))
        await server.ask("REPLICAOF", "NO", "ONE")
        store = RedisProjection.connect(server.url)
        try:
            lost = await store.state("PB-1")
            assert lost is not None
            assert lost.last_event.timestamp_ms == min(map(when_ms, rig.sent))
        finally:
            await store.close()
        rig.resume()
        await rig.world.said("projection interrupted")
        await rig.right()


async def test_a_primary_of_a_cluster_is_killed_under_load(mongodb_url: str, tmp_path: Path) -> None:
    async with (
        running_cluster(tmp_path / "redis", replicas=True) as cluster,
        rig_over(cluster.url, mongodb_url, tmp_path) as rig,
    ):
        told = asyncio.Event()
        load = asyncio.create_task(rig.keep_publishing(told))
        await rig.world.truth.has(5 * DEVICES)
        await cluster.primaries[0].kill()
        await cluster.agree(cluster.nodes[1:], without=cluster.primaries[0])
        stored = await rig.world.truth.events()
        await rig.world.truth.has(stored + 3 * DEVICES)
        told.set()
        await load
        await rig.right()


async def test_a_node_without_a_replica_is_gone_for_good(mongodb_url: str, tmp_path: Path) -> None:
    """The others take its slots, empty: a rebuild fills them."""
    async with (
        running_cluster(tmp_path / "redis") as cluster,
        rig_over(cluster.url, mongodb_url, tmp_path) as rig,
    ):
        gone, *left = cluster.primaries
        name = await gone.id()
        slots = [
            (first, last)
            for first, last, primary, *_ in await gone.ask("CLUSTER", "SLOTS")
            if primary[1] == gone.port
        ]
        await gone.kill()
        await rig.publish(3)
        await rig.world.said("projection interrupted")
        await rig.world.truth.has(len(rig.sent))
        for node in left:
            await node.ask("CLUSTER", "FORGET", name)
        for first, last in slots:
            await left[0].ask("CLUSTER", "ADDSLOTSRANGE", first, last)
        await cluster.agree(left)
        await rig.right()


async def move(
    slot: int, source: ClusterNode, target: ClusterNode, names: Sequence[str], others: Sequence[ClusterNode]
) -> None:
    """Move these keys of a slot; with the last of them the slot."""
    if names:
        await source.ask("MIGRATE", ports.HOST, target.port, "", 0, 5000, "REPLACE", "KEYS", *names)
    if not await source.ask("CLUSTER", "COUNTKEYSINSLOT", slot):
        for node in (target, source, *others):
            await node.ask("CLUSTER", "SETSLOT", slot, "NODE", await target.id())


def holder(cluster: Cluster, slot: int) -> ClusterNode:
    """The primary that was given a slot at the beginning."""
    return cluster.primaries[min(slot // (16_384 // len(cluster.primaries)), len(cluster.primaries) - 1)]


async def test_a_slot_that_moves_key_by_key_is_unavailable_until_it_has_moved(
    mongodb_url: str, tmp_path: Path
) -> None:
    async with (
        running_cluster(tmp_path / "redis") as cluster,
        rig_over(cluster.url, mongodb_url, tmp_path) as rig,
    ):
        root = keys.shard("PB-1")
        slot = _slot(keys.epoch(root))
        source = holder(cluster, slot)
        target, *others = [node for node in cluster.primaries if node is not source]
        await target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", await source.id())
        await source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", await target.id())
        names = [str(name) for name in await source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1000)]
        assert keys.epoch(root) in names
        half = [name for name in names if name.endswith((":heads", ":by:failures")) or "failures:PB" in name]
        await move(slot, source, target, half, others)
        told = asyncio.Event()
        load = asyncio.create_task(rig.keep_publishing(told))
        await rig.world.said("projection interrupted")
        # The rest of it moves while the bridge tries.
        for name in await source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1000):
            await move(slot, source, target, [str(name)], others)
        await move(slot, source, target, [], others)
        await rig.world.truth.has(len(rig.sent) + 2 * DEVICES)
        told.set()
        await load
        await rig.right()
        assert "rebuilding the projection" not in rig.world.log().split("projection interrupted")[-1]


@pytest.mark.skipif(valkey_server() is None, reason="there is no Valkey 9 for this kind of machine")
async def test_slots_that_move_whole_take_all_that_was_merged_with_them(
    mongodb_url: str, tmp_path: Path
) -> None:
    """Valkey 9 moves them so, under load: the bridge goes where they are, and nothing is built anew."""
    async with (
        running_cluster(tmp_path / "valkey", node=ValkeyNode) as cluster,
        rig_over(cluster.url, mongodb_url, tmp_path) as rig,
    ):
        told = asyncio.Event()
        load = asyncio.create_task(rig.keep_publishing(told))
        await rig.world.truth.has(4 * DEVICES)
        source, target, *_ = cluster.primaries
        await source.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", 0, 2047, "NODE", await target.id())

        async def moved() -> bool:
            held = await target.ask("CLUSTER", "SLOTS")
            return any(first == 0 and primary[1] == target.port for first, _, primary, *_ in held)

        await until(moved)
        await rig.world.said("projection interrupted")
        await rig.world.truth.has(len(rig.sent) + 2 * DEVICES)
        told.set()
        await load
        await rig.right()
        assert "rebuilding the projection" not in rig.world.log().split("projection interrupted", 1)[1]


async def test_a_node_that_forgot_its_scripts_is_given_them_again(mongodb_url: str, tmp_path: Path) -> None:
    async with (
        running_cluster(tmp_path / "redis") as cluster,
        rig_over(cluster.url, mongodb_url, tmp_path) as rig,
    ):
        await cluster.primaries[1].ask("SCRIPT", "FLUSH")
        await rig.publish(2)
        await rig.right()
        assert "projection interrupted" not in rig.world.log()


async def test_no_sentinel_that_answers_is_unavailable(tmp_path: Path) -> None:
    async with running_watched(tmp_path / "redis", replicas=0, sentinels=1) as watched:
        [sentinel] = watched.sentinels
        await sentinel.kill()
        store = RedisProjection.connect(watched.url)
        try:
            await store.ping()
        except RedisUnavailable as error:
            assert "nobody says who holds what" in str(error)  # noqa: PT017 - the store is to be closed
        else:
            raise AssertionError
        finally:
            await store.close()
