"""Numbers for texts that many devices share, which columns hold."""

from bisect import bisect_left

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int32]


class TextNumbers:
    """A number for each text that was ever asked for; 0 stands for none."""

    def __init__(self) -> None:
        self.texts: list[str] = [""]
        self._numbers: dict[str, int] = {"": 0}
        self._sorted: list[str] = []
        self._ranks: Rows = np.empty(0, np.int32)

    def __len__(self) -> int:
        return len(self.texts)

    def of(self, text: str) -> int:
        """The number of a text, a new one where it has none."""
        number = self._numbers.get(text)
        if number is None:
            number = self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return number

    def known(self, text: str) -> int | None:
        """The number of a text; None where it has none."""
        return self._numbers.get(text)

    def chosen(self, texts: frozenset[str]) -> npt.NDArray[np.bool_]:
        """For each number, whether its text is one of these."""
        chosen = np.zeros(len(self.texts), np.bool_)
        chosen[[number for text in texts if (number := self.known(text)) is not None]] = True
        return chosen

    @property
    def ranks(self) -> Rows:
        """For each number an even one, by which they are in the order of their texts."""
        if len(self._ranks) < len(self.texts):
            self._sorted = sorted(self.texts)
            self._ranks = np.empty(len(self.texts), np.int32)
            order = [self._numbers[text] for text in self._sorted]
            self._ranks[order] = np.arange(0, 2 * len(order), 2, dtype=np.int32)
        return self._ranks

    def rank_of(self, text: str) -> int:
        """The rank of a text; of one without a number, an odd one between those before and behind it."""
        number, ranks = self.known(text), self.ranks
        return 2 * bisect_left(self._sorted, text) - 1 if number is None else int(ranks[number])

    def copy(self) -> "TextNumbers":
        """The same, to go on from here."""
        other = TextNumbers()
        other.texts, other._numbers = self.texts.copy(), self._numbers.copy()
        return other
