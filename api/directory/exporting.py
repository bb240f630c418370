"""The directory as files, in the formats that an import reads: what goes out changes nothing coming in."""

import csv
import io
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

import msgspec

from api.directory.reading import FileFormat, harmless
from pisync import limits
from pisync.domain import directory
from pisync.domain.directory import MEMBERS, Entry, Kind
from pisync.stores.interfaces.directory import DirectoryQuery, DirectoryStore, KeptEntry


async def pieces(
    store: DirectoryStore, kind: Kind, file_format: FileFormat, first: Sequence[KeptEntry]
) -> AsyncIterator[bytes]:
    """The file in pieces, a page of entries at a time, from the first page on."""
    encode = _ENCODERS[file_format]
    if file_format is FileFormat.CSV:
        yield _csv_lines([[kind.id_member, *MEMBERS[kind]]])
    page = first
    while page:
        yield encode(kind, [kept.entry for kept in page])
        page = await page_after(store, kind, directory.entry_id(page[-1].entry))


async def page_after(store: DirectoryStore, kind: Kind, after: str | None) -> list[KeptEntry]:
    """The page of a file that comes after this id; None: the first."""
    return await store.page(DirectoryQuery(kind=kind, limit=limits.DIRECTORY_BATCH, after=after))


def _csv(kind: Kind, entries: Sequence[Entry]) -> bytes:
    return _csv_lines(
        [
            directory.entry_id(entry),
            *(harmless(member.cell(getattr(entry, name))) for name, member in MEMBERS[kind].items()),
        ]
        for entry in entries
    )


def _csv_lines(rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _ndjson(_kind: Kind, entries: Sequence[Entry]) -> bytes:
    return b"".join(msgspec.json.encode(directory.as_json(entry)) + b"\n" for entry in entries)


_ENCODERS: dict[FileFormat, Callable[[Kind, Sequence[Entry]], bytes]] = {
    FileFormat.CSV: _csv,
    FileFormat.NDJSON: _ndjson,
}
