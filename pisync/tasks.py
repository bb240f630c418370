"""Ending background tasks for certain."""

import asyncio
from collections.abc import Sequence
from typing import Any

from pisync.limits import CANCEL_AGAIN_S


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel the tasks until they have ended; raises what the first ended with, unless a cancellation.

    Once is not enough: a cancellation that comes together with the result of an awaited call can be lost
    inside a driver (before Python 3.12 in `asyncio.wait_for` itself, cpython gh-86296).
    """
    await cancel(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


async def cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel the tasks until they have ended, however they end."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
