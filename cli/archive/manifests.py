"""What says that a part of an archive is whole: its manifest, which is written last, and where files are."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Final, TypeVar

import msgspec

from pisync import limits
from pisync.clock import Moment
from pisync.errors import ArchiveUnusable

FORMAT: Final = 1
"""The version of an archive's layout; what has a higher one is not read."""

EVENTS: Final = "events"
FACTS: Final = "facts"
MANIFEST: Final = "_manifest.json"
"""Readers of Parquet leave out files whose names begin with an underscore."""

EVENTS_FILE: Final = "events.parquet"
_FACTS_NAME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d-\d{6}Z", re.ASCII)
PARTIAL: Final = "_writing.parquet"


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file of Parquet: its rows, its bytes, and the SHA-256 of these."""

    rows: int
    size_bytes: int
    sha256: str


class _Format(msgspec.Struct, frozen=True, kw_only=True):
    """The one member that a manifest of every format has."""

    format: int


class DayManifest(msgspec.Struct, frozen=True, kw_only=True):
    """A day of receipt; `read_at` is when its events began to be read, by MongoDB's clock."""

    format: int
    day: date
    read_at: Moment
    events: File

    @property
    def is_settled(self) -> bool:
        """Whether no event of the day was still to come when it was read."""
        return is_settled(beginning(self.day), self.read_at)


class FactsManifest(msgspec.Struct, frozen=True, kw_only=True):
    """A set of collections, each of which is a file in the folder of the time at which they were read."""

    format: int
    read_at: Moment
    collections: dict[str, File]


Manifest = TypeVar("Manifest", DayManifest, FactsManifest)


def encode(manifest: DayManifest | FactsManifest) -> bytes:
    """A manifest as it is written."""
    return msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"


def decode(content: bytes, kind: type[Manifest], path: str) -> Manifest:
    """A manifest as it was written.

    Raises:
        ArchiveUnusable: it is none, or of a newer program.
    """
    try:
        # First of all: what else is in there may have changed with it.
        known = msgspec.json.decode(content, type=_Format).format
        if known > FORMAT:
            raise ArchiveUnusable(
                f"{path}: the archive has format {known}, and this program knows {FORMAT}: update it"
            )
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ArchiveUnusable(f"{path}: it is no manifest: {error}") from None


def folder(day: date) -> str:
    """The folder of a day, named as readers of partitions expect it."""
    return f"{EVENTS}/day={day.isoformat()}"


def day_of(name: str) -> date | None:
    """The day whose folder has this name, if it is one."""
    try:
        return date.fromisoformat(name.removeprefix("day=")) if name.startswith("day=") else None
    except ValueError:
        return None


def facts_name(read_at: datetime) -> str:
    """The name of the folder of facts that were read then; of two the later one's is greater."""
    return read_at.strftime("%Y-%m-%dT%H-%M-%S-%fZ")


def is_facts_name(name: str) -> bool:
    """Whether a folder of facts has this name; whatever else is there is somebody else's."""
    return _FACTS_NAME.fullmatch(name) is not None


def beginning(day: date) -> datetime:
    """The moment at which a day begins."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def is_settled(day: datetime, now: datetime) -> bool:
    """Whether no event is to come any more that was received on the day that begins then."""
    return now >= day + timedelta(days=1, seconds=limits.ARCHIVE_SETTLED_S)
