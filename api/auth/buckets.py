"""Token buckets: how often each of many may do something, in a memory with a bound."""

from collections.abc import Callable
from time import monotonic

from pisync import limits


class Buckets:
    """A bucket for each name, full where it is new; it fills by `per_s` up to `burst`.

    Of too many names the ones that did nothing for longest are forgotten, and begin with a full bucket again:
    who changes his name gets by, and who does not cannot be locked out by others.
    """

    def __init__(
        self,
        *,
        per_s: float,
        burst: float,
        names_max: int = limits.CALLER_BUCKETS_MAX,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._per_s = per_s
        self._burst = burst
        self._names_max = names_max
        self._now = now
        self._kept: dict[str, tuple[float, float]] = {}  # what is in a bucket, and since when

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, name: str) -> float:
        """Take one from the bucket of this name: 0; or, where it is empty, the seconds until there is one."""
        now = self._now()
        tokens, since = self._kept.pop(name, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._per_s)
        wait_s = 0.0 if tokens >= 1 else (1 - tokens) / self._per_s
        self._kept[name] = (tokens if wait_s else tokens - 1, now)
        if len(self._kept) > self._names_max:
            del self._kept[next(iter(self._kept))]
        return wait_s
