"""Entries of the directory out of bytes: a JSON object, or the lines of CSV and NDJSON; without I/O."""

import csv
import json
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple, NoReturn, Protocol

from pisync import limits
from pisync.domain import directory
from pisync.domain.directory import MEMBERS, Fault, Kind

# A cell that a spreadsheet would calculate, with the apostrophes before it; an export puts one more there.
_HARMFUL: Final = re.compile(r"'*[=+\-@\t\r]")


class FileFormat(StrEnum):
    """The formats of a file; the value is the suffix of its name."""

    CSV = "csv"
    NDJSON = "ndjson"

    @property
    def media_type(self) -> str:
        """The media type without parameters."""
        return "text/csv" if self is FileFormat.CSV else "application/x-ndjson"


class Row(NamedTuple):
    """An entry of a file: its line, its id, and the members that it gives."""

    line: int
    identifier: str
    members: dict[str, Any]


class LineFault(NamedTuple):
    """What is wrong with a line of a file, and with which member; None: all of it."""

    line: int
    member: str | None
    detail: str


class UnreadableFileError(Exception):
    """A file of which no further line can be understood."""

    def __init__(self, fault: LineFault) -> None:
        super().__init__(fault.detail)
        self.fault = fault


def read_object(raw: bytes) -> dict[str, object]:
    """One JSON object.

    Raises:
        ValueError: it is none, names a member twice, or is nested too deeply; the text says which.
    """
    try:
        found = _JSON.decode(raw.decode())
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg}, at character {error.colno}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if isinstance(found, dict):
        return found
    raise ValueError("must be one JSON object")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"has the member {json.dumps(twice[: limits.PARAMETER_NAME_CHARS_MAX])} twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"is not JSON: {name} is no number")


_JSON: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_number)


class LineReader(Protocol):
    """Reads lines of one format."""

    def read(self, number: int, line: bytes) -> Row | list[LineFault] | None:
        """The entry in a line, or what is wrong with it; None: the line is empty.

        Raises:
            UnreadableFileError: the file as a whole is not as it must be.
        """

    def end(self) -> None:
        """All lines were read.

        Raises:
            UnreadableFileError: as `read`.
        """


def reader_of(file_format: FileFormat, kind: Kind) -> LineReader:
    """What reads files of this format with entries of this kind."""
    return CsvReader(kind) if file_format is FileFormat.CSV else NdjsonReader(kind)


class NdjsonReader:
    """Reads lines that are each a JSON object; a member that a line does not give stays as it is."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    def read(self, number: int, line: bytes) -> Row | list[LineFault] | None:
        """The entry in a line."""
        if not line.strip():
            return None
        try:
            given = read_object(line)
        except ValueError as error:
            return [LineFault(number, None, str(error))]
        return _row(self._kind, number, given)

    def end(self) -> None:
        """A file may be empty."""


class CsvReader:
    """Reads lines of CSV (RFC 4180) below a header with names of members, in any order, the id among them.

    A member without a column stays as it is; an empty cell is what a new entry has. No member holds a line
    break, so that a quoted cell ends on its line.
    """

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._columns: list[tuple[str, Callable[[str], object]]] | None = None

    def read(self, number: int, line: bytes) -> Row | list[LineFault] | None:
        """The entry in a line; the first that is not empty is the header."""
        try:
            cells = _cells(line)
        except ValueError as error:
            if self._columns is None:
                raise UnreadableFileError(LineFault(number, None, str(error))) from None
            return [LineFault(number, None, str(error))]
        if not any(cells):
            return None
        if self._columns is None:
            self._columns = self._header(number, [cell.strip() for cell in cells])
            return None
        if len(cells) != len(self._columns):
            return [
                LineFault(
                    number,
                    None,
                    f"has {len(cells)} cells below a header of {len(self._columns)}: a cell that holds a"
                    " comma stands in quotation marks",
                )
            ]
        given = {
            name: read(_without_apostrophe(cell)) if cell else None
            for (name, read), cell in zip(self._columns, cells, strict=True)
        }
        return _row(self._kind, number, given)

    def end(self) -> None:
        """A file has a header."""
        if self._columns is None:
            raise UnreadableFileError(LineFault(1, None, f"there is no header: {self._known()}"))

    def _header(self, number: int, names: list[str]) -> list[tuple[str, Callable[[str], object]]]:
        known: Mapping[str, directory.Member] = MEMBERS[self._kind]
        own = self._kind.id_member
        wrong = [name for name in names if name != own and name not in known]
        if wrong or own not in names or len(set(names)) < len(names):
            if wrong:
                what = f"{wrong[0][: limits.PARAMETER_NAME_CHARS_MAX]!r} is no column"
            elif own not in names:
                what = f"the column {own} is not there"
            else:
                what = f"the column {next(name for name in names if names.count(name) > 1)} stands twice"
            raise UnreadableFileError(LineFault(number, None, f"in the header {what}: {self._known()}"))
        return [(name, str.strip if name == own else known[name].of_cell) for name in names]

    def _known(self) -> str:
        names = ", ".join(MEMBERS[self._kind])
        return f"it has {self._kind.id_member} and any of {names}, with commas between them"


def _cells(line: bytes) -> list[str]:
    try:
        rows = list(csv.reader([line.decode()], strict=True))
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (at byte {error.start + 1}): save the file as UTF-8") from None
    except csv.Error as error:
        raise ValueError(
            f"is not CSV ({error}): a quotation mark in a cell stands doubled, and the cell in quotation"
            " marks, which end on the same line"
        ) from None
    return rows[0] if rows else []


def _without_apostrophe(cell: str) -> str:
    return cell[1:] if cell[0] == "'" and _HARMFUL.match(cell) else cell


def harmless(cell: str) -> str:
    """The text of a cell such that no spreadsheet calculates it; reading a file takes that off again."""
    return f"'{cell}" if _HARMFUL.match(cell) else cell


def _row(kind: Kind, number: int, given: Mapping[str, object]) -> Row | list[LineFault]:
    members, faults = directory.read_members(kind, given)
    if given.get(kind.id_member) is None:
        faults.insert(0, Fault(kind.id_member, "is needed: it names the entry"))
        faults = [
            fault for place, fault in enumerate(faults) if not (place and fault.member == kind.id_member)
        ]
    if faults:
        return [LineFault(number, fault.member, fault.detail) for fault in faults]
    return Row(number, str(given[kind.id_member]), members)
