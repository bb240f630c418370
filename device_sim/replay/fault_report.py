"""The report: a line of JSON for each line that is not confirmed, and at last what became of all."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from device_sim.replay.items import Fault
from pisync.errors import PiSyncError


class FaultReport:
    """Written, in the order of the files, before the checkpoint that covers it; without a path, nowhere."""

    def __init__(self, path: Path | None, keep_bytes: int) -> None:
        """Keep what was written of what is before the checkpoint, and nothing else.

        Raises:
            PiSyncError: it cannot be written.
        """
        self._path = path
        self.size_bytes = keep_bytes
        if path is not None:
            with _told(path), path.open("ab") as file:
                file.truncate(keep_bytes)
                self.size_bytes = keep_bytes

    def add(self, faults: Sequence[Fault]) -> None:
        """Write faults down, and let the system have them.

        Raises:
            PiSyncError: it cannot be written.
        """
        self._write(msgspec.json.Encoder().encode_lines(faults))

    def end(self, summary: dict[str, Any]) -> None:
        """Write the summary."""
        self._write(msgspec.json.encode({"summary": summary}) + b"\n")

    def _write(self, data: bytes) -> None:
        if self._path is None or not data:
            return
        with _told(self._path), self._path.open("ab") as file:
            file.write(data)
        self.size_bytes += len(data)


class _told:  # noqa: N801 - used as a function
    """Says which file an error of the system is about."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            raise PiSyncError(f"--report {self._path}: {error.strerror}") from None
