"""What tests ask of Redis beneath a projection, wherever the keys are: in one process, or in several."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from redis.asyncio import Redis

from pisync.stores.redis.reader import RedisProjectionReader

# What is for every process, and names no key.
_EVERYWHERE: Final = frozenset(
    {"config_resetstat", "config_set", "flushall", "replicaof", "script_flush", "script_kill"}
)


class RedisKeys:
    """The commands of a client, each sent to the processes that it is for."""

    def __init__(self, store: RedisProjectionReader) -> None:
        self._connection = store._connection

    async def clients(self) -> list[Redis]:
        """Of every process."""
        return [node.client for node in await self._connection.nodes()]

    async def delete(self, *names: str) -> int:
        """Delete keys; how many there were."""
        return sum([await (await self._connection.at(name)).delete(name) for name in names])

    async def keys(self, pattern: str = "*") -> list[str]:
        """The keys of all processes."""
        return [str(key) for client in await self.clients() for key in await client.keys(pattern)]

    async def scan_iter(self) -> AsyncIterator[str]:
        """The same, one after the other."""
        for key in await self.keys():
            yield key

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        """Any other command: at the key that it names first, or in every process."""

        async def command(*arguments: Any, **options: Any) -> Any:
            if name in _EVERYWHERE:
                return [await getattr(client, name)(*arguments, **options) for client in await self.clients()]
            key = arguments[name == "execute_command"] if arguments else "pisync"
            return await getattr(await self._connection.at(str(key)), name)(*arguments, **options)

        return command


def redis_of(store: RedisProjectionReader) -> RedisKeys:
    """What is beneath a projection in Redis."""
    return RedisKeys(store)
