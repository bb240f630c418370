"""Whether Redis may remove keys by itself: nothing in the projection may go missing one key at a time."""

from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis

from pisync.errors import ProjectionLost, RedisUnavailable
from pisync.stores.redis.connection import map_driver_errors
from pisync.stores.redis.keys import EVICTED


class Evictions:
    """Refuses a Redis that may evict keys, and notices one that did since the projection was begun."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._known = 0

    async def info(self) -> Mapping[str, Any]:
        """What Redis says of itself."""
        with map_driver_errors():
            found: Mapping[str, Any] = await self._client.info()
            return found

    async def look(self, info: Mapping[str, Any]) -> bool:
        """Whether keys were evicted since the projection was begun, by what Redis says of itself now.

        Raises:
            RedisUnavailable: Redis may evict keys at any time, so that nothing is given to it.
        """
        with map_driver_errors():
            known = await self._client.hget(EVICTED, info["run_id"])
        _refuse(info)
        self._known = int(known or 0)
        return int(info["evicted_keys"]) > self._known

    async def begin(self) -> None:
        """Count from now on: everything is merged anew."""
        info = await self.info()
        with map_driver_errors():
            self._known = int(info["evicted_keys"])
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.delete(EVICTED)
                pipeline.hset(EVICTED, info["run_id"], self._known)
                await pipeline.execute()

    def check(self, info: Mapping[str, Any]) -> None:
        """Look once more, at what INFO says.

        Raises:
            RedisUnavailable: keys were evicted, or may be now.
        """
        _refuse(info)
        if int(info["evicted_keys"]) > self._known:
            raise ProjectionLost("it evicted keys")


def _refuse(info: Mapping[str, Any]) -> None:
    policy = info.get("maxmemory_policy", "noeviction")
    if int(info.get("maxmemory", 0)) > 0 and policy != "noeviction":
        raise RedisUnavailable(
            f"it may evict keys (maxmemory-policy {policy}), which would make answers wrong;"
            " set maxmemory-policy noeviction"
        )
