"""Whether to look for what is to be inserted: told by how much of the last batches was stored before."""

from collections import deque

from pisync import limits


class KnownShare:
    """Remembers the last two batches: where new ones and others take turns, no new one is looked for."""

    def __init__(self) -> None:
        self._shares = deque([0.0, 0.0], maxlen=2)

    def is_worth_a_look(self, count: int) -> bool:
        """Whether it is cheaper to look for a batch of so many before the others are inserted."""
        return count >= limits.LOOKED_FOR_MIN and min(self._shares) >= limits.LOOKED_FOR_SHARE

    def note(self, *, known: int, count: int) -> None:
        """Take note that so many of a batch were stored before."""
        self._shares.append(known / count)
