"""Wait for what other tasks, threads or processes bring about; the one place where tests do so by looking."""

import asyncio
import inspect
from collections.abc import Callable
from itertools import count
from typing import Final

TIMEOUT_S: Final = 60.0
ANSWER_S: Final = 30.0
"""For how long a program that begins, or has nothing else to do, may owe an answer: machines are busy."""
LOOK_INTERVAL_S: Final = 0.02
LOOKS_AT_ONCE: Final = 1000
"""Looks at a function that follow one another without a pause; other tasks run between them."""
_TEXT_MAX: Final = 300


async def until(condition: Callable[[], object], *, timeout_s: float = TIMEOUT_S) -> None:
    """Wait for a condition, a function or a coroutine function, to be true.

    Raises:
        AssertionError: it was not within the time; the message has the condition's source and its variables.
    """
    try:
        async with asyncio.timeout(timeout_s) as limit:
            for look in count():
                result = condition()
                in_process = not inspect.isawaitable(result)
                if inspect.isawaitable(result):
                    result = await result
                if result:
                    return
                await asyncio.sleep(0 if in_process and look < LOOKS_AT_ONCE else LOOK_INTERVAL_S)
    except TimeoutError:
        if not limit.expired():
            raise
    raise AssertionError(f"within {timeout_s:g} s this did not become true: {_text(condition)}")


def _text(condition: Callable[[], object]) -> str:
    try:
        source = " ".join(inspect.getsource(condition).split())
        variables = inspect.getclosurevars(condition).nonlocals
    except (OSError, TypeError):  # no function with a source
        return repr(condition)
    values = ", ".join(f"{name}={value!r}"[:_TEXT_MAX] for name, value in variables.items())
    return f"{source[:_TEXT_MAX]}{f' with {values}' if values else ''}"
