"""Ending a task that does not heed its first cancellation."""

import asyncio

import pytest

from pisync import tasks


async def test_a_lost_cancellation_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CANCEL_AGAIN_S", 0.01)
    lost = 0

    async def deaf() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                lost += 1
                if lost == 3:
                    raise

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    await tasks.end(task)
    assert task.cancelled()
    assert lost == 3


async def test_what_it_ended_with_is_raised() -> None:
    async def broken() -> None:
        raise RuntimeError("on its own")

    task = asyncio.create_task(broken())
    await asyncio.wait({task})
    with pytest.raises(RuntimeError, match="on its own"):
        await tasks.end(task)


async def test_a_result_is_no_error() -> None:
    async def finished() -> None:
        return

    task = asyncio.create_task(finished())
    await asyncio.wait({task})
    await tasks.end(task)
