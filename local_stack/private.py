"""Keeps the local stack's data directory to its owner: directories 0700, files 0600."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

UMASK: Final = 0o077
"""Group and others get nothing of a new file or directory; children inherit it."""

# All that `pisync up` makes in a data directory.
ENTRIES: Final = frozenset(
    {
        *("bridges", "credentials", "demo", "lock", "logs"),
        *("mongodb", "mosquitto", "mosquitto-secure", "redis"),
    }
)


# What has modes of its own below it, which its directory closes to others.
CLOSED: Final = frozenset({"credentials"})


@contextlib.contextmanager
def umask() -> Iterator[None]:
    """What this process, and the children that it starts meanwhile, make is private to its user."""
    before = os.umask(UMASK)
    try:
        yield
    finally:
        os.umask(before)


def put_right(data: Path) -> list[str]:
    """Take from group and others what an earlier version, or another umask, let them have of the data.

    Only `ENTRIES` are touched. Where other things stand beside them, somebody chose a directory with a
    second purpose, and its own mode stays: with `--data /tmp` nobody else could use that any more.

    Returns:
        a line for a person about each thing that was done or could not be.

    Raises:
        OSError: something there belongs to another user.
    """
    present = {entry.name for entry in data.iterdir()}
    paths = [path for name in sorted(present & ENTRIES - CLOSED) for path in _tree(data / name)]
    paths += [data / name for name in sorted(present & CLOSED)]
    lines = []
    if present <= ENTRIES:
        paths.append(data)
    elif _is_open(data):
        lines.append(f"{data} holds other things, too, so its mode stays; PiSync's own data in it is private")
    opened = [path for path in paths if _is_open(path)]
    for path in opened:
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~UMASK)
    if opened:
        lines.append(
            f"other users could reach {len(opened)} files and directories in {data}: they cannot now"
        )
    return lines


def _tree(top: Path) -> Iterator[Path]:
    """A file or directory and all below it; what a symbolic link points to is not ours."""
    if not top.is_symlink():
        yield top
        if top.is_dir():
            for entry in top.iterdir():
                yield from _tree(entry)


def _is_open(path: Path) -> bool:
    return bool(path.lstat().st_mode & UMASK)
