"""An import: all of a file is looked at before any of it is applied, in batches that may be repeated.

The file is read line by line into a spool, which costs the same memory for every size. Then it is compared
with what is stored. Where a line is at fault, or nothing would change, or nobody wants more than a look, that
is all; else one action says what is meant, and the entries are written. An import that is interrupted leaves
its action as `begun`: the same file again writes what is missing.
"""

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from fastapi import Request
from starlette.exceptions import HTTPException

from api.directory import changes
from api.directory.reading import LineFault, LineReader, Row, UnreadableFileError
from api.directory.spool import Spool
from api.lines import Lines
from api.state import State
from pisync import limits, logs
from pisync.domain import directory
from pisync.domain.actions import Progress, What
from pisync.domain.directory import Entry, Kind
from pisync.stores.interfaces.directory import EntryWrite, KeptEntry

log = logs.get("api.directory")

# Lines after which others get their turn: reading them takes some milliseconds.
_LINES_AT_ONCE: Final = 100


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What an import changes, or would, in entries; `refused` counts lines, of which `faults` are told."""

    created: int = 0
    changed: int = 0
    unchanged: int = 0
    refused: int = 0
    faults: list[LineFault] = field(default_factory=list)
    more: int = 0
    action_id: str | None = None

    def refuse(self, faults: Sequence[LineFault]) -> None:
        """Count a line with these faults."""
        self.refused += 1
        told = faults[: limits.IMPORT_FAULTS_TOLD_MAX - len(self.faults)]
        self.faults += told
        self.more += len(faults) - len(told)

    def count(self, before: Entry | None, after: Entry) -> None:
        """Count an entry that was compared."""
        if before is None:
            self.created += 1
        elif before != after:
            self.changed += 1
        else:
            self.unchanged += 1

    def counts(self) -> dict[str, int]:
        """The counts of entries, and of lines that were refused."""
        return {
            "created": self.created,
            "changed": self.changed,
            "unchanged": self.unchanged,
            "refused": self.refused,
        }


async def run(
    state: State, request: Request, kind: Kind, reader: LineReader, *, who: str, dry_run: bool
) -> Outcome:
    """Import the body of a request; where lines are at fault, or with `dry_run`, nothing is changed.

    Raises:
        HTTPException: 413, the body is too large, or has too many entries; 503, others change its entries all
            the time.
    """
    outcome = Outcome()
    with Spool(kind) as spool:
        try:
            file = await _read(request, reader, spool, outcome)
        except UnreadableFileError as error:
            outcome.refuse([error.fault])
            return outcome
        if kind is Kind.DEVICES:
            await _refuse_unknown_sites(state, spool, outcome)
        outcome.faults.sort(key=lambda fault: fault.line)
        changed = await _compare(state, kind, spool, outcome)
        if dry_run or outcome.refused or not (outcome.created or outcome.changed):
            return outcome
        action = changes.new_action(who, What.IMPORT, kind, None, details=file | outcome.counts() | changed)
        outcome.action_id = action.action_id
        await state.actions.begin(action)
        done = Outcome(unchanged=outcome.unchanged, action_id=action.action_id)
        for rows in spool.batches():
            await _apply(state, kind, rows, done)
        await state.actions.settle(action.action_id, Progress.DONE, file | done.counts() | changed)
        log.info("directory imported", action=action.action_id, kind=kind.value, **done.counts())
        return done


async def _read(request: Request, reader: LineReader, spool: Spool, outcome: Outcome) -> dict[str, Any]:
    """Read the body into the spool; returns what identifies the file."""
    digest, size_bytes, entries = hashlib.sha256(), 0, 0
    lines = Lines(limits.IMPORT_LINE_BYTES_MAX)

    async def read(some: Iterable[tuple[int, bytes | None]]) -> None:
        nonlocal entries
        for number, line in some:
            entries += _read_line(number, line, reader, spool, outcome)
            if entries > limits.IMPORT_ENTRIES_MAX:
                raise _too_large(f"{limits.IMPORT_ENTRIES_MAX} entries")
            if number % _LINES_AT_ONCE == 0:
                await asyncio.sleep(0)

    async for piece in request.stream():
        size_bytes += len(piece)
        if size_bytes > limits.IMPORT_BYTES_MAX:
            raise _too_large(f"{limits.IMPORT_BYTES_MAX} bytes")
        digest.update(piece)
        await read(lines.feed(piece))
    await read(lines.end())
    reader.end()
    return {"sha256": digest.hexdigest(), "bytes": size_bytes}


def _read_line(number: int, line: bytes | None, reader: LineReader, spool: Spool, outcome: Outcome) -> bool:
    """Read a line; whether it is about an entry."""
    if line is None:
        read: Row | list[LineFault] | None = [
            LineFault(number, None, f"has more than {limits.IMPORT_LINE_BYTES_MAX} bytes")
        ]
    else:
        read = reader.read(number, line)
    if isinstance(read, Row):
        fault = spool.add(read)
        if fault is not None:
            outcome.refuse([fault])
    elif read is not None:
        outcome.refuse(read)
    return read is not None


def _too_large(limit: str) -> HTTPException:
    return HTTPException(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"One import takes at most {limit}: cut the file in two. Nothing was applied.",
    )


async def _refuse_unknown_sites(state: State, spool: Spool, outcome: Outcome) -> None:
    for sites in spool.sites():
        kept = await state.directory.get(Kind.SITES, sites)
        unknown = [site for site in sites if site not in kept or kept[site].is_deleted]
        for fault in spool.refuse_sites(unknown):
            outcome.refuse([fault])


async def _compare(state: State, kind: Kind, spool: Spool, outcome: Outcome) -> dict[str, Any]:
    """Count what would change, and forget the others; returns the first changes, for the action."""
    told: list[dict[str, Any]] = []
    for rows in spool.batches():
        compared = await _compared(state, kind, rows)
        for row, _kept, before, after in compared:
            outcome.count(before, after)
            if before != after and len(told) < limits.IMPORT_CHANGES_TOLD_MAX:
                then, now = directory.differences(before, after)
                told.append({"id": row.identifier, "before": then, "after": now})
        spool.forget([row for row, _, before, after in compared if before == after])
    return {"changes": told}


async def _compared(
    state: State, kind: Kind, rows: Sequence[Row]
) -> list[tuple[Row, KeptEntry | None, Entry | None, Entry]]:
    """Each row, what is kept of its entry, the entry before, and after."""
    kept = await state.directory.get(kind, [row.identifier for row in rows])
    compared = []
    for row in rows:
        found = kept.get(row.identifier)
        before = None if found is None or found.is_deleted else found.entry
        after = directory.changed(before or directory.new(kind, row.identifier), row.members)
        compared.append((row, found, before, after))
    return compared


async def _apply(state: State, kind: Kind, rows: Sequence[Row], done: Outcome) -> None:
    """Write these entries; those that others changed at the same moment again."""
    for _ in range(limits.DIRECTORY_CHANGE_TRIES):
        compared = await _compared(state, kind, rows)
        writes = [
            EntryWrite(entry=after, version=0 if kept is None else kept.version)
            for _, kept, before, after in compared
            if before != after
        ]
        written = await state.directory.write(kind, writes, done.action_id or "")
        rows = []
        for row, _, before, after in compared:
            if before == after or row.identifier in written:
                done.count(before, after)
            else:
                rows.append(row)
        if not rows:
            return
    raise HTTPException(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "Others change entries of this file all the time: the same import again finishes it.",
        {"Retry-After": str(limits.RETRY_AFTER_S)},
    )
