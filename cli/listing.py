"""A list of the api as a table, as JSON or as CSV: its first rows, or all of them."""

import csv
import io
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import typer
from rich.console import Console
from rich.text import Text

from api.directory.reading import harmless
from cli import tables, truth
from cli.api_client import ApiClient, Json
from cli.commands.options import Shape, Shown
from cli.tables import Column
from pisync.domain.payloads import printable

# Rows on a page while all are read; the most that the api gives.
PAGE: Final = 1000
# A table of all rows is printed in parts of so many, each with columns as wide as its own rows need.
TABLE_ROWS_MAX: Final = 10_000

Columns = Sequence[Column] | Callable[[Console], Sequence[Column]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """A list of the api: its path, its member with the rows, and the columns of its table.

    `empty` is what is said where there are no rows, and `beside` a line about a page, or none.
    """

    path: str
    rows: str
    columns: Columns
    empty: str
    beside: Callable[[Json], Text | None] = lambda _page: None
    truth: Callable[[Json], str | None] = truth.line


def show(client: ApiClient, listing: Listing, parameters: Mapping[str, Any], shown: Shown) -> None:
    """Print the rows that the parameters choose.

    Raises:
        PiSyncError: the api is away, or refuses.
    """
    limit = PAGE if shown.limit is None else shown.limit
    pages = client.pages(listing.path, {**parameters, "limit": limit})
    first = next(pages)
    more = shown.limit is not None and first["next"] is not None
    rest = pages if shown.limit is None else iter(())
    rows = (row for page in itertools.chain([first], rest) for row in page[listing.rows])
    if shown.shape is Shape.JSON:
        _print_json(rows)
    elif shown.shape is Shape.CSV:
        _print_csv(rows)
    else:
        _print_table(listing, first, rows, more=more)
        return
    if faults := truth.faults(first):
        typer.echo(f"not exact: {'; '.join(faults)}", err=True)
    if more:
        typer.echo("more: --all", err=True)


def _print_table(listing: Listing, first: Json, rows: Iterator[Json], *, more: bool) -> None:
    target = tables.console()
    columns = listing.columns(target) if callable(listing.columns) else listing.columns
    beside = listing.beside(first)
    if beside is not None:
        tables.show(target, beside)
    if not first[listing.rows]:
        tables.show(target, Text(listing.empty))
    while part := list(itertools.islice(rows, TABLE_ROWS_MAX)):
        tables.show(target, tables.table(columns, part))
    if more:
        tables.show(target, Text("more: --all"))
    told = listing.truth(first)
    if told is not None:
        tables.show(target, Text(told))


def _print_json(rows: Iterable[Json]) -> None:
    """One array; what is not ASCII is escaped, so that no name steers a terminal."""
    typer.echo("[", nl=False)
    for index, row in enumerate(rows):
        typer.echo(f"{',' if index else ''}\n{json.dumps(row)}", nl=False)
    typer.echo("\n]")


def print_object(members: object) -> None:
    """One JSON object or array."""
    typer.echo(json.dumps(members, indent=1))


def _print_csv(rows: Iterable[Json]) -> None:
    """A header with the members of the first row, and a line for each row; nothing where there is none."""
    safe = sys.stdout.isatty()
    names: list[str] = []
    for row in rows:
        if not names:
            names = list(row)
            sys.stdout.write(_csv_line(names))
        line = _csv_line([_cell(row.get(name)) for name in names])
        sys.stdout.write(printable(line, keep="\n\t") if safe else line)  # echo would drop characters


def _csv_line(cells: Sequence[str]) -> str:
    target = io.StringIO()
    csv.writer(target, lineterminator="\n").writerow(cells)
    return target.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and not any(isinstance(each, dict) for each in value):
        value = " ".join(map(str, value))
    elif isinstance(value, (dict, list)):
        value = json.dumps(value)
    return harmless(str(value))
