"""What the api is expected to answer, what it answered, and each difference as a sentence."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

Json = dict[str, Any]

TOLD_OF_ANSWER: Final = 5
_HARMFUL: Final = tuple("=+-@\t\r")


@dataclass(frozen=True, kw_only=False)
class Listed:
    """A list: the rows of all its pages in order, and members that stand on every page.

    Of a list whose rows are not `in_order`, only the members that are expected are compared, by device.
    """

    path: str
    name: str
    rows: Sequence[Json]
    members: Mapping[str, Any]
    in_order: bool = True


@dataclass(frozen=True)
class Single:
    """An answer with these members, and maybe others; `begins`: how texts of it begin."""

    path: str
    members: Mapping[str, Any]
    begins: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Filed:
    """A file with these rows: CSV or NDJSON, as its suffix says."""

    path: str
    rows: Sequence[Json]

    @property
    def is_csv(self) -> bool:
        """Whether it is CSV."""
        return self.path.partition("?")[0].endswith(".csv")


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """All that is asked."""

    lists: Sequence[Listed]
    singles: Sequence[Single]
    files: Sequence[Filed]


@dataclass(frozen=True, kw_only=True)
class Told:
    """What was answered, by path: all pages of lists, single answers, the text of files."""

    pages: Mapping[str, Sequence[Json]]
    singles: Mapping[str, Json]
    files: Mapping[str, str]


def differences(expected: Expectation, told: Told) -> list[str]:
    """Each difference as a sentence; of one answer a few, and how many more there are."""
    found: list[str] = []
    for listed in expected.lists:
        found += _few(listed.path, _list_differences(listed, told.pages[listed.path]))
    for single in expected.singles:
        found += _few(single.path, _single_differences(single, told.singles[single.path]))
    for filed in expected.files:
        found += _few(filed.path, _file_differences(filed, told.files[filed.path]))
    return found


def _few(path: str, found: Iterator[str]) -> list[str]:
    everything = list(found)
    more = len(everything) - TOLD_OF_ANSWER
    sentences = [f"GET {path}: {each}" for each in everything[:TOLD_OF_ANSWER]]
    return [*sentences, f"GET {path}: {more:,} more differences"] if more > 0 else sentences


def _list_differences(expected: Listed, pages: Sequence[Json]) -> Iterator[str]:
    for number, page in enumerate(pages, start=1):
        for name, value in expected.members.items():
            if page.get(name) != value:
                yield f"page {number} tells {name} {page.get(name)!r}, the events come to {value!r}"
    rows = [row for page in pages for row in page[expected.name]]
    if not expected.in_order:
        rows = sorted(rows, key=lambda row: str(row["device_id"]))
        rows = [
            {name: row.get(name) for name in (expected.rows[0] if expected.rows else row)} for row in rows
        ]
    yield from _row_differences(expected.rows, rows)


def _row_differences(expected: Sequence[Json], rows: Sequence[Json]) -> Iterator[str]:
    if len(rows) != len(expected):
        yield f"it has {len(rows):,} rows, the events come to {len(expected):,}"
    names, named = [_name(row) for row in expected], [_name(row) for row in rows]
    if names != named:
        for name in sorted(set(names) - set(named)):
            yield f"{name} is missing"
        for name in sorted(set(named) - set(names)):
            yield f"{name} should not be there"
        for name in sorted({name for name in named if named.count(name) > 1} if len(named) < 5000 else ()):
            yield f"{name} is there {named.count(name)} times"
        for place, (one, other) in enumerate(zip(names, named, strict=False), start=1):
            if one != other:
                yield f"row {place} is {other}, the order says {one}"
                break
    by_name = dict(zip(names, expected, strict=True))
    for name, row in zip(named, rows, strict=True):
        if name in by_name and row != by_name[name]:
            yield f"{name}: {_members(by_name[name], row)}"


def _name(row: Json) -> str:
    """By which a row is told apart: a device, a site, a cause, or an event of a device."""
    if "received_at" in row:
        return f"{row.get('device_id', '')} {row['timestamp']}".strip()
    for name in ("device_id", "site_id", "code"):
        if name in row:
            return str(row[name])
    return str(row)


def _members(expected: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{name} is {told.get(name)!r}, the events come to {expected.get(name)!r}"
        for name in [*expected, *(name for name in told if name not in expected)]
        if told.get(name) != expected.get(name) or (name in told) != (name in expected)
    )


def _single_differences(expected: Single, told: Json) -> Iterator[str]:
    for name, value in expected.members.items():
        answered = told.get(name)
        if isinstance(value, list) and isinstance(answered, list):
            yield from _part_differences(name, value, answered)
        elif isinstance(value, dict) and isinstance(answered, dict):
            answered = {each: answered.get(each) for each in value}
            if answered != value:
                yield f"{name}: {_members(value, answered)}"
        elif answered != value:
            yield f"{name} is {answered!r}, the events come to {value!r}"
    for name, text in expected.begins.items():
        if not str(told.get(name)).startswith(text):
            yield f"{name} is {told.get(name)!r}, and should begin {text!r}"


def _part_differences(name: str, expected: list[Any], told: list[Any]) -> Iterator[str]:
    """Of rows that have more members than are expected, those that are expected are compared."""
    if len(told) != len(expected):
        yield f"{name} has {len(told)} rows, the events come to {len(expected)}"
    for place, (one, other) in enumerate(zip(expected, told, strict=False)):
        answered = {each: other.get(each) for each in one} if isinstance(one, dict) else other
        if answered != one:
            yield f"{name}, row {place}: it tells {answered!r}, the events come to {one!r}"


def _file_differences(expected: Filed, text: str) -> Iterator[str]:
    if not expected.is_csv:
        rows = [json.loads(line) for line in text.splitlines()]
        yield from _row_differences(expected.rows, rows)
        return
    header, *lines = csv.reader(io.StringIO(text, newline=""))
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    cells = [{name: _cell(value) for name, value in row.items()} for row in expected.rows]
    yield from _row_differences(cells, rows)


def _cell(value: Any) -> str:
    """A member in CSV: a text that a spreadsheet would calculate has an apostrophe before it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        value = " ".join(
            ": ".join(filter(None, each.values())) if isinstance(each, dict) else each for each in value
        )
    text = str(value)
    return f"'{text}" if text.lstrip("'").startswith(_HARMFUL) else text
