"""How long receipts take: counts in classes that grow by a constant factor, and can be added up; pure."""

from bisect import bisect_left
from typing import Final

import msgspec

_CLASSES_PER_DOUBLING: Final = 8
_LEAST_S: Final = 0.001
_CLASSES: Final = 24 * _CLASSES_PER_DOUBLING  # up to 4.6 hours
_UPPER_S: Final = tuple(_LEAST_S * 2 ** (place / _CLASSES_PER_DOUBLING) for place in range(_CLASSES))


class Latencies(msgspec.Struct):
    """Latencies by class, to within 9 %. What is longer than the last class counts in it."""

    counts: dict[int, int] = msgspec.field(default_factory=dict)

    def add(self, latency_s: float) -> None:
        """Count one, in seconds."""
        place = min(bisect_left(_UPPER_S, latency_s), _CLASSES - 1)
        self.counts[place] = self.counts.get(place, 0) + 1

    def merge(self, other: "Latencies") -> None:
        """Count those of another one, too."""
        for place, count in other.counts.items():
            self.counts[place] = self.counts.get(place, 0) + count

    def percentile(self, share: float) -> float | None:
        """The latency in seconds that this share of them (0 to 1) does not exceed; None: there is none."""
        total = sum(self.counts.values())
        wanted = share * total
        seen = 0
        for place in sorted(self.counts):
            seen += self.counts[place]
            if seen >= wanted:
                return _UPPER_S[place]
        return None
