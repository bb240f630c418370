"""The connections to Redis that its stores share, and the driver's errors in the words of our tree.

Redis may be several processes (`topology.py`): every shard lies in one of them, and what is asked of several
shards goes to all of their processes at once.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot

from pisync import limits
from pisync.errors import ConfigurationError, ProjectionLost, RedisUnavailable
from pisync.stores.redis.address import check_redis_url
from pisync.stores.redis.topology import Slots, topology_of

# Of how many keys the slot is remembered: those of the shards, and some more.
_KEYS_REMEMBERED: Final = 1024


class Node:
    """One Redis process, and the life of it that we stick to, if we do."""

    def __init__(self, url: str) -> None:
        """Prepare; connects on first use."""
        self.client = Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=limits.REDIS_SOCKET_TIMEOUT_S,
            socket_connect_timeout=limits.REDIS_SOCKET_TIMEOUT_S,
            client_name="pisync",
            # Once, at once, on a new connection: after a restart of Redis all those in the pool are dead, and
            # only using one shows it. Everything that is asked may be asked twice. Beyond that the callers
            # retry: they know what must not be acknowledged meanwhile.
            retry=Retry(NoBackoff(), 1, supported_errors=(exceptions.ConnectionError,)),
            redis_connect_func=self._on_connect,
        )
        self._is_pinned = False
        self._run_id = ""

    async def pin(self) -> None:
        """Connect anew, and from then on to this process alone."""
        self._is_pinned, self._run_id = True, ""
        await self.client.connection_pool.disconnect()

    async def _on_connect(self, connection: Any) -> None:
        try:
            await connection.on_connect()
            if not self._is_pinned:
                return
            await connection.send_command("INFO", "server")
            answer = await connection.read_response()
        except exceptions.ResponseError as error:
            # A refusal of the connection, and not of the command that it was made for.
            raise exceptions.ConnectionError(str(error)) from error
        facts = dict(line.split(":", 1) for line in answer.splitlines() if ":" in line)
        self._run_id = self._run_id or facts["run_id"]
        if facts["run_id"] != self._run_id:
            raise exceptions.ConnectionError("it was restarted")


class FanOut:
    """Commands for several nodes, sent to all of them at once, in one round trip.

    commands = await connection.fan_out()
    commands.at(key).get(key)        # one command each time
    [reply] = await commands.execute()
    """

    def __init__(self, connection: "RedisConnection") -> None:
        self._connection = connection
        self._pipelines: dict[Node, Pipeline] = {}
        self._places: list[Node] = []

    def at(self, key: str) -> Pipeline:
        """The pipeline of the node that holds a key, for one command."""
        return self.on(self._connection.node(key))

    def on(self, node: Node) -> Pipeline:
        """The pipeline of a node, for one command."""
        pipeline = self._pipelines.get(node)
        if pipeline is None:
            pipeline = self._pipelines[node] = node.client.pipeline(transaction=False)
        self._places.append(node)
        return pipeline

    @property
    def nodes(self) -> list[Node]:
        """The nodes that have a command so far."""
        return list(self._pipelines)

    async def execute(self, *, raise_on_error: bool = True) -> list[Any]:
        """The replies in the order of the commands; with `raise_on_error` the first error is raised.

        Where a node cannot be reached, that is raised once all the others have answered.
        """
        works = [pipeline.execute(raise_on_error=raise_on_error) for pipeline in self._pipelines.values()]
        try:
            if len(works) == 1:
                replies: list[Any] = await works[0]
                return replies
            found = await asyncio.gather(*works, return_exceptions=True)
            for outcome in found:
                if isinstance(outcome, BaseException):
                    raise outcome
        except (exceptions.RedisError, OSError):
            self._connection.doubt()
            raise
        iterators = {node: iter(each) for node, each in zip(self._pipelines, found, strict=True)}  # type: ignore[arg-type]
        return [next(iterators[node]) for node in self._places]


class RedisConnection:
    """Clients, which the stores in Redis share; they connect on first use."""

    def __init__(self, url: str) -> None:
        """Parse the URL.

        Raises:
            ConfigurationError: the URL cannot be understood.
        """
        try:
            check_redis_url(url)
        except ValueError as error:
            raise ConfigurationError(f"PISYNC_REDIS_URL: {error}") from None
        self._topology = topology_of(url)
        self._slots: Sequence[Slots] = ()
        self._read_at_s = 0.0
        self._reading = asyncio.Lock()
        self._nodes: dict[str, Node] = {}
        self._is_pinned = False

    async def fan_out(self) -> FanOut:
        """What takes commands for several nodes.

        Raises:
            RedisUnavailable: nobody says where the primaries are.
        """
        await self._know()
        return FanOut(self)

    async def at(self, key: str) -> Redis:
        """The client of the node that holds a key."""
        await self._know()
        return self.node(key).client

    async def nodes(self) -> list[Node]:
        """Every node that holds a slot, in the order of their slots."""
        await self._know()
        return [self._nodes[url] for url in dict.fromkeys(slots.url for slots in self._slots)]

    def node(self, key: str) -> Node:
        """The node that holds a key, as far as it was read.

        Raises:
            RedisUnavailable: no process holds it.
        """
        if len(self._slots) == 1:
            return self._nodes[self._slots[0].url]
        slot = _slot(key)
        for first, last, url in self._slots:
            if first <= slot <= last:
                return self._nodes[url]
        raise RedisUnavailable(f"no node of the cluster holds slot {slot}")

    async def pin(self) -> None:
        """Find the primaries and connect to them anew, and from then on to these processes alone.

        Another process at the same address may have lost what this one was given, and one that holds a shard
        now may lack what another was given: all that fails until `pin` is called again.
        """
        self._is_pinned = True
        await self._read()
        with map_driver_errors():
            for node in await self.nodes():
                await node.pin()

    async def check(self) -> None:
        """Look whether the primaries are those that we are pinned to.

        Raises:
            ProjectionLost: others are.
            RedisUnavailable: nobody says where they are.
        """
        if self._topology.changes and time.monotonic() - self._read_at_s > limits.REDIS_TOPOLOGY_YOUNG_S:
            with map_driver_errors():
                slots = await self._topology.read()
            if slots != self._slots:
                raise ProjectionLost("other processes hold it now")
            self._read_at_s = time.monotonic()

    def doubt(self) -> None:
        """Read where the primaries are before anything else is asked, unless we stick to those we know."""
        self._read_at_s = 0.0

    async def _know(self) -> None:
        """Know where the primaries are; who is pinned goes by what it found then."""
        if not self._slots:
            await self._read()
        elif not self._is_pinned and self._topology.changes:
            async with self._reading:
                if time.monotonic() - self._read_at_s > limits.REDIS_TOPOLOGY_YOUNG_S:
                    await self._read()

    async def _read(self) -> None:
        with map_driver_errors():
            self._slots = await self._topology.read()
        self._read_at_s = time.monotonic()
        held = {slots.url for slots in self._slots}
        for url in held - self._nodes.keys():
            self._nodes[url] = Node(url)
        for url in self._nodes.keys() - held:
            await self._nodes.pop(url).client.aclose()

    async def close(self) -> None:
        """Close the connections."""
        await self._topology.close()
        for node in self._nodes.values():
            await node.client.aclose()


@lru_cache(maxsize=_KEYS_REMEMBERED)
def _slot(key: str) -> int:
    slot: int = key_slot(key.encode())
    return slot


def run_ids(infos: Mapping[Node, Mapping[str, Any]]) -> str:
    """Whose answers these are: the processes, and the history of each as it is replicated."""
    return " ".join(f"{info['run_id']} {info.get('master_replid')}" for info in infos.values())


@contextmanager
def map_driver_errors() -> Iterator[None]:
    """Driver errors become ours; every one may pass, for Redis holds nothing that cannot be made again."""
    try:
        yield
    except (exceptions.RedisError, OSError) as error:
        raise RedisUnavailable(f"{str(error)[:300]}") from error
