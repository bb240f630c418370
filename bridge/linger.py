"""How long a batch waits for more messages before it begins: the rule, without a clock or a loop of its own.

A batch has a price however few messages it holds, so that one should not begin right after another; and no
message should wait where nothing more comes.
"""

import math

from pisync import limits

_LONG_AGO = -math.inf


class Linger:
    """Says when the next batch begins; asked when its first message is there, and again after each wait.

    - After a while without a batch, or one of a single message, the first message begins the next at once.
    - Otherwise it begins when `longest_s` have passed since the last one began; while one is under way, since
      its own first message came, which would be acknowledged after that one anyway.
    - It begins earlier when nothing more came for a part of that time, a smaller part where many have come;
      where none is under way many begin at once, because a larger batch would save little.

    Who asks begins a full batch without asking.
    """

    def __init__(self, *, longest_s: float) -> None:
        """Prepare.

        Args:
            longest_s: how long a message may wait, in seconds.
        """
        self._longest_s = longest_s
        self._began_at = _LONG_AGO
        self._until: float | None = None
        self._seen = 0

    def wait_s(self, *, now: float, messages: int, batches: int) -> float:
        """For how many seconds to wait before asking again; 0: begin the batch now.

        Args:
            now: the time, in seconds of a clock that nobody sets.
            messages: how many messages have come for the batch; one at least.
            batches: how many batches are under way.
        """
        if self._until is None:
            self._until = (now if batches else self._began_at) + self._longest_s
        elif messages == self._seen:
            return 0
        self._seen = messages
        many = messages >= limits.LINGER_MANY
        if many and not batches:
            return 0
        parts = limits.LINGER_PARTS_MANY if many else limits.LINGER_PARTS_FEW
        return max(0, min(self._until - now, self._longest_s / parts))

    def begin(self, *, now: float, messages: int) -> None:
        """Take note that a batch of so many messages begins."""
        self._began_at = now if messages > 1 else _LONG_AGO
        self._until = None
