"""Whether Redis may remove keys by itself: nothing in the projection may go missing one key at a time."""

from collections.abc import Mapping
from typing import Any

from pisync.errors import ProjectionLost, RedisUnavailable
from pisync.stores.redis.connection import Node, RedisConnection, map_driver_errors
from pisync.stores.redis.keys import EVICTED

Infos = Mapping[Node, Mapping[str, Any]]
"""What each node says of itself."""


class Evictions:
    """Refuses a Redis that may evict keys, and notices one that did since the projection was begun."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._known: dict[str, int] = {}

    async def infos(self) -> Infos:
        """What each node says of itself."""
        commands = await self._connection.fan_out()
        nodes = await self._connection.nodes()
        for node in nodes:
            commands.on(node).info()
        with map_driver_errors():
            return dict(zip(nodes, await commands.execute(), strict=True))

    async def look(self, infos: Infos) -> bool:
        """Whether keys were evicted since the projection was begun, by what Redis says of itself now.

        Raises:
            RedisUnavailable: Redis may evict keys at any time, so that nothing is given to it.
        """
        client = await self._connection.at(EVICTED)
        with map_driver_errors():
            known = await client.hgetall(EVICTED)
        for info in infos.values():
            _refuse(info)
        self._known = {info["run_id"]: int(known.get(info["run_id"], 0)) for info in infos.values()}
        return self._have_evicted(infos)

    async def begin(self) -> None:
        """Count from now on: everything is merged anew."""
        infos = await self.infos()
        self._known = {info["run_id"]: int(info["evicted_keys"]) for info in infos.values()}
        client = await self._connection.at(EVICTED)
        with map_driver_errors():
            async with client.pipeline(transaction=True) as pipeline:
                pipeline.delete(EVICTED)
                for run_id, count in self._known.items():
                    pipeline.hset(EVICTED, run_id, count)
                await pipeline.execute()

    def check(self, infos: Infos) -> None:
        """Look once more, at what INFO says.

        Raises:
            RedisUnavailable: keys were evicted, or may be now.
        """
        for info in infos.values():
            _refuse(info)
        if self._have_evicted(infos):
            raise ProjectionLost("it evicted keys")

    def _have_evicted(self, infos: Infos) -> bool:
        return any(int(info["evicted_keys"]) > self._known.get(info["run_id"], 0) for info in infos.values())


def _refuse(info: Mapping[str, Any]) -> None:
    policy = info.get("maxmemory_policy", "noeviction")
    if int(info.get("maxmemory", 0)) > 0 and policy != "noeviction":
        raise RedisUnavailable(
            f"it may evict keys (maxmemory-policy {policy}), which would make answers wrong;"
            " set maxmemory-policy noeviction"
        )
