"""Wrong passwords, counted, so that nobody tries many: beyond a most the next is not looked at for a while.

Counted are a name from an address, an address, and a name from everywhere. The last has a higher most,
because it keeps out whoever has the right password, too: a key or a session still opens. What is counted is
of one replica, and bounded; the counts of those that failed least recently are forgotten first.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from time import monotonic
from typing import Final

from pisync import limits

_NO_NAME: Final = "?"  # what can be no user's name


@dataclass(slots=True)
class _Count:
    since: float
    failures: int = 0


class LoginFailures:
    """The wrong passwords of a replica."""

    def __init__(self) -> None:
        self._counts: OrderedDict[tuple[str, str], _Count] = OrderedDict()

    def wait_s(self, name: str, address: str) -> int:
        """After how many seconds a password for this name from this address is looked at; 0: now."""
        now = monotonic()
        waits = [0.0]
        for key, most in _keys(name, address):
            count = self._counts.get(key)
            if count is not None and count.failures >= most:
                waits.append(count.since + limits.LOGIN_FAILURES_S - now)
        return ceil(max(waits))

    def failed(self, name: str, address: str) -> None:
        """It was wrong."""
        now = monotonic()
        for key, _ in _keys(name, address):
            count = self._counts.get(key)
            if count is None or now - count.since >= limits.LOGIN_FAILURES_S:
                count = self._counts[key] = _Count(now)
            count.failures += 1
            self._counts.move_to_end(key)
        while len(self._counts) > limits.LOGIN_FAILURES_COUNTED:
            self._counts.popitem(last=False)

    def take_back(self, name: str, address: str) -> None:
        """It was not wrong after all, or was not looked at."""
        for key, _ in _keys(name, address):
            count = self._counts.get(key)
            if count is not None:
                count.failures = max(0, count.failures - 1)

    def succeeded(self, name: str, address: str) -> None:
        """It was right: who mistyped it before begins anew, and others of the address lose nothing by it."""
        self.take_back(name, address)
        self._counts.pop((name, address), None)


def _keys(name: str, address: str) -> Iterator[tuple[tuple[str, str], int]]:
    name = name or _NO_NAME
    yield (name, address), limits.LOGIN_FAILURES_MAX
    yield ("", address), limits.LOGIN_FAILURES_OF_ADDRESS_MAX
    yield (name, ""), limits.LOGIN_FAILURES_OF_NAME_MAX
