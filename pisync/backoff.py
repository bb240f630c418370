"""Retry with full jitter: each wait is drawn from zero up to a bound that doubles (Brooker, 2015)."""

import random
from collections.abc import Iterator

from pisync import limits


def delays(base_s: float = limits.BACKOFF_BASE_S, cap_s: float = limits.BACKOFF_CAP_S) -> Iterator[float]:
    """Endless waiting times in seconds: uniform(0, min(cap, base * 2^attempt))."""
    bound_s = base_s
    while True:
        yield random.uniform(0, bound_s)  # noqa: S311 - spreads load, guards nothing
        bound_s = min(cap_s, bound_s * 2)
