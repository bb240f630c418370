"""From the columns of a file to the members of an event: `--map`, `--set`, and what a cell may look like."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from math import isinf
from typing import Any, Final
from zlib import crc32

import msgspec

from device_sim.replay.times import NoZoneError, Times
from pisync.clock import rfc3339
from pisync.domain.events import COUNTS, SyncEvent
from pisync.errors import ConfigurationError

MEMBERS: Final = SyncEvent.__struct_fields__
_REQUIRED: Final = tuple(one.name for one in msgspec.structs.fields(SyncEvent) if one.required)
_PAIRS: Final = re.compile(rf",(?=\s*(?:{'|'.join(MEMBERS)})\s*=)")
_SCALED: Final = re.compile(r"(.+?)\s*([*/])\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)")
_DECIMAL_COMMA: Final = re.compile(r"[+-]?\d+,\d+")
_NUMBERS: Final = frozenset({*COUNTS, "internet_speed"})
_DIGITS_MAX: Final = 400


class CellError(ValueError):
    """A cell does not hold what its member needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """Where a member comes from: a column, or several whose texts are joined by a space, times a factor."""

    names: tuple[str, ...]
    factor: Decimal | None = None

    def __str__(self) -> str:
        """As people write it, without the factor."""
        return "+".join(self.names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """`columns` are as `--map` has them, not resolved yet; `constants` as `--set` has them."""

    columns: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)


def pairs(option: str, values: Iterable[str]) -> dict[str, str]:
    """What `member=…` pairs name, of which one value of the option may hold several, between commas.

    Raises:
        ConfigurationError: there is no such member, one stands twice, or what is no pair.
    """
    found: dict[str, str] = {}
    for value in values:
        for pair in _PAIRS.split(value):
            member, is_pair, text = pair.partition("=")
            member, text = member.strip(), text.strip()
            if not is_pair or not text:
                raise ConfigurationError(f"{option} {pair!r}: give MEMBER=…, such as {option} total_errors=0")
            if member not in MEMBERS:
                hint = nearest(member, MEMBERS)
                raise ConfigurationError(
                    f"{option} {pair!r}: an event has no member {member!r}{hint}"
                    f" Its members: {', '.join(MEMBERS)}"
                )
            if member in found:
                raise ConfigurationError(f"{option}: {member} stands twice")
            found[member] = text
    return found


def nearest(name: str, names: Sequence[str]) -> str:
    """The end of a sentence: the question which name was meant, where one is like it."""
    folded = {one.casefold(): one for one in reversed(names)}
    like = get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.5)
    return f"; did you mean {folded[like[0]]!r}?" if like else "."


class Mapped:
    """Makes events of the records of one file, whose columns or members have these names."""

    def __init__(
        self, options: Options, names: Sequence[str], times: Times, *, decimal_comma: bool = False
    ) -> None:
        """Resolve the columns.

        Raises:
            ConfigurationError: a column is not there, or nothing says where a required member comes from.
        """
        self._times = times
        self._decimal_comma = decimal_comma
        self._constants = options.constants
        self.lacks_errors = False
        """Whether `errors` were text that cannot be taken apart, and so left away."""
        self.columns: dict[str, Column] = {
            member: _resolved(member, text, names) for member, text in options.columns.items()
        }
        for member in MEMBERS:
            if member not in self.columns and member in names:
                self.columns[member] = Column(names=(member,))
        lacking = [
            member for member in _REQUIRED if member not in self.columns and member not in self._constants
        ]
        if lacking:
            raise ConfigurationError(_lacking(lacking, names))

    @property
    def used(self) -> set[str]:
        """The columns that members come from."""
        return {name for column in self.columns.values() for name in column.names}

    def event(self, cells: Mapping[str, Any]) -> bytes:
        """The event of a record, as JSON that is yet to be judged.

        Raises:
            CellError: a cell cannot be what its member is; the text names both.
            NoZoneError: its time has no offset.
        """
        members: dict[str, Any] = {}
        for member in MEMBERS:
            column = self.columns.get(member)
            value = None if column is None else _value(column, cells)
            place = "" if column is None else f" (column {column})"
            if value is None or value == "":
                value, place = self._constants.get(member), " (--set)"
            if member == "timestamp":
                continue
            if value is None:
                if member in _REQUIRED:
                    raise CellError(f"{member}: it is empty (column {column})")
                continue
            factor = None if column is None or place == " (--set)" else column.factor
            try:
                members[member] = self._converted(member, value, factor)
            except ValueError as error:
                raise CellError(f"{member}: {error}{place}") from None
        self._add_timestamp(members, cells)
        return msgspec.json.encode({name: value for name, value in members.items() if value is not None})

    def _add_timestamp(self, members: dict[str, Any], cells: Mapping[str, Any]) -> None:
        column = self.columns.get("timestamp")
        value = None if column is None else _value(column, cells)
        if value is None or value == "":
            value = self._constants.get("timestamp")
        if value is None:
            raise CellError("timestamp: it is empty" + ("" if column is None else f" (column {column})"))
        mark = crc32("\0".join(map(str, cells.values())).encode(errors="replace"))
        try:
            moment = self._times.read(_plain(value), str(members.get("device_id", "")), mark)
        except NoZoneError:
            raise
        except ValueError as error:
            raise CellError(
                f"timestamp: {error}" + ("" if column is None else f" (column {column})")
            ) from None
        members["timestamp"] = rfc3339(moment)

    def _converted(self, member: str, value: Any, factor: Decimal | None) -> Any:
        if member in _NUMBERS:
            return _number(member, value, factor, decimal_comma=self._decimal_comma)
        if member == "errors":
            errors = _errors(value)
            self.lacks_errors |= errors is None
            return errors
        if not isinstance(value, str):
            return _plain(value) if member == "device_id" else value
        return value.strip()


def _lacking(members: Sequence[str], names: Sequence[str]) -> str:
    """That nothing says where these required members come from, and what to do."""
    first = members[0]
    others = [
        f"{member} ({like[2:]})" if (like := nearest(member, names)) != "." else member
        for member in members[1:]
    ]
    as_well = f" The same for {', '.join(others)}." if others else ""
    return (
        f"nothing says where {first} comes from{nearest(first, names)} Give --map {first}=COLUMN, or"
        f" --set {first}=VALUE for all lines.{as_well} The columns: {', '.join(names)}"
    )


def _resolved(member: str, text: str, names: Sequence[str]) -> Column:
    """The column that a text of `--map` names: the whole text, or one of its readings.

    Raises:
        ConfigurationError: there is none.
    """
    if text in names:
        return Column(names=_once(text, names))
    factor = None
    if match := _SCALED.fullmatch(text):
        if member not in _NUMBERS:
            raise ConfigurationError(f"--map {member}={text}: only numbers can be scaled")
        text, sign, digits = match.groups()
        factor = _factor(member, sign, digits)
        if text in names:
            return Column(names=_once(text, names), factor=factor)
    found: list[str] = []
    for part in text.split("+"):
        exact = [name for name in names if name == part.strip()]
        same = exact or [name for name in names if name.casefold() == part.strip().casefold()]
        if not same:
            raise ConfigurationError(
                f"--map {member}={text}: the file has no column {part.strip()!r}"
                f"{nearest(part.strip(), names)} Its columns: {', '.join(names)}"
            )
        found += _once(same[0], names)
    return Column(names=tuple(found), factor=factor)


def _once(name: str, names: Sequence[str]) -> tuple[str]:
    if list(names).count(name) > 1:
        raise ConfigurationError(
            f"the column {name!r} stands twice in the header; give one of them another name"
        )
    return (name,)


def _factor(member: str, sign: str, digits: str) -> Decimal:
    try:
        number = Decimal(digits)
        return number if sign == "*" else 1 / number
    except ArithmeticError:
        raise ConfigurationError(f"--map {member}: {sign}{digits} is no factor") from None


def _value(column: Column, cells: Mapping[str, Any]) -> Any:
    if len(column.names) == 1:
        value = cells.get(column.names[0])
        return value.strip() if isinstance(value, str) else value
    return " ".join(_plain(cells.get(name, "")).strip() for name in column.names).strip()


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _number(member: str, value: Any, factor: Decimal | None, *, decimal_comma: bool) -> int | float:
    if isinstance(value, bool):
        raise ValueError(f"{value} is no number")  # noqa: TRY004 - of a file, not of a program
    text = value.strip() if isinstance(value, str) else repr(value)
    if decimal_comma and _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    try:
        number = Decimal(text)
        if len(text) > _DIGITS_MAX or not number.is_finite() or "_" in text:
            raise InvalidOperation
    except InvalidOperation:
        raise ValueError(f"{text[:60]!r} is no number") from None
    scaled = number if factor is None else number * factor
    if member not in COUNTS:
        if isinf(float(scaled)):
            raise ValueError(f"{text[:60]} is too large")
        return float(scaled)
    if scaled != scaled.to_integral_value() or abs(scaled) > 1 << 63:
        raise ValueError(f"{text[:60]} is no whole number that is counted with")
    return int(scaled)


def _errors(value: Any) -> Any:
    """The list of errors, as it is or as JSON; other text, as in a CSV of PiSync, cannot be taken apart."""
    if not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value) if value.lstrip().startswith("[") else None
    except msgspec.DecodeError:
        return None
