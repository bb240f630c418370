"""A bridge with a deliberate bug: it counts failures with INCRBY in place of the set's size."""

from typing import Any

from pisync.stores.redis import projection, scripts

SET = "local total = math.min(n, kept)"
COUNTER = "n = call('INCRBY', root .. ':count:' .. id, failures)\n  local total = n"


class CountingScript(scripts.Script):
    """The scripts, less the set."""

    def __init__(self, client: Any, name: str) -> None:
        super().__init__(client, name)
        if name == "merge_states.lua":
            if SET not in self._source:
                raise RuntimeError(f"merge_states.lua no longer has the line that this bug replaces: {SET}")
            self._source = self._source.replace(SET, COUNTER)


projection.Script = CountingScript  # type: ignore[assignment,attr-defined]
