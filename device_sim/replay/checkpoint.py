"""How far a replay is, in a file that is written whole or not at all: one that was killed goes on from it."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from pisync.errors import ConfigurationError, PiSyncError


class Counts(msgspec.Struct, kw_only=True):
    """What became of the files' records up to a place. `passed_over` goes by why, `faults` by reason.

    Events: `stored`, `duplicates` and `rejected`. Lines: `left_out` and `passed_over`.
    """

    stored: int = 0
    duplicates: int = 0
    rejected: int = 0
    left_out: int = 0
    passed_over: dict[str, int] = {}
    faults: dict[str, int] = {}

    @property
    def confirmed(self) -> int:
        """Events that the bridge has for good."""
        return self.stored + self.duplicates

    def add(self, other: "Counts") -> None:
        """Count what another one counted."""
        self.stored += other.stored
        self.duplicates += other.duplicates
        self.rejected += other.rejected
        self.left_out += other.left_out
        for name, number in other.passed_over.items():
            self.passed_over[name] = self.passed_over.get(name, 0) + number
        for name, number in other.faults.items():
            self.faults[name] = self.faults.get(name, 0) + number


class Checkpoint(msgspec.Struct, kw_only=True):
    """All records before this place are confirmed, rejected, left out or passed over.

    `asked` is what was asked for; another wish does not go on from here. `file` is the place among the files,
    `head` how its records are read, `times` what is remembered of times that come twice. `shift_ms` is what
    times are moved by. `report_bytes` is how much of the report is about what is before this place.
    """

    asked: str
    file: int = 0
    position: int = 0
    line: int = 0
    head: dict[str, Any] | None = None
    times: dict[str, Any] | None = None
    shift_ms: int = 0
    report_bytes: int = 0
    counts: Counts = msgspec.field(default_factory=Counts)

    @property
    def is_begun(self) -> bool:
        """Whether there is something to go on with."""
        return self.file > 0 or self.position > 0 or self.shift_ms != 0


def load(path: Path) -> Checkpoint | None:
    """The checkpoint in a file; None where there is none.

    Raises:
        ConfigurationError: the file is no checkpoint, or cannot be read.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Checkpoint)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    except msgspec.DecodeError:
        raise ConfigurationError(
            f"{path} is no checkpoint of a replay: give another with --resume, or begin anew with --restart"
        ) from None


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write it such that a crash leaves the one before or this one.

    Raises:
        PiSyncError: it cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(checkpoint)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise PiSyncError(
            f"the checkpoint {path} cannot be written: {error.strerror}; give another --resume"
        ) from None


def remove(path: Path) -> None:
    """Nothing is left to go on with."""
    with suppress(FileNotFoundError):
        path.unlink()
