"""Lua scripts in Redis: how they are called, and which of their errors pass."""

import re
from collections.abc import Collection, Sequence
from importlib import resources
from typing import Any, Final

from redis import exceptions
from redis.asyncio import Redis
from redis.client import NEVER_DECODE

from pisync.errors import ProjectionLost, RedisUnavailable
from pisync.stores.redis.connection import map_driver_errors
from pisync.stores.redis.keys import epoch

Argument = str | bytes | int
# For each call of a script, the root of a shard and the arguments.
Calls = Collection[tuple[str, Sequence[Argument]]]
# What a script answers where the projection is not the one that the caller is attached to.
_LOST: Final = "LOST the projection"
# First words of errors that speak of Redis, its memory, its replicas, its cluster or our permissions, and not
# of the script. Redis 7.0 and later keep that word where a command inside a script fails; before, it stands
# in the middle of what Lua says.
_PASSING: Final = frozenset(
    {
        *("ASK", "BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "MOVED", "NOPERM", "NOREPLICAS"),
        *("NOSCRIPT", "OOM", "READONLY", "TRYAGAIN"),
    }
)
# Two more, which have no word of their own: an operator's SCRIPT KILL, and a permission that is lacking.
_INSIDE_LUA: Final = re.compile(r"^(?:ERR )?Error running script .*: -(?P<code>[A-Z]+) ", re.DOTALL)
_PASSING_TEXTS: Final = ("Script killed by user", "The user executing the script can't run this command")


class Script:
    """A Lua script, called by its digest on several shards in one round trip."""

    def __init__(self, client: Redis, name: str) -> None:
        self._client = client
        self._name = name
        self._source = resources.files(__package__).joinpath("lua", name).read_text()
        self._digest = ""

    async def call(self, calls: Calls, *, also: Sequence[Argument] = (), raw: bool = False) -> list[Any]:
        """The replies in the order of the calls, then that to one more command that is sent along.

        Repeating a call is harmless, and so is a partial one.

        Args:
            calls: the root of a shard and the arguments, for each call.
            also: the other command.
            raw: strings in the scripts' replies are bytes.

        Raises:
            ProjectionLost: the projection is not the one that the caller is attached to.
            RedisUnavailable: Redis cannot be reached, or refuses for now.
            redis.exceptions.ResponseError: the script has a defect, or a key has a type that it never makes.
                Repeating the call cannot help: this is none of our errors, and ends the process.
        """
        if not calls:
            return []
        with map_driver_errors():
            replies = await self._replies(calls, also, {NEVER_DECODE: True} if raw else {})
        for reply in replies:
            if isinstance(reply, exceptions.ResponseError):
                raise self._meaning(reply)
        return replies

    async def _replies(self, calls: Calls, also: Sequence[Argument], options: dict[str, bool]) -> list[Any]:
        """What Redis answers, errors among it."""
        try:
            if not self._digest:
                self._digest = await self._client.script_load(self._source)
            replies = await self._execute(calls, also, options)
            if any(isinstance(reply, exceptions.NoScriptError) for reply in replies):
                # Redis was restarted, or its scripts flushed.
                await self._client.script_load(self._source)
                replies = await self._execute(calls, also, options)
        except exceptions.ResponseError as error:  # the script cannot be loaded
            return [error]
        return replies

    async def _execute(self, calls: Calls, also: Sequence[Argument], options: dict[str, bool]) -> list[Any]:
        async with self._client.pipeline(transaction=False) as pipeline:
            for root, arguments in calls:
                pipeline.execute_command("EVALSHA", self._digest, 1, epoch(root), *arguments, **options)
            if also:
                pipeline.execute_command(*also)
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
            return replies

    def _meaning(self, error: exceptions.ResponseError) -> Exception:
        """An error of ours where it may pass; otherwise the error as it is."""
        text = str(error)
        if text.startswith(_LOST):
            return ProjectionLost("it does not hold the projection that we were attached to")
        # The driver takes the first word away where it knows it.
        code = error.status_code or text.partition(" ")[0]
        inside = _INSIDE_LUA.search(text)
        if inside is not None:
            code = inside["code"]
        if code in _PASSING or any(passing in text for passing in _PASSING_TEXTS):
            return RedisUnavailable(f"{code} {text}"[:300])
        error.add_note(f"in {self._name}")
        return error
