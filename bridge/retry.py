"""Repeats a step until the store that it needs is there."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from pisync import backoff, logs
from pisync.errors import Part, Unavailable

log = logs.get(__name__)
T = TypeVar("T")


class RetryCounter(Protocol):
    """Where retries are counted; the bridge's metrics are one such place."""

    def store_unavailable(self, part: Part) -> None:
        """Count that a step failed because a store was unavailable, and will be tried again."""


async def until_available(step: Callable[[], Awaitable[T]], retries: RetryCounter | None = None) -> T:
    """The result of a step, which must be safe to repeat; says in the log why it waits, and counts it."""
    delays = backoff.delays()
    while True:
        try:
            return await step()
        except Unavailable as error:
            if retries is not None:
                retries.store_unavailable(error.part)
            delay_s = next(delays)
            log.warning(
                "store unavailable", store=error.part.label, why=str(error), retry_in_s=round(delay_s, 2)
            )
            await asyncio.sleep(delay_s)
