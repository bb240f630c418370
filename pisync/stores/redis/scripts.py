"""Lua scripts in Redis: how they are called, and which of their errors pass."""

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from typing import Any, Final

from redis import exceptions
from redis.client import NEVER_DECODE

from pisync.errors import ProjectionLost, RedisUnavailable
from pisync.stores.redis.connection import FanOut, Node, RedisConnection, map_driver_errors
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
# More that have no word of their own: an operator's SCRIPT KILL, a permission that is lacking, and a part of
# a shard that has moved to another node, or is about to.
_INSIDE_LUA: Final = re.compile(r"^(?:ERR )?Error running script .*: -(?P<code>[A-Z]+) ", re.DOTALL)
_PASSING_TEXTS: Final = (
    "Script killed by user",
    "The user executing the script can't run this command",
    "attempted to access a non local key in a cluster node",
)


class Replies(list[Any]):
    """The replies of a script in the order of its calls; `infos`: what each node said to INFO, if asked."""

    infos: Mapping[Node, Mapping[str, Any]]

    def __init__(self, replies: Sequence[Any], infos: Mapping[Node, Mapping[str, Any]]) -> None:
        super().__init__(replies)
        self.infos = infos


class Script:
    """A Lua script, called by its digest on several shards in one round trip."""

    def __init__(self, connection: RedisConnection, name: str) -> None:
        self._connection = connection
        self._name = name
        self._source = resources.files(__package__).joinpath("lua", name).read_text()
        self._digest = ""

    async def call(
        self,
        calls: Calls,
        *,
        also: tuple[str, Sequence[Argument]] | None = None,
        info: bool = False,
        raw: bool = False,
    ) -> Replies:
        """The replies in the order of the calls, then that to one more command that is sent along.

        Repeating a call is harmless, and so is a partial one.

        Args:
            calls: the root of a shard and the arguments, for each call.
            also: the other command, behind the key that says where it goes.
            info: ask every node that is called for INFO.
            raw: strings in the scripts' replies are bytes.

        Raises:
            ProjectionLost: the projection is not the one that the caller is attached to.
            RedisUnavailable: Redis cannot be reached, or refuses for now.
            redis.exceptions.ResponseError: the script has a defect, or a key has a type that it never makes.
                Repeating the call cannot help: this is none of our errors, and ends the process.
        """
        if not calls:
            return Replies([], {})
        if not self._digest:
            self._digest = hashlib.sha1(self._source.encode(), usedforsecurity=False).hexdigest()
        options = {NEVER_DECODE: True} if raw else {}
        with map_driver_errors():
            try:
                replies = await self._execute(calls, also, options, info=info)
                if any(isinstance(reply, exceptions.NoScriptError) for reply in replies):
                    # A node that does not know it yet, was restarted, or whose scripts were flushed.
                    await self._load(calls)
                    replies = await self._execute(calls, also, options, info=info)
            except exceptions.ResponseError as error:  # the script cannot be loaded
                replies = Replies([error], {})
        for reply in (*replies, *replies.infos.values()):
            if isinstance(reply, exceptions.ResponseError):
                raise self._meaning(reply)
        return replies

    async def _load(self, calls: Calls) -> None:
        loading = await self._connection.fan_out()
        for node in dict.fromkeys(self._connection.node(epoch(root)) for root, _ in calls):
            loading.on(node).script_load(self._source)
        await loading.execute()

    async def _execute(
        self,
        calls: Calls,
        also: tuple[str, Sequence[Argument]] | None,
        options: dict[str, bool],
        *,
        info: bool,
    ) -> Replies:
        commands: FanOut = await self._connection.fan_out()
        for root, arguments in calls:
            key = epoch(root)
            commands.at(key).execute_command("EVALSHA", self._digest, 1, key, *arguments, **options)
        nodes = commands.nodes if info else []
        if also is not None:
            key, command = also
            commands.at(key).execute_command(*command)
        for node in nodes:
            commands.on(node).info()
        replies = await commands.execute(raise_on_error=False)
        told = len(replies) - len(nodes)
        return Replies(replies[:told], dict(zip(nodes, replies[told:], strict=True)))

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
        is_redirect = isinstance(error, exceptions.MovedError | exceptions.AskError)
        if is_redirect or code in _PASSING or any(passing in text for passing in _PASSING_TEXTS):
            return RedisUnavailable(f"{code} {text}"[:300])
        error.add_note(f"in {self._name}")
        return error
