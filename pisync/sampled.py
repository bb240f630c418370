"""Log lines that others can cause: so many of a kind a minute, then one that says how many were left out.

A kind is a line's event, which is a constant text; what differs from line to line are its values.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from pisync import limits, logs


@dataclass
class _Kind:
    """The lines of one kind within the minute that began with the first of them."""

    began_s: float
    written: int = 0
    left_out: int = 0


class SampledLog:
    """Writes warnings to a log; `left_out` counts those of all kinds that were not written."""

    def __init__(
        self, log: structlog.stdlib.BoundLogger, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        """Prepare; `now_s` is a clock that nobody sets."""
        self._log = log
        self._now_s = now_s
        self._kinds: dict[str, _Kind] = {}
        self.left_out = 0

    def warning(self, event: str, /, **values: Any) -> None:
        """Write a line, or count it; the first after a minute tells how many were left out in that."""
        now_s = self._now_s()
        kind = self._kinds.get(event)
        if kind is None or now_s - kind.began_s >= limits.LOG_MINUTE_S:
            if kind is not None and kind.left_out:
                values["left_out_before"] = kind.left_out
            kind = self._kinds[event] = _Kind(now_s)
        if kind.written < limits.LOG_LINES_A_MINUTE:
            kind.written += 1
            if kind.written == limits.LOG_LINES_A_MINUTE:
                values["more"] = f"left out for {limits.LOG_MINUTE_S:g} s, and counted"
            self._log.warning(event, **values)
        else:
            kind.left_out += 1
            self.left_out += 1


def get(name: str) -> SampledLog:
    """A log for lines that others can cause; call it with an event and keyword values."""
    return SampledLog(logs.get(name))
