"""How often somebody was denied what his role does not allow, so that it is told once in a while."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from pisync import limits


@dataclass(kw_only=True, slots=True)
class Denials:
    """How often who was denied what since that was told last."""

    now: Callable[[], float] = monotonic
    _told: OrderedDict[tuple[str, str], tuple[float, int]] = field(default_factory=OrderedDict)

    def add(self, who: str, via: str) -> int:
        """Count one; how many are to be told now, this one included, 0: it is too soon."""
        now = self.now()
        told_at, untold = self._told.pop((who, via), (now - limits.DENIED_TOLD_INTERVAL_S, 0))
        is_due = now - told_at >= limits.DENIED_TOLD_INTERVAL_S
        self._told[who, via] = (now, 0) if is_due else (told_at, untold + 1)
        if len(self._told) > limits.DENIED_KEPT_MAX:
            self._told.popitem(last=False)
        return untold + 1 if is_due else 0
