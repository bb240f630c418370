"""The rows of devices in the order of their ids, and in that of their names."""

from bisect import bisect_left, bisect_right
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fleet.columns import Bools, Indexes
from fleet.texts import Rows

Texts = npt.NDArray[Any]

NO_ROW: Final = -1
# Greater than any character of a device's id, and not less than any of a name.
_AFTER_IDS: Final = b"\xff"
_AFTER_NAMES: Final = "\U0010ffff" * 2
# Where so many of the rows get a name, all names are looked at.
_MANY: Final = 0.25


class IdOrder:
    """The rows, all of which have an id that no other has, and lose it never.

    The arrays are replaced and never written to, so that a copy may share them.
    """

    def __init__(self) -> None:
        self._ids: Texts = np.empty(0, "S1")
        self._rows: Rows = np.empty(0, np.int32)
        self._places: Rows = np.empty(0, np.int32)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def places(self) -> Rows:
        """The place of each row."""
        return self._places

    def copy(self) -> "IdOrder":
        """The same, to go on from here."""
        other = IdOrder()
        other._ids, other._rows, other._places = self._ids, self._rows, self._places
        return other

    def rows_of(self, ids: Texts) -> Rows:
        """The row of each of these ids; `NO_ROW` where there is none."""
        if not len(self._ids):
            return np.full(len(ids), NO_ROW, np.int32)
        # NumPy would copy all ids to compare them with longer ones, of which none is there.
        asked = ids.astype(self._ids.dtype)
        places = np.minimum(np.searchsorted(self._ids, asked), len(self._ids) - 1)
        is_there = (self._ids[places] == asked) & (asked == ids)
        return np.where(is_there, self._rows[places], NO_ROW).astype(np.int32)

    def ids_of(self, rows: Indexes) -> list[str]:
        """The ids of these rows."""
        return [each.decode() for each in self._ids[self._places[rows]].tolist()]

    def place(self, text: bytes) -> tuple[int, int]:
        """Where an id begins and ends, or would."""
        longest = self._ids.dtype.itemsize
        if len(text) > longest:
            low = int(np.searchsorted(self._ids, np.array(text[:longest]), "right"))
            return low, low
        low = int(np.searchsorted(self._ids, np.array(text)))
        return low, int(np.searchsorted(self._ids, np.array(text), "right"))

    def begins_with(self, prefix: bytes) -> Bools:
        """For each row, whether its id begins so."""
        low, high = self.place(prefix)[0], self.place(prefix + _AFTER_IDS)[0]
        return (self._places >= low) & (self._places < high)

    def add(self, rows: Rows, ids: Texts) -> None:
        """Take new rows in, which follow those that are there."""
        order = np.argsort(ids)
        rows, ids = rows[order], ids[order]
        known = self._ids
        if ids.dtype.itemsize > known.dtype.itemsize:
            known = known.astype(ids.dtype)
        at = np.searchsorted(known, ids)
        self._ids, self._rows = np.insert(known, at, ids), np.insert(self._rows, at, rows)
        self._places = np.empty(len(self._rows), np.int32)
        self._places[self._rows] = np.arange(len(self._rows), dtype=np.int32)


class NameOrder:
    """The names of rows, and those that have one in the order of it; the case of a name does not matter.

    Names that changed keep their old place until `settle`.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._rows: Rows = np.empty(0, np.int32)
        # For each place, whether the name differs from that before it.
        self._differs: Bools = np.empty(0, np.bool_)
        self._places: Rows = np.empty(0, np.int32)
        self._first_places: Rows = np.empty(0, np.int32)
        self._renamed: set[int] = set()

    @property
    def unsettled(self) -> int:
        """How many names have not their place yet."""
        return len(self._renamed)

    @property
    def first_places(self) -> Rows:
        """The place of the first row with the same name, for each row; `NO_ROW` for those without one."""
        return self._first_places

    def copy(self) -> "NameOrder":
        """The same, to go on from here."""
        other = NameOrder()
        other._names, other._renamed = self._names.copy(), self._renamed.copy()
        other._rows, other._differs = self._rows, self._differs
        other._places, other._first_places = self._places, self._first_places
        return other

    def name_of(self, row: int) -> str:
        """The name of a row; empty where it has none."""
        return self._names[row] if row < len(self._names) else ""

    def place(self, name: str) -> tuple[int, int]:
        """Where those with a name begin and end, or would."""
        text = name.casefold()
        low = bisect_left(self._rows, text, key=self._text)
        return low, bisect_right(self._rows, text, lo=low, key=self._text)

    def begins_with(self, prefix: str) -> Bools:
        """For each row, whether its name begins so."""
        text = prefix.casefold()
        low = bisect_left(self._rows, text, key=self._text)
        high = bisect_left(self._rows, text + _AFTER_NAMES, lo=low, key=self._text)
        return (self._places >= low) & (self._places < high)

    def rename(self, rows: list[int], names: list[str]) -> None:
        """Give rows other names; empty: none."""
        for row, name in zip(rows, names, strict=True):
            if row >= len(self._names):
                self._names.extend([""] * (row + 1 - len(self._names)))
            if self._names[row] != name:
                self._names[row] = name
                self._renamed.add(row)

    def settle(self, size: int) -> None:
        """Put names that changed into their places; there are so many rows by now."""
        if size > len(self._places):
            more = np.full(size - len(self._places), NO_ROW, np.int32)
            self._places = np.concatenate((self._places, more))
            self._first_places = np.concatenate((self._first_places, more))
        if not self._renamed:
            return
        renamed, self._renamed = self._renamed, set()
        old = self._places[np.array(list(renamed), dtype=np.int32)]
        old = old[old != NO_ROW]
        named = [row for row in renamed if self._names[row]]
        self._take_out(old)
        if len(named) > _MANY * len(self._rows):
            self._sort_with(named)
        else:
            self._put_in(sorted(named, key=self._text))
        self._places = np.full(size, NO_ROW, np.int32)
        self._places[self._rows] = np.arange(len(self._rows), dtype=np.int32)
        firsts = np.where(self._differs, np.arange(len(self._rows), dtype=np.int32), 0)
        self._first_places = np.full(size, NO_ROW, np.int32)
        self._first_places[self._rows] = np.maximum.accumulate(firsts)

    def _text(self, row: int) -> str:
        return self._names[row].casefold()

    def _sort_with(self, named: list[int]) -> None:
        """Put many rows in."""
        rows = np.concatenate((self._rows, np.array(named, dtype=np.int32)))
        texts = np.array([self._text(row) for row in rows.tolist()], dtype=object)
        order = np.argsort(texts, kind="stable")
        self._rows, texts = rows[order], texts[order]
        self._differs = np.ones(len(rows), np.bool_)
        self._differs[1:] = texts[1:] != texts[:-1]

    def _take_out(self, places: Rows) -> None:
        """Take out what stands at these places: what follows has another before it, but not another name."""
        stays = np.ones(len(self._rows), np.bool_)
        stays[places] = False
        self._rows, self._differs = self._rows[stays], self._differs[stays]
        self._look_at(np.unique(np.searchsorted(np.flatnonzero(stays), places)).tolist())

    def _put_in(self, named: list[int]) -> None:
        """Put rows in, which are in the order of their names."""
        at: list[int] = []
        for row in named:
            at.append(bisect_left(self._rows, self._text(row), lo=at[-1] if at else 0, key=self._text))
        self._rows = np.insert(self._rows, at, named)
        self._differs = np.insert(self._differs, at, True)
        new = np.array(at, np.int64) + np.arange(len(at))
        self._look_at(np.union1d(new, new + 1).tolist())

    def _look_at(self, places: list[int]) -> None:
        """See whether what stands at these places has the name of what is before it."""
        for place in places:
            if place < len(self._rows):
                before = self._text(self._rows[place - 1]) if place else None
                self._differs[place] = before != self._text(self._rows[place])
