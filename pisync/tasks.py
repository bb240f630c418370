"""Ending a background task for certain."""

import asyncio
from typing import Any

from pisync.limits import CANCEL_AGAIN_S


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel the task until it has ended; raises what it ended with, unless that is the cancellation.

    Once is not enough: before Python 3.12 `asyncio.wait_for`, which aiomqtt awaits in, loses a cancellation
    that comes together with its result (cpython gh-86296).
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_AGAIN_S)
    if not task.cancelled():
        task.result()
