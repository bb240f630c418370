"""A bridge with a deliberate bug: it counts failures with INCRBY in place of the set's size."""

from typing import Any

from bridge.command import bridge
from pisync.stores import redis, redis_scripts

SET = "call('ZCARD', failures)"
COUNTER = "call('INCRBY', root .. ':count:' .. id, #failed)"


class CountingScript(redis_scripts.Script):
    """The scripts, less the set."""

    def __init__(self, client: Any, name: str) -> None:
        super().__init__(client, name)
        if name == "apply.lua":
            if SET not in self._source:
                raise RuntimeError(f"apply.lua no longer has the line that this bug replaces: {SET}")
            self._source = self._source.replace(SET, COUNTER)


redis.Script = CountingScript  # type: ignore[attr-defined]
bridge()
