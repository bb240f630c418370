"""What the pages of an api replica keep between requests; none of it is needed to answer right."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from api.pages.streams import Streams
from pisync.errors import Part

Value = TypeVar("Value")


class _Kept(NamedTuple):
    key: object
    value: Any
    until_s: float


class Recent:
    """What was told a short while ago, asked once for all pages that want it at the same time."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def get(
        self, name: str, age_s: float, ask: Callable[[], Awaitable[Value]], *, key: object = None
    ) -> Value:
        """What is told under this name, not older than that, and asked with an equal key."""
        loop = asyncio.get_running_loop()
        async with self._locks[name]:
            kept = self._kept.get(name)
            if kept is not None and kept.key == key and loop.time() < kept.until_s:
                found: Value = kept.value
                return found
            value = await ask()
            self._kept[name] = _Kept(key, value, loop.time() + age_s)
            return value


class PageState:
    """Since when each part that is away is known to be, what was told recently, and the streams of ticks."""

    def __init__(self) -> None:
        self.away_since: dict[Part, datetime] = {}
        self.recent = Recent()
        self.streams = Streams()
