"""A set of days by UTC, the newest 64. Merging is union, so order and repetition cannot matter."""

from collections.abc import Collection, Iterator
from typing import Final, Self

import msgspec

from pisync import limits

DAY_MS: Final = 86_400_000
_KEPT: Final = (1 << limits.DAYS_KEPT) - 1


class Days(msgspec.Struct, frozen=True, gc=False):
    """`newest` counts from 1970-01-01; bit n of `bits` stands for the day that is n days before it."""

    newest: int = 0
    bits: int = 0

    @classmethod
    def of(cls, days: Collection[int]) -> Self:
        """The newest of these days, each counted from 1970-01-01."""
        if len(days) == 1:
            [newest] = days
            return cls(newest, 1)
        newest = max(days, default=0)
        bits = 0
        for day in days:
            if newest - day < limits.DAYS_KEPT:
                bits |= 1 << newest - day
        return cls(newest, bits)

    def merge(self, other: Self) -> "Days":
        """The days that are in either."""
        if self.newest == other.newest:
            return Days(self.newest, self.bits | other.bits)
        newer, older = (self, other) if self.newest > other.newest else (other, self)
        return Days(newer.newest, newer.bits | older.bits << newer.newest - older.newest & _KEPT)

    def __iter__(self) -> Iterator[int]:
        """The days, newest first."""
        return (self.newest - back for back in range(limits.DAYS_KEPT) if self.bits >> back & 1)


NO_DAYS: Final = Days()
