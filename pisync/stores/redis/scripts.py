"""Lua scripts in Redis, and the driver's errors in the words of our tree."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from typing import Any

from redis import exceptions
from redis.asyncio import Redis

from pisync.errors import ProjectionLost, RedisUnavailable

Argument = str | bytes | int


class Script:
    """A Lua script, called by its digest on several shards in one round trip."""

    def __init__(self, client: Redis, name: str) -> None:
        self._client = client
        self._source = resources.files(__package__).joinpath("lua", name).read_text()
        self._digest = ""

    async def call(
        self, calls: Mapping[str, Sequence[Argument]], *, also: Sequence[Argument] = ()
    ) -> list[list[Any]]:
        """The replies in the order of the shards, then that to one more command that is sent along.

        Repeating a call is harmless, and so is a partial one.
        """
        if not calls:
            return []
        with map_driver_errors():
            if not self._digest:
                self._digest = await self._client.script_load(self._source)
            try:
                return await self._execute(calls, also)
            except exceptions.NoScriptError:  # Redis was restarted, or its scripts flushed
                await self._client.script_load(self._source)
                return await self._execute(calls, also)

    async def _execute(
        self, calls: Mapping[str, Sequence[Argument]], also: Sequence[Argument]
    ) -> list[list[Any]]:
        async with self._client.pipeline(transaction=False) as pipeline:
            for key, arguments in calls.items():
                pipeline.evalsha(self._digest, 1, key, *arguments)
            if also:
                pipeline.execute_command(*also)
            replies: list[list[Any]] = await pipeline.execute()
            return replies


@contextmanager
def map_driver_errors() -> Iterator[None]:
    """Driver errors become ours; every one may pass, for Redis holds nothing that cannot be made again."""
    try:
        yield
    except exceptions.ResponseError as error:
        if "LOST the projection" in str(error):  # behind words of the driver's where it was in a pipeline
            raise ProjectionLost("it does not hold the projection that we were attached to") from None
        raise RedisUnavailable(f"{str(error)[:300]}") from error
    except (exceptions.RedisError, OSError) as error:
        raise RedisUnavailable(f"{str(error)[:300]}") from error
