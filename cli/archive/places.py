"""Where an archive is: a directory, or what stands for one in a bucket; files that are whole or not there."""

import errno
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Protocol

from cli.archive.manifests import File
from pisync import limits
from pisync.errors import ArchiveUnusable, ConfigurationError

LOCK: Final = "_lock"
_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})
_S3: Final = re.compile(r"s3://([A-Za-z0-9.\-_]{3,63})(?:/(.*))?", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Options:
    """Where a server of S3 is, and its region; None: Amazon's, and what AWS's tools would take."""

    endpoint: str | None = None
    region: str | None = None


class Place(Protocol):
    """Files by their paths in an archive, with slashes. Each method raises `OSError` where it fails."""

    def names(self, folder: str) -> list[str]:
        """The names of what is in a folder, in order; none where there is no such folder."""

    def open(self, path: str) -> IO[bytes]:
        """A file to be read, in any order.

        Raises:
            FileNotFoundError: there is none.
        """

    def size(self, path: str) -> int | None:
        """The bytes of a file; None: there is none."""

    def create(self, path: str) -> IO[bytes]:
        """A file to be written; nobody may rely on it before it is closed and renamed."""

    def finish(self, partial: str, path: str) -> None:
        """Give a file that was written its name, durably, in place of one that has it."""

    def delete(self, path: str) -> None:
        """Delete a file or a folder, if it is there."""

    def alone(self) -> AbstractContextManager[None]:
        """Nobody else writes the archive in the context, where the place can see to that.

        Raises:
            ArchiveUnusable: somebody does.
        """

    def told(self, path: str) -> str:
        """The path as it is told to people."""


class Directory:
    """A `Place` in a file system."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self, folder: str) -> list[str]:
        """The names in a folder."""
        try:
            return sorted(found.name for found in (self._root / folder).iterdir())
        except FileNotFoundError:
            return []

    def open(self, path: str) -> IO[bytes]:
        """A file to be read."""
        return (self._root / path).open("rb")

    def size(self, path: str) -> int | None:
        """The bytes of a file."""
        try:
            return (self._root / path).stat().st_size
        except FileNotFoundError:
            return None

    def create(self, path: str) -> IO[bytes]:
        """A file that its owner alone may read: hashes of keys are among the facts."""
        file = self._root / path
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.fdopen(os.open(file, flags, 0o600), "wb")

    def finish(self, partial: str, path: str) -> None:
        """Rename it, and have the disk know that."""
        target = self._root / path
        _sync(self._root / partial)
        (self._root / partial).replace(target)
        _sync(target.parent)
        _sync(target.parent.parent)

    def delete(self, path: str) -> None:
        """Delete a file, or a folder of files."""
        target = self._root / path
        if target.is_dir():
            for file in target.iterdir():
                file.unlink()
            target.rmdir()
        else:
            target.unlink(missing_ok=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold a lock, which ends with the process; file systems that have none leave it to who calls."""
        with self.create(LOCK) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ArchiveUnusable(
                    f"{self._root}: another export writes this archive; wait for its end"
                ) from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
            yield

    def told(self, path: str) -> str:
        """The path in the file system."""
        return str(self._root / path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Written:
    """A file that is written from its beginning to its end, and digested meanwhile."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: Any) -> int:
        """Write what is next."""
        self._digest.update(data)
        size = memoryview(data).nbytes
        self.size_bytes += size
        self._file.write(data)
        return size

    def flush(self) -> None:
        """Hand on what is buffered."""
        self._file.flush()

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._file.closed

    def close(self) -> None:
        """End it."""
        self._file.close()

    def file(self, rows: int) -> File:
        """What was written."""
        return File(rows=rows, size_bytes=self.size_bytes, sha256=self._digest.hexdigest())


def at(address: str, options: S3Options) -> Place:
    """The place at an address: a path, or `s3://bucket/prefix`.

    Raises:
        ConfigurationError: it is no address, or what it needs is not installed.
    """
    if address and "://" not in address:
        return Directory(Path(address))
    match = _S3.fullmatch(address)
    prefix = "" if match is None else (match[2] or "").strip("/")
    if match is None or "//" in prefix:
        raise ConfigurationError(
            "the address of an archive is a directory, or s3://BUCKET/PREFIX without empty parts"
        )
    from cli.archive.parquet import Bucket  # noqa: PLC0415 - only what has to loads pyarrow

    return Bucket(match[1], prefix, options)


@contextmanager
def reached(place: Place, path: str) -> Iterator[None]:
    """What fails in the context failed at this file.

    Raises:
        ArchiveUnusable: something did.
    """
    try:
        yield
    except FileNotFoundError:
        raise ArchiveUnusable(f"{place.told(path)}: there is no such file") from None
    except OSError as error:
        raise ArchiveUnusable(f"{place.told(path)}: {error.strerror or error}") from None


def write(place: Place, path: str, content: bytes) -> None:
    """Write a small file, whole or not at all.

    Raises:
        ArchiveUnusable: it cannot be written.
    """
    partial = f"{path}.part"
    with reached(place, path):
        with place.create(partial) as file:
            file.write(content)
        place.finish(partial, path)


def read(place: Place, path: str) -> bytes | None:
    """A manifest's bytes; None: there is none.

    Raises:
        ArchiveUnusable: it cannot be read.
    """
    with reached(place, path):
        try:
            with place.open(path) as file:
                return file.read(limits.ARCHIVE_MANIFEST_BYTES_MAX)
        except FileNotFoundError:
            return None


def compare(place: Place, path: str, file: File) -> None:
    """Return where a file has the bytes that its manifest says.

    Raises:
        ArchiveUnusable: it has others, or cannot be read.
    """
    digest, size_bytes = hashlib.sha256(), 0
    with reached(place, path), place.open(path) as opened:
        while piece := opened.read(limits.ARCHIVE_PIECE_BYTES):
            digest.update(piece)
            size_bytes += len(piece)
    if (size_bytes, digest.hexdigest()) != (file.size_bytes, file.sha256):
        raise ArchiveUnusable(
            f"{place.told(path)}: it is not the file of its manifest ({size_bytes:,} bytes where that has"
            f" {file.size_bytes:,}, or other ones); delete its manifest, and export it again"
        )
