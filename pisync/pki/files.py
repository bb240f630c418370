"""Files that are there whole or not at all, secrets with their mode, and one writer of a directory."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pisync.errors import ConfigurationError

SECRET_MODE: Final = 0o600
PUBLIC_MODE: Final = 0o644
DIRECTORY_MODE: Final = 0o700
_OTHERS: Final = 0o077
_LOCK: Final = ".lock"


def make_directory(directory: Path) -> None:
    """A directory that only its owner may enter, with those above it; one that is there stays as it is.

    Raises:
        ConfigurationError: it cannot be made.
    """
    try:
        directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    except OSError as error:
        raise _failed(directory, "cannot be made", error) from None


@contextmanager
def locked(directory: Path, *, waits: bool = False) -> Iterator[None]:
    """Write in a directory alone, as far as other programs of PiSync go; the lock ends with its process.

    `waits` until another process is done, which is for what takes no time.

    Raises:
        ConfigurationError: another process writes there, or this one may not.
    """
    try:
        descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, SECRET_MODE)
    except OSError as error:
        raise _failed(directory, "cannot be written", error) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError:
            raise ConfigurationError(
                f"{directory} is being written by another command: wait until that has ended, and try again"
            ) from None
        yield
    finally:
        os.close(descriptor)


def write(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file under another name, and give it its own once it is durable; under the directory's lock.

    Raises:
        ConfigurationError: it cannot be written; what was there before is as it was.
    """
    waiting = path.with_name(f".{path.name}.part")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(waiting, flags, mode)
        try:
            os.fchmod(descriptor, mode)  # whatever the umask is, and whoever left the file
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        waiting.rename(path)
    except OSError as error:
        waiting.unlink(missing_ok=True)
        raise _failed(path, "cannot be written", error) from None


def read(path: Path, *, bytes_max: int) -> bytes:
    """The bytes of a file.

    Raises:
        ConfigurationError: it cannot be read, or has more than so many bytes.
    """
    try:
        with path.open("rb") as file:
            content = file.read(bytes_max + 1)
    except OSError as error:
        raise _failed(path, "cannot be read", error) from None
    if len(content) > bytes_max:
        raise ConfigurationError(f"{path} has more than {bytes_max:,} bytes: it is not what is looked for")
    return content


def read_secret(path: Path, *, bytes_max: int) -> bytes:
    """The bytes of a file that only its owner may read.

    Raises:
        ConfigurationError: others may read it, or it cannot be read.
    """
    try:
        mode = path.stat().st_mode & 0o777
    except OSError as error:
        raise _failed(path, "cannot be read", error) from None
    if mode & _OTHERS:
        raise ConfigurationError(
            f"{path} has the mode {mode:04o}, so that others than its owner may use it: if nobody has,"
            " `chmod 600` it; otherwise make a new one"
        )
    return read(path, bytes_max=bytes_max)


def _failed(path: Path, what: str, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"{path} {what}: {error.strerror or error}")
