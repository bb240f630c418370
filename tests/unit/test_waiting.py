"""The tests' own waiting: a condition of either kind, and a limit that names what did not come."""

import asyncio
from itertools import count

import pytest

from tests.support.waiting import until


async def test_a_function_is_looked_at_until_it_is_true() -> None:
    numbers = count()
    await until(lambda: next(numbers) == 1100)
    assert next(numbers) == 1101


async def test_a_coroutine_function_is_looked_at_until_it_is_true() -> None:
    numbers = count()

    async def is_three() -> bool:
        await asyncio.sleep(0)
        return next(numbers) == 3

    await until(is_three)
    assert next(numbers) == 4


async def test_other_tasks_run_between_two_looks() -> None:
    ended = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(until(ended.is_set))
        group.create_task(asyncio.to_thread(asyncio.get_running_loop().call_soon_threadsafe, ended.set))


async def test_the_limit_names_the_condition_and_its_variables() -> None:
    wanted = "connected"
    with pytest.raises(AssertionError) as raised:
        await until(lambda: wanted == "gone", timeout_s=0.01)
    assert 'within 0.01 s this did not become true: await until(lambda: wanted == "gone"' in str(raised.value)
    assert "wanted='connected'" in str(raised.value)


async def test_the_limit_holds_for_a_condition_that_hangs() -> None:
    async def hangs() -> bool:
        await asyncio.Event().wait()
        return True

    with pytest.raises(AssertionError, match=r"async def hangs\(\)"):
        await until(hangs, timeout_s=0.01)


async def test_an_error_of_the_condition_is_its_own() -> None:
    async def times_out() -> bool:
        raise TimeoutError("the driver's")

    with pytest.raises(TimeoutError, match="the driver's"):
        await until(times_out)
