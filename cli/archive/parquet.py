"""Parquet and S3, by pyarrow: the columns of each file, how rows are written and read, and a bucket."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import IO, Any, Final, Self

from cli.archive.manifests import File
from cli.archive.places import Place, S3Options, Written, reached
from pisync import limits
from pisync.errors import ArchiveUnusable, ConfigurationError
from pisync.stores.mongodb.archived import Kept

try:
    import pyarrow as pa
    from pyarrow import fs
    from pyarrow import parquet as pq
except ImportError:
    raise ConfigurationError(
        "archives need pyarrow, which is an extra: pip install 'pisync[export]', `make setup`, or an image"
        " built with --build-arg LOCK=export"
    ) from None

_MOMENT: Final = pa.timestamp("ms", tz="UTC")
_ERROR: Final = pa.struct(
    [pa.field("code", pa.string(), nullable=False), pa.field("message", pa.string(), nullable=False)]
)
EVENTS: Final = pa.schema(
    [
        pa.field("device_id", pa.string(), nullable=False),
        pa.field("timestamp", _MOMENT, nullable=False),
        pa.field("received_at", _MOMENT, nullable=False),
        pa.field("total_files_synced", pa.int64(), nullable=False),
        pa.field("total_errors", pa.int64(), nullable=False),
        pa.field("internet_speed", pa.float64(), nullable=False),
        pa.field("device_type", pa.string()),
        pa.field("sync_duration_ms", pa.int64()),
        pa.field("errors", pa.list_(_ERROR)),
        pa.field("enriched_at", _MOMENT),
    ]
)
DOCUMENTS: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("document", pa.string(), nullable=False),
        pa.field("bson", pa.binary(), nullable=False),
    ]
)
_IDENTITY: Final = ("device_id", "timestamp")
_CONTENT: Final = tuple(name for name in EVENTS.names if name not in _IDENTITY)
_MEMBERS: Final = frozenset({"_id", *_CONTENT})
_WITHOUT_ZONE: Final = pa.timestamp("ms")


class Writer:
    """A file of Parquet that is being written; rows are held until they make a group."""

    def __init__(self, file: IO[bytes], schema: Any) -> None:
        self._written = Written(file)
        self._schema = schema
        self._writer = pq.ParquetWriter(self._written, schema, compression="zstd")
        self._held: list[Any] = []
        self._rows = self._held_rows = self._held_bytes = 0

    def add_events(self, documents: Sequence[Mapping[str, Any]]) -> None:
        """Add events as MongoDB has them.

        Raises:
            ArchiveUnusable: they have what there is no column for, so that it would not come back.
        """
        if unknown := set[str]().union(*documents) - _MEMBERS:
            names = ", ".join(sorted(unknown))
            raise ArchiveUnusable(
                f"MongoDB has members of events that this program does not know ({names}): a newer program"
                " wrote them, so export with that one"
            )
        ids = [document["_id"] for document in documents]
        columns = [[identity[name] for identity in ids] for name in _IDENTITY]
        columns += [[document.get(name) for document in documents] for name in _CONTENT]
        self._add(columns)

    def add_documents(self, documents: Sequence[Kept]) -> None:
        """Add documents of a collection."""
        if documents:
            self._add(list(zip(*documents, strict=True)))

    def _add(self, columns: Sequence[Sequence[Any]]) -> None:
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
        batch = pa.record_batch(arrays, schema=self._schema)
        self._held.append(batch)
        self._held_rows += batch.num_rows
        self._held_bytes += batch.nbytes
        if self._held_rows >= limits.ARCHIVE_GROUP_EVENTS or self._held_bytes >= limits.ARCHIVE_GROUP_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        self._writer.write_table(pa.Table.from_batches(self._held, self._schema))
        self._rows += self._held_rows
        self._held, self._held_rows, self._held_bytes = [], 0, 0

    def end(self) -> File:
        """Write what is held, and close the file; returns what it is."""
        if self._held:
            self._write_group()
        self._writer.close()
        self._written.close()
        return self._written.file(self._rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close what was not ended; nobody relies on it, because it has no name yet."""
        if not self._written.closed:
            with suppress(OSError, pa.ArrowException):
                self._writer.close()
            with suppress(OSError):
                self._written.close()


def read_events(place: Place, path: str) -> Iterator[list[dict[str, Any]]]:
    """The events of a file, some at a time; times have no zone, and are in UTC.

    Raises:
        ArchiveUnusable: it is no such file.
    """
    for batch in _batches(place, path, EVENTS, limits.ARCHIVE_INSERT_EVENTS):
        try:
            columns = [
                (column.cast(_WITHOUT_ZONE) if field.type == _MOMENT else column).to_pylist()
                for column, field in zip(batch.columns, EVENTS, strict=True)
            ]
        except (OverflowError, ValueError) as error:  # a time after the year 9999, or a text that is none
            raise ArchiveUnusable(f"{place.told(path)}: {error}") from None
        yield [dict(zip(EVENTS.names, row, strict=True)) for row in zip(*columns, strict=True)]


def read_documents(place: Place, path: str) -> Iterator[list[bytes]]:
    """The documents of a file as BSON, some at a time.

    Raises:
        ArchiveUnusable: it is no such file.
    """
    for batch in _batches(place, path, DOCUMENTS, limits.ARCHIVE_INSERT_DOCUMENTS):
        yield batch.column("bson").to_pylist()


def rows_of(place: Place, path: str) -> int:
    """How many rows a file has.

    Raises:
        ArchiveUnusable: it is no file of Parquet.
    """
    with _opened(place, path) as file:
        return int(file.metadata.num_rows)


def _batches(place: Place, path: str, schema: Any, rows: int) -> Iterator[Any]:
    with _opened(place, path) as file:
        if not file.schema_arrow.equals(schema):
            raise ArchiveUnusable(f"{place.told(path)}: its columns are not those of an archive")
        yield from file.iter_batches(rows)


@contextmanager
def _opened(place: Place, path: str) -> Iterator[Any]:
    with reached(place, path), place.open(path) as source:
        try:
            yield pq.ParquetFile(source)
        except pa.ArrowInvalid as error:
            raise ArchiveUnusable(f"{place.told(path)}: {error}") from None


class Bucket:
    """A `Place` in a bucket of S3, under a prefix; credentials are those of the usual AWS variables."""

    def __init__(self, bucket: str, prefix: str, options: S3Options) -> None:
        """Open nothing yet.

        Raises:
            ConfigurationError: the endpoint cannot be understood.
        """
        self._root = f"{bucket}/{prefix}".rstrip("/")
        scheme, _, host = (options.endpoint or "").rpartition("://")
        try:
            self._files = fs.S3FileSystem(
                region=options.region,
                connect_timeout=limits.ARCHIVE_S3_CONNECT_TIMEOUT_S,
                request_timeout=limits.ARCHIVE_S3_TIMEOUT_S,
                **({"scheme": scheme or "https", "endpoint_override": host} if host else {}),
            )
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"S3: {error}") from None

    def names(self, folder: str) -> list[str]:
        """The names in a folder."""
        selector = fs.FileSelector(self._at(folder), allow_not_found=True)
        return sorted(found.base_name for found in self._files.get_file_info(selector))

    def open(self, path: str) -> IO[bytes]:
        """An object to be read."""
        opened: IO[bytes] = self._files.open_input_file(self._at(path))
        return opened

    def size(self, path: str) -> int | None:
        """The bytes of an object."""
        found = self._files.get_file_info(self._at(path))
        return int(found.size) if found.type == fs.FileType.File else None

    def create(self, path: str) -> IO[bytes]:
        """An object that is there once it is closed."""
        created: IO[bytes] = self._files.open_output_stream(self._at(path))
        return created

    def finish(self, partial: str, path: str) -> None:
        """Copy it in the bucket, and delete what was copied."""
        self._files.move(self._at(partial), self._at(path))

    def delete(self, path: str) -> None:
        """Delete an object, or all below a prefix."""
        kind = self._files.get_file_info(self._at(path)).type
        if kind == fs.FileType.File:
            self._files.delete_file(self._at(path))
        elif kind == fs.FileType.Directory:
            self._files.delete_dir(self._at(path))

    def alone(self) -> AbstractContextManager[None]:
        """A bucket has no locks."""
        return nullcontext()

    def told(self, path: str) -> str:
        """The path as an address."""
        return f"s3://{self._at(path)}"

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"
