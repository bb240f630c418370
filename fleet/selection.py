"""The first few of many in an order, without sorting them all."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fleet.columns import Bools, Indexes, Longs
from fleet.texts import Rows

# Before and behind every key.
FIRST: Final = -(2**63)
LAST: Final = 2**63 - 1
# A bound is guessed from so many keys, evenly chosen, where there are many times more; by so much higher than
# should do.
_SAMPLE: Final = 4096
_MARGIN: Final = 16

# For places among the keys, numbers by which equal keys are ordered, of which no two are equal.
Ties = Callable[[Indexes], Rows]


def first_places(keys: Longs, ties: Ties, count: int, after: tuple[int, int] | None = None) -> Indexes:
    """The places of the least keys, in order, equal ones by their ties; only those after a key and a tie."""
    rest: Indexes = np.empty(0, np.intp)
    above = None
    if after is not None:
        above, tie = after
        equal = np.flatnonzero(keys == above)
        rest = _least_ties(equal[ties(equal) > tie], ties, count)
        rest = rest[np.argsort(ties(rest))]
    places = _least(keys, ties, count - len(rest), above)
    return np.concatenate((rest, places[np.lexsort((ties(places), keys[places]))]))


def _least(keys: Longs, ties: Ties, count: int, above: int | None) -> Indexes:
    """The places of so many of the least keys above one."""
    is_above = None if above is None else keys > above
    bound = _bound(keys, count, is_above)
    if bound is None:
        return np.arange(len(keys)) if is_above is None else np.flatnonzero(is_above)
    is_sure = keys < bound
    sure = np.flatnonzero(is_sure if is_above is None else is_sure & is_above)
    # Were it not above, so would nothing below it be.
    equal = np.flatnonzero(keys == bound)
    return np.concatenate((sure, _least_ties(equal, ties, count - len(sure))))


def _least_ties(places: Indexes, ties: Ties, count: int) -> Indexes:
    """Of these places, of which no two have one tie, those with the least."""
    numbers = ties(places)
    bound = _bound(numbers, count, None)
    return places if bound is None else places[numbers <= bound]


def _bound(values: npt.NDArray[Any], count: int, is_above: Bools | None) -> int | None:
    """The greatest of so many of the least values that count; None where there are no more than that.

    NumPy's partition looks through all of them several times. A guess from some leaves few to look at; where
    it turns out to be too low, all are.
    """
    if count <= 0:
        return FIRST
    if len(values) > 4 * _SAMPLE:
        step = len(values) // _SAMPLE
        some = values[::step] if is_above is None else values[::step][is_above[::step]]
        guessed = 2 * count * _SAMPLE // len(values) + _MARGIN
        if guessed < len(some):
            guess = np.partition(some, guessed)[guessed]
            is_less = values < guess if is_above is None else (values < guess) & is_above
            less = np.count_nonzero(is_less)
            if less >= count:
                return int(np.partition(values[is_less], count - 1)[count - 1])
            if less + np.count_nonzero(values == guess) >= count:
                return int(guess)
    few = values if is_above is None else values[is_above]
    return int(np.partition(few, count - 1)[count - 1]) if len(few) > count else None
