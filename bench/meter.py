"""What the operating system says a process used: CPU time and resident memory."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

_LOOK_INTERVAL_S: Final = 0.1
# The operating system counts the time of a process in hundredths of a second, and of each of its threads in
# nanoseconds; those of a thread that has ended are gone.
_COARSE_S: Final = 0.02


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What happened between two looks: seconds that passed, and CPU seconds of each process by name."""

    seconds: float
    cpu_s: Mapping[str, float]

    def per_event_us(self, events: int) -> dict[str, float]:
        """CPU microseconds an event, of each process."""
        return {name: cpu_s / events * 1e6 for name, cpu_s in self.cpu_s.items()}


class Meter:
    """Looks at processes by id, from when it is made."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        """Take the first look; a process has the name that the table gives it."""
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self.reset()

    def reset(self) -> None:
        """Begin again, now."""
        self._began = time.perf_counter()
        self._first, self._first_of_threads = self._cpu_s(), self._cpu_s_of_threads()

    def usage(self) -> Usage:
        """What was used since the beginning."""
        seconds = time.perf_counter() - self._began
        of_threads = self._cpu_s_of_threads()
        used = {}
        for name, now_s in self._cpu_s().items():
            coarse_s, fine_s = now_s - self._first[name], of_threads[name] - self._first_of_threads[name]
            used[name] = fine_s if abs(fine_s - coarse_s) < _COARSE_S else coarse_s
        return Usage(seconds=seconds, cpu_s=used)

    def _cpu_s(self) -> dict[str, float]:
        return {name: sum(process.cpu_times()[:2]) for name, process in self._processes.items()}

    def _cpu_s_of_threads(self) -> dict[str, float]:
        return {name: _of_threads_s(process.pid) for name, process in self._processes.items()}


def resident_mb(pid: int) -> float:
    """The resident memory of a process, in MB (10^6 bytes)."""
    resident: int = psutil.Process(pid).memory_info().rss
    return resident / 1e6


def _of_threads_s(pid: int) -> float:
    """CPU seconds of the threads that a process has; 0 where the system does not tell."""
    used_ns = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError, ValueError):  # it has ended
            used_ns += int(thread.read_text().split()[0])
    return used_ns / 1e9


class Peaks:
    """The most resident memory that processes were seen with, in MB, by name."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        """Take the first look."""
        self._pids = dict(pids)
        self.resident_mb = {name: resident_mb(pid) for name, pid in pids.items()}

    async def watch_until(self, ended: "asyncio.Future[Any]") -> None:
        """Look now and then, until that is done; a process that has ended is looked at no more."""
        while not ended.done():
            for name, pid in self._pids.items():
                with suppress(psutil.NoSuchProcess):
                    self.resident_mb[name] = max(self.resident_mb[name], resident_mb(pid))
            await asyncio.wait((ended,), timeout=_LOOK_INTERVAL_S)
