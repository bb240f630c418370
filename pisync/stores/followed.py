"""What a store tells, asked again and again, so that whoever needs it has it at once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from pisync import logs
from pisync.errors import MongodbUnavailable

log = logs.get(__name__)

Value = TypeVar("Value")


class Followed(Generic[Value]):
    """What was told last, as of so many seconds ago at most."""

    def __init__(
        self, ask: Callable[[], Awaitable[Value]], *, what: str, interval_s: float, young_s: float
    ) -> None:
        """Prepare; nothing is asked yet.

        Args:
            ask: asks the store; raises `MongodbUnavailable`.
            what: is told, for the log.
            interval_s: how long a pause is between two times.
            young_s: how old it may be.
        """
        self._ask = ask
        self._what = what
        self._interval_s = interval_s
        self._young_s = young_s
        self._told: Value | None = None
        self._asked_at: float | None = None

    def __call__(self) -> Value | None:
        """What was told, or None where the store has not answered for too long."""
        now = asyncio.get_running_loop().time()
        if self._asked_at is None or now - self._asked_at > self._young_s:
            return None
        return self._told

    async def refresh(self) -> None:
        """Ask the store.

        Raises:
            MongodbUnavailable: MongoDB is unavailable; what was known grows old.
        """
        asked_at = asyncio.get_running_loop().time()
        self._told = await self._ask()
        self._asked_at = asked_at

    async def run(self) -> None:
        """Ask again and again, until cancelled."""
        while True:
            try:
                await self.refresh()
            except MongodbUnavailable as error:
                log.debug("not told", what=self._what, why=str(error))
            await asyncio.sleep(self._interval_s)
