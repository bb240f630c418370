"""Redis's clock as far as it is known here: what it said last, and how long ago that was.

A command may reach Redis long after it was sent, so what it says of now has to name its now by Redis's clock.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any


class ServerClock:
    """Never ahead of Redis's clock, unless that was set back; behind it by as much as an answer took."""

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._ahead_ms: float | None = None

    def read(self, info: Mapping[str, Any]) -> None:
        """Take what INFO says; a Redis that does not tell the time leaves it unknown."""
        said = info.get("server_time_usec")
        self._ahead_ms = None if said is None else int(said) / 1000 - self._monotonic_s() * 1000

    def now_ms(self) -> int | None:
        """What Redis's clock says now, or a little before, in epoch milliseconds; None where not known."""
        return None if self._ahead_ms is None else int(self._monotonic_s() * 1000 + self._ahead_ms)
