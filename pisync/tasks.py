"""Tasks that run together, and their certain end."""

import asyncio
from collections.abc import AsyncIterator, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pisync.limits import CANCEL_AGAIN_S


class Supervised:
    """Named tasks that run together."""

    def __init__(self, tasks: Mapping[str, asyncio.Task[Any]]) -> None:
        self._tasks = tasks

    async def until(self, stop: asyncio.Event) -> None:
        """Return once `stop` is set or the first task has ended.

        Raises:
            BaseException: what a task failed with.
            RuntimeError: a task was cancelled, and not by us: a driver's stray cancellation is no clean end.
        """
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait({stopping, *self._tasks.values()}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        self.raise_failure()
        for name, task in self._tasks.items():
            if task.done() and task.cancelled():
                # Nobody cancelled it on purpose: that happens at the end, after this.
                raise RuntimeError(f"the task {name!r} was cancelled from within")

    async def ended(self, name: str) -> None:
        """Return once this task has ended, in whatever way."""
        await asyncio.wait({self._tasks[name]})

    def raise_failure(self) -> None:
        """Raise what the first of the tasks that failed, in their order, failed with."""
        for task in self._tasks.values():
            if task.done() and not task.cancelled():
                task.result()


@asynccontextmanager
async def supervise(
    works: Mapping[str, Coroutine[Any, Any, object]], *, children: Collection[asyncio.Task[Any]] = ()
) -> AsyncIterator[Supervised]:
    """Run the works as tasks of these names, beside the body; whatever still runs at its end is cancelled.

    Args:
        works: the work of each task.
        children: tasks that the works made for themselves, a collection that they keep up to date. They are
            cancelled together with the works, should these wait for them.

    Raises:
        BaseException: what a task failed with before the end, even where the body ended without an error, or
            with one that followed from it.
    """
    tasks = {name: asyncio.create_task(work, name=name) for name, work in works.items()}
    supervised = Supervised(tasks)
    try:
        yield supervised
    finally:
        try:
            supervised.raise_failure()
        finally:
            await cancel([*tasks.values(), *children])


async def cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel the tasks until they have ended, however they end.

    Once is not enough: a cancellation that comes together with the result of an awaited call can be lost
    inside a driver (before Python 3.12 in `asyncio.wait_for` itself, cpython gh-86296).
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
