"""The entries of an import while it is looked at: each once, and in a temporary file, not in memory."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

import msgspec

from api.directory.changes import unknown_site
from api.directory.reading import LineFault, Row
from pisync import limits
from pisync.domain import directory
from pisync.domain.directory import Kind


class Spool:
    """The entries of one file by their lines, for use in a `with`, whose end removes them.

    A database without a name is SQLite's own temporary file, of which it keeps a part in memory.
    """

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._database = sqlite3.connect("", isolation_level=None)
        for statement in (
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            f"PRAGMA cache_size = -{limits.IMPORT_SPOOL_MEMORY_KIB}",
            "CREATE TABLE entries (line INTEGER PRIMARY KEY, id TEXT UNIQUE, site TEXT, members TEXT)",
            "CREATE INDEX sites ON entries (site) WHERE site IS NOT NULL",
            "BEGIN",
        ):
            self._database.execute(statement)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def add(self, row: Row) -> LineFault | None:
        """Add an entry; the fault, where another line is about the same one."""
        insert = "INSERT INTO entries VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
        encoded = msgspec.json.encode(row.members).decode()
        values = (row.line, row.identifier, row.members.get("site"), encoded)
        if self._database.execute(insert, values).rowcount:
            return None
        [line] = self._database.execute("SELECT line FROM entries WHERE id = ?", [row.identifier]).fetchone()
        return LineFault(
            row.line,
            self._kind.id_member,
            f"{row.identifier} stands on line {line}, too: leave one of them out",
        )

    def sites(self) -> Iterator[list[str]]:
        """The sites that entries name, each once, some at a time."""
        last = ""
        while True:
            query = "SELECT DISTINCT site FROM entries WHERE site > ? ORDER BY site LIMIT ?"
            found = [site for (site,) in self._database.execute(query, [last, limits.DIRECTORY_BATCH])]
            if not found:
                return
            yield found
            last = found[-1]

    def refuse_sites(self, unknown: Iterable[str]) -> Iterator[LineFault]:
        """Forget the entries that name one of these sites; a fault for each."""
        for site in unknown:
            fault = unknown_site(site)
            query = "SELECT line FROM entries WHERE site = ? ORDER BY line"
            for (line,) in self._database.execute(query, [site]):
                yield LineFault(line, fault.member, fault.detail)
            self._database.execute("DELETE FROM entries WHERE site = ?", [site])

    def batches(self) -> Iterator[list[Row]]:
        """All entries, some at a time; those that were read may be forgotten meanwhile."""
        last = 0
        while True:
            query = "SELECT line, id, members FROM entries WHERE line > ? ORDER BY line LIMIT ?"
            rows = [
                Row(line, identifier, directory.decode_members(self._kind, members))
                for line, identifier, members in self._database.execute(query, [last, limits.DIRECTORY_BATCH])
            ]
            if not rows:
                return
            yield rows
            last = rows[-1].line

    def forget(self, rows: Sequence[Row]) -> None:
        """Forget entries."""
        self._database.executemany("DELETE FROM entries WHERE line = ?", [(row.line,) for row in rows])
