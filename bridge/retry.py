"""Repeats a step until the store that it needs is there."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from bridge.metrics import Metrics
from pisync import backoff, logs
from pisync.errors import Unavailable

log = logs.get(__name__)
T = TypeVar("T")


async def until_available(step: Callable[[], Awaitable[T]], metrics: Metrics | None = None) -> T:
    """The result of a step, which must be safe to repeat; says in the log why it waits, and counts it."""
    delays = backoff.delays()
    while True:
        try:
            return await step()
        except Unavailable as error:
            if metrics is not None:
                metrics.store_unavailable(error.part)
            delay_s = next(delays)
            log.warning(
                "store unavailable", store=error.part.label, why=str(error), retry_in_s=round(delay_s, 2)
            )
            await asyncio.sleep(delay_s)
