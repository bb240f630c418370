"""A bucket for each device: what it sends fills the bucket, time empties it, and above the brim it is full.

Items (events, letters) and their bytes fill it alike: half of the items and half of the bytes that it holds
make it full. A bucket that is empty takes no memory, so that only devices which sent a moment ago have one.
Pure: the time is told.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from pisync import limits

Key = str | None
"""A device; None: all topics that name none."""


class Buckets:
    """The buckets of all devices."""

    def __init__(self, *, items: int, size_bytes: int, empty_after_s: float, now_s: float) -> None:
        """All are empty.

        Args:
            items: how many items make a bucket full, were they of no bytes.
            size_bytes: how many bytes do, were they of no item.
            empty_after_s: how long a full one takes to be empty.
            now_s: the time, by a clock that nobody sets.
        """
        self._brim: Final = size_bytes
        self._item_bytes: Final = size_bytes // items
        self._again_below: Final = int(size_bytes * limits.BUCKET_AGAIN_SHARE)
        self._a_second: Final = size_bytes / empty_after_s
        self._leaked_s = now_s
        self._levels: defaultdict[Key, int] = defaultdict(int)
        self.full: set[Key] = set()
        """Those that are above the brim, until they have emptied a little."""

    def fill(self, sent: Iterable[tuple[Key, int, int]]) -> None:
        """Add what devices sent, as items and bytes; done for every message, so without a call for each."""
        levels, brim, item_bytes = self._levels, self._brim, self._item_bytes
        for key, items, size_bytes in sent:
            levels[key] = level = levels[key] + items * item_bytes + size_bytes
            if level > brim:
                self.full.add(key)

    def leak(self, now_s: float) -> None:
        """Let time pass; nothing is done where too little passed to be worth a look at every bucket."""
        levels, passed_s = self._levels, now_s - self._leaked_s
        if passed_s < limits.BUCKET_LEAK_INTERVAL_S and len(levels) <= limits.BUCKETS_MAX:
            return
        leaked = int(self._a_second * passed_s)
        self._leaked_s += leaked / self._a_second
        kept = {key: level - leaked for key, level in levels.items() if level > leaked}
        if len(kept) > limits.BUCKETS_MAX:
            fullest = heapq.nlargest(limits.BUCKETS_MAX // 2, kept, key=kept.__getitem__)
            kept = {key: kept[key] for key in fullest}
        self._levels = defaultdict(int, kept)
        self.full = {key for key in self.full if kept.get(key, 0) > self._again_below}

    def wait_s(self, key: Key) -> float:
        """How long it takes until a bucket counts as full no more."""
        return max(0.0, (self._levels.get(key, 0) - self._again_below) / self._a_second)

    def __len__(self) -> int:
        """How many are not empty."""
        return len(self._levels)
