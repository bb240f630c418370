"""Tasks that run together, and ending one that does not heed its first cancellation."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pisync import tasks
from pisync.tasks import supervise


class Work:
    """What a supervised task does, and how it ended."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.goes_on = asyncio.Event()
        self.cancelled = 0

    async def run(self, error: Exception | None = None) -> None:
        self.began.set()
        try:
            await self.goes_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if error is not None:
            raise error


class Deaf:
    """Work that loses its first cancellations."""

    def __init__(self, heeds: int) -> None:
        self._heeds = heeds
        self.began = asyncio.Event()
        self.cancelled = 0

    async def run(self) -> None:
        self.began.set()
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                if self.cancelled == self._heeds:
                    raise


async def test_works_run_until_told_to_stop_and_through_the_body() -> None:
    works, stop = {name: Work() for name in ("one", "two")}, asyncio.Event()
    async with supervise({name: work.run() for name, work in works.items()}) as running:
        for work in works.values():
            await work.began.wait()
        assert {"one", "two"} <= {task.get_name() for task in asyncio.all_tasks()}
        stop.set()
        await running.until(stop)
        assert [work.cancelled for work in works.values()] == [0, 0]
    assert [work.cancelled for work in works.values()] == [1, 1]


async def test_the_first_that_ends_ends_the_waiting() -> None:
    one, two = Work(), Work()
    async with supervise({"one": one.run(), "two": two.run()}) as running:
        one.goes_on.set()
        await running.until(asyncio.Event())
        await running.ended("one")
        assert not two.cancelled
    assert (one.cancelled, two.cancelled) == (0, 1)


async def test_a_failure_brings_its_reason_out_and_ends_the_others() -> None:
    one, two = Work(), Work()
    body_went_on, fails = False, pytest.raises(RuntimeError, match="on its own")
    with fails:
        async with supervise({"one": one.run(), "two": two.run(RuntimeError("on its own"))}) as running:
            two.goes_on.set()
            await running.until(asyncio.Event())
            body_went_on = True
    assert one.cancelled == 1
    assert not body_went_on


async def _nothing() -> None:
    """The body ends without an error."""


async def _consequence() -> None:
    raise TimeoutError("could not finish what was in flight")


@pytest.mark.parametrize("rest_of_body", [_nothing, _consequence])
async def test_a_failure_while_the_body_ends_is_the_reason(
    rest_of_body: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    one, two, stop = Work(), Work(), asyncio.Event()
    stop.set()
    fails = pytest.raises(RuntimeError, match="on its own")
    with fails:
        async with supervise({"one": one.run(RuntimeError("on its own")), "two": two.run()}) as running:
            await running.until(stop)
            one.goes_on.set()
            await running.ended("one")
            await rest_of_body()
    assert two.cancelled == 1


async def test_an_error_of_the_body_ends_them_all() -> None:
    one, fails = Work(), pytest.raises(TimeoutError)
    with fails:
        async with supervise({"one": one.run()}):
            await one.began.wait()
            await _consequence()
    assert one.cancelled == 1


async def test_waiting_for_one_does_not_cancel_it() -> None:
    one = Work()
    async with supervise({"one": one.run()}) as running:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await running.ended("one")
        assert not one.cancelled


async def test_a_child_is_cancelled_with_the_work_that_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task group cancels its tasks once; one that does not heed it would keep its group for ever."""
    monkeypatch.setattr(tasks, "CANCEL_AGAIN_S", 0.01)
    children: set[asyncio.Task[None]] = set()
    child = Deaf(heeds=3)

    async def parent() -> None:
        async with asyncio.TaskGroup() as group:
            children.add(group.create_task(child.run()))

    async with supervise({"parent": parent()}, children=children):
        await child.began.wait()
    assert child.cancelled == 3


async def test_a_lost_cancellation_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CANCEL_AGAIN_S", 0.01)
    deaf = Deaf(heeds=3)
    task = asyncio.create_task(deaf.run())
    await deaf.began.wait()
    await tasks.cancel([task])
    assert task.cancelled()
    assert deaf.cancelled == 3


async def test_a_stray_cancellation_is_no_clean_end() -> None:
    cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    cancelled.cancel()

    async def work() -> None:
        await cancelled

    with pytest.raises(RuntimeError, match="'strays' was cancelled"):
        async with supervise({"strays": work(), "waits": asyncio.Event().wait()}) as running:
            await running.until(asyncio.Event())
