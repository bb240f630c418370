"""How large a run is: one factor over the sizes that the targets are stated for."""

from dataclasses import dataclass
from typing import Final

QUICK_FACTOR: Final = 0.05


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A factor: 1.0 is the full size; the figures of a smaller run are figures of that smaller run."""

    factor: float = 1.0

    def of(self, full: int, *, at_least: int = 1) -> int:
        """The size of this run where the full run takes `full`; never less than `at_least`."""
        return max(at_least, round(full * self.factor))
