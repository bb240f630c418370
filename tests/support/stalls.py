"""Has the event loop of tests stand still at random, as on a machine that is busy with something else.

    .venv/bin/python -m pytest -p tests.support.stalls -n 6 tests/unit

What fails only with it depends on how fast this machine is. Programs that a test starts do not stand still.
"""

import asyncio
import random
import time
from collections.abc import Generator

import pytest

_Loop = asyncio.base_events.BaseEventLoop


class _Stalls:
    """Those that are left to the test that runs."""

    def __init__(self, config: pytest.Config) -> None:
        self._seed = config.getoption("stall_seed")
        self._seconds = config.getoption("stall_s")
        self._each = config.getoption("stalls")
        self._one_in = config.getoption("stall_one_in")
        self._random = random.Random()
        self._left = 0
        run_once = _Loop._run_once  # type: ignore[attr-defined]

        def run_once_or_later(loop: asyncio.AbstractEventLoop) -> None:
            if self._left and self._random.randrange(self._one_in) == 0:
                self._left -= 1
                time.sleep(self._seconds)
            run_once(loop)

        _Loop._run_once = run_once_or_later  # type: ignore[attr-defined]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None]:
        self._random.seed(f"{self._seed} {item.nodeid}")
        self._left = self._each
        try:
            return (yield)
        finally:
            self._left = 0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of this plugin."""
    group = parser.getgroup("stalls")
    group.addoption("--stall-s", type=float, default=1.0, help="how long each is, in seconds")
    group.addoption("--stalls", type=int, default=2, help="how many a test has at most")
    group.addoption(
        "--stall-one-in", type=int, default=50, help="how many rounds of the loop there is one in"
    )
    group.addoption("--stall-seed", default="1", help="another one stalls elsewhere")


def pytest_configure(config: pytest.Config) -> None:
    """Begin."""
    config.pluginmanager.register(_Stalls(config))
