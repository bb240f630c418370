"""A list of the api as a table, as JSON or as CSV: its first rows, or all of them."""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import typer
from rich.console import Console
from rich.text import Text

from cli import files, tables, truth
from cli.api_client import ApiClient, Json
from cli.commands.options import Shape, Shown
from cli.tables import Column

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
        files.print_pieces(_csv(rows))
    else:
        _print_table(listing, first, rows, more=more)
        if (stale := truth.stale(client.stale_reads)) is not None:
            tables.show(tables.console(), Text(stale))
        return
    if (stale := truth.stale(client.stale_reads)) is not None:
        typer.echo(stale, err=True)
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
        tables.show(target, tables.table(columns, part, target))
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


def _csv(rows: Iterable[Json]) -> Iterator[bytes]:
    """As the api's files: a header with the members of the first row, and a line for each; else nothing."""
    from api.list_files import cell_of, csv_lines  # noqa: PLC0415 - all of FastAPI, which a table needs not

    names: list[str] = []
    for row in rows:
        if not names:
            names = list(row)
            yield csv_lines([names])
        yield csv_lines([[cell_of(row.get(name)) for name in names]])
