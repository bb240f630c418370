"""Reads the tables of a scenario's file: each member checked, and what is wrong said in words that mend it.

A reader is a function from what TOML says to what is meant; its ValueErrors begin with `must`, and say what
was expected. Times are milliseconds, amounts whole numbers where they decide anything, so that the same file
means the same on any machine.
"""

import re
from collections.abc import Callable, Collection
from datetime import datetime
from difflib import get_close_matches
from typing import Any, Final, NoReturn, TypeVar

from pisync.clock import to_ms
from pisync.domain.directory import WEEKDAYS
from pisync.errors import ConfigurationError

T = TypeVar("T")

SECOND_MS: Final = 1000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS
SPAN_MS_MAX: Final = 3700 * DAY_MS
_UNITS_MS: Final = {
    "ms": 1,
    "s": SECOND_MS,
    "m": MINUTE_MS,
    "h": HOUR_MS,
    "d": DAY_MS,
    "w": 7 * DAY_MS,
}
_SPAN: Final = re.compile(r"([+-]?)((?:[0-9]{1,9}(?:ms|s|m|h|d|w))+)")
_PART: Final = re.compile(r"([0-9]+)(ms|s|m|h|d|w)")
_TIME: Final = re.compile(r"([01][0-9]|2[0-4]):([0-5][0-9])")
_VALUE_CHARS_MAX: Final = 60

Reader = Callable[[Any], T]
# A part of the day at a place, in milliseconds after its midnight.
Window = tuple[int, int]
# A moment: so many milliseconds after (or, negative, before) the end of the story.
Relative = int


class _Required:
    """Stands for the default of a member that must be there."""


REQUIRED: Final = _Required()


class Table:
    """One table of a file. `where` names it as the file does."""

    def __init__(self, members: object, *, file: str, where: str) -> None:
        self.file = file
        self.where = where
        if not isinstance(members, dict):
            raise ConfigurationError(f"{file}: {where} = {_shown(members)}: must be a table")
        self._members: dict[str, Any] = members
        self._known: list[str] = []

    def take(self, name: str, read: Reader[T], default: T | _Required = REQUIRED) -> T:
        """A member as its reader has it; the default where it is not given.

        Raises:
            ConfigurationError: it is missing, or not what was expected.
        """
        self._known.append(name)
        if name not in self._members:
            if not isinstance(default, _Required):
                return default
            try:
                read(None)
            except ValueError as error:
                self.refuse(name, f"is missing; it {error}")
            self.refuse(name, "is missing")
        value = self._members[name]
        try:
            return read(value)
        except ValueError as error:
            raise ConfigurationError(
                f"{self.file}: {self.where}: {name} = {_shown(value)}: {error}"
            ) from None

    def tables(self, name: str) -> list["Table"]:
        """The tables of an array of them, or of a list of inline ones; none where it is not given."""
        self._known.append(name)
        value = self._members.get(name, [])
        if not isinstance(value, list):
            self.refuse(name, "must be a list of tables")
        return [
            Table(each, file=self.file, where=f"{self.where}.{name}[{place}]".removeprefix("top."))
            for place, each in enumerate(value)
        ]

    def named(self, name: str) -> dict[str, "Table"]:
        """The tables below a table, by their names; none where it is not given."""
        self._known.append(name)
        value = self._members.get(name, {})
        if not isinstance(value, dict):
            self.refuse(name, "must be a table of tables")
        return {key: Table(each, file=self.file, where=f"[{name}.{key}]") for key, each in value.items()}

    def has(self, name: str) -> bool:
        """Whether the file gives this member."""
        return name in self._members

    def refuse(self, name: str, why: str) -> NoReturn:
        """Say what is wrong with a member.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(f"{self.file}: {self.where}: {name} {why}")

    def end(self) -> None:
        """All members that there are were taken.

        Raises:
            ConfigurationError: one was not; nobody would heed it.
        """
        for name in self._members:
            if name not in self._known:
                self.refuse(name, f"is not known here{near(name, self._known)}")


def near(name: str, known: Collection[str]) -> str:
    """What may have been meant, or else what there is."""
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(sorted(known))}"


def _shown(value: object) -> str:
    text = f"{value!r}"
    return text if len(text) <= _VALUE_CHARS_MAX else f"{text[:_VALUE_CHARS_MAX]}…"


def text(value: Any) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text")
    return value


def boolean(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")  # noqa: TRY004 - readers raise ValueErrors
    return value


def one_of(known: Collection[str]) -> Reader[str]:
    """One of these names."""

    def read(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError(f"must be one of {', '.join(sorted(known))}")  # noqa: TRY004
        if value not in known:
            raise ValueError(f"must be one of those that there are{near(value, known)}")
        return value

    return read


def many(read: Reader[T], most: int = 1000) -> Reader[tuple[T, ...]]:
    """A list of what another reader reads."""

    def read_all(value: Any) -> tuple[T, ...]:
        if not isinstance(value, list) or len(value) > most:
            raise ValueError(f"must be a list of at most {most}")
        return tuple(map(read, value))

    return read_all


def whole(low: int, high: int) -> Reader[int]:
    """A whole number in these bounds."""

    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return read


def whole_range(low: int, high: int) -> Reader[tuple[int, int]]:
    """A whole number, or the least and the greatest of some."""
    one = whole(low, high)

    def read(value: Any) -> tuple[int, int]:
        try:
            first, last = map(one, value) if isinstance(value, list) else (one(value),) * 2
        except (TypeError, ValueError):
            first, last = 1, 0
        if first > last:
            raise ValueError(f"must be a whole number from {low} to {high}, or [least, greatest]")
        return first, last

    return read


def share(value: Any) -> float:
    """A share, from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError("must be a share from 0 to 1")
    return float(value)


def hundredths(value: Any) -> tuple[int, int]:
    """The least and the greatest speed, in hundredths of a Mbit/s."""
    if (
        not isinstance(value, list)
        or len(value) != 2
        or any(isinstance(each, bool) or not isinstance(each, int | float) for each in value)
        or not 0 <= value[0] <= value[1] <= 10_000
    ):
        raise ValueError("must be [least, greatest] speed in Mbit/s, such as [0.3, 8]")
    return round(value[0] * 100), round(value[1] * 100)


def signed_span(value: Any) -> int:
    """A span with or without a sign."""
    found = _SPAN.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("must be a span of time such as 90s, 45m, 8h, 3d or 1d12h")
    length_ms = sum(int(number) * _UNITS_MS[unit] for number, unit in _PART.findall(found[2]))
    if length_ms > SPAN_MS_MAX:
        raise ValueError(f"must be a span of at most {SPAN_MS_MAX // DAY_MS} days")
    return -length_ms if found[1] == "-" else length_ms


def span(value: Any) -> int:
    """A span of more than nothing."""
    length_ms = signed_span(value)
    if length_ms <= 0:
        raise ValueError("must be a span of more than nothing, such as 90s, 45m, 8h or 3d")
    return length_ms


def before_end(value: Any) -> Relative:
    """A moment of the story, as a span before its end."""
    rule = "must be so long before the end of the story, such as -3d or -90m, or -0s for the end itself"
    try:
        moment = signed_span(value)
    except ValueError:
        raise ValueError(rule) from None
    if moment > 0:
        raise ValueError(rule)
    return moment


def moment(value: Any) -> int:
    """An absolute moment, in epoch milliseconds; TOML has them without quotation marks."""
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError("must be a moment with an offset and no quotation marks: 2026-05-08T12:00:00Z")
    return to_ms(value)


def time_of_day(value: Any) -> int:
    """A time of day, in milliseconds after midnight."""
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    at_ms = -1 if found is None else int(found[1]) * HOUR_MS + int(found[2]) * MINUTE_MS
    if not 0 <= at_ms <= DAY_MS:
        raise ValueError("must be a time of day such as 08:30")
    return at_ms


def window(value: Any) -> Window:
    """A part of the day."""
    rule = "must be a part of a day such as 08:00/12:30"
    first, _, last = value.partition("/") if isinstance(value, str) else ("", "", "")
    try:
        begins, ends = time_of_day(first), time_of_day(last)
    except ValueError:
        raise ValueError(rule) from None
    if begins >= ends:
        raise ValueError(f"{rule}; one that goes over midnight is two")
    return begins, ends


def weekday(value: Any) -> str:
    """A day of the week."""
    return one_of(WEEKDAYS)(value)


def exactly_one(table: Table, names: Collection[str]) -> str:
    """The one of these members that the table gives.

    Raises:
        ConfigurationError: it gives none of them, or several.
    """
    given = [name for name in names if table.has(name)]
    if len(given) != 1:
        raise ConfigurationError(f"{table.file}: {table.where}: must have one of {', '.join(names)}")
    return given[0]
