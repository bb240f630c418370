"""A mend of the driver: a call that is cancelled twice must not leave the client's lock taken for ever.

PyMongo 4 waits for a server with `asyncio.wait_for(condition.wait(), ...)`. Before Python 3.12 that runs in a
task of its own, and a second cancellation, or one that comes together with the time-out, leaves the task
behind: it takes the lock when nobody will release it. Every other call then waits for the lock, swallows its
own cancellations meanwhile, and the process cannot end.
"""

import asyncio
from typing import Any, Final

from pymongo.asynchronous import pool, topology

_WAITS: Final = "_async_cond_wait"


async def wait_on(condition: Any, timeout_s: float | None) -> bool:
    """What the driver's own does, in the caller's task: False where the time is over."""
    try:
        async with asyncio.timeout(timeout_s):
            return bool(await condition.wait())
    except TimeoutError:
        return False


def mend_driver() -> None:
    """Have the driver wait so; may be repeated."""
    for module in (pool, topology):
        setattr(module, _WAITS, wait_on)
