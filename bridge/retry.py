"""Repeats a step until the store that it needs is there."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pisync import backoff, logs
from pisync.errors import Unavailable

log = logs.get(__name__)
T = TypeVar("T")


async def until_available(store: str, step: Callable[[], Awaitable[T]]) -> T:
    """The result of a step, which must be safe to repeat; says in the log why it waits."""
    delays = backoff.delays()
    while True:
        try:
            return await step()
        except Unavailable as error:
            delay_s = next(delays)
            log.warning("store away", store=store, why=str(error), retry_in_s=round(delay_s, 2))
            await asyncio.sleep(delay_s)
