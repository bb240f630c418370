"""The facts of all devices as columns: about 125 bytes a device, of which a query reads a few."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Longs = npt.NDArray[np.int64]
Indexes = npt.NDArray[np.intp]

# 0 stands for what is not known, unless the column says otherwise. Of a device, what changes with its events:
_FACTS: Final[dict[str, npt.DTypeLike]] = {
    "received_ms": np.int64,
    "seen_ms": np.int64,
    "success_ms": np.int64,
    "failure_ms": np.int64,
    "failures": np.uint16,
    "streak": np.uint16,
    "code": np.int32,
    "device_type": np.uint8,
    "ok_day": np.uint16,
    "ok_bits": np.uint64,
    "bad_day": np.uint16,
    "bad_bits": np.uint64,
    "heard_day": np.uint16,
    "heard_bits": np.uint64,
    "files": np.int64,
    "errors": np.int64,
    "speed": np.float64,
    "duration_ms": np.int64,
    "learned_habit": np.uint16,
    "status": np.uint8,
}
# And what operators say of it.
_DIRECTORY: Final[dict[str, npt.DTypeLike]] = {
    "in_directory": np.bool_,
    "site": np.int32,
    "labels": np.int32,
    "set_habit": np.uint16,
    "muted_until_ms": np.int64,
    "retired": np.bool_,
}
# How much room for more devices is made at once: an eighth of those that there are.
_GROWTH: Final = 8
_ROOM_MIN: Final = 1024


class Columns:
    """One array for each fact, all with room for as many rows.

    `received_ms` is by our clock; `seen_ms` (the newest event), `success_ms`, `failure_ms` by the device's.
    `code`, `site`, `labels`, `device_type` are numbers of texts. Days are three windows (`Days`). Habits are
    in days. `status` is a place in `Status`. `duration_ms` is negative where it is not known.
    """

    received_ms: Longs
    seen_ms: Longs
    success_ms: Longs
    failure_ms: Longs
    failures: npt.NDArray[np.uint16]
    streak: npt.NDArray[np.uint16]
    code: npt.NDArray[np.int32]
    device_type: npt.NDArray[np.uint8]
    ok_day: npt.NDArray[np.uint16]
    ok_bits: npt.NDArray[np.uint64]
    bad_day: npt.NDArray[np.uint16]
    bad_bits: npt.NDArray[np.uint64]
    heard_day: npt.NDArray[np.uint16]
    heard_bits: npt.NDArray[np.uint64]
    files: Longs
    errors: Longs
    speed: npt.NDArray[np.float64]
    duration_ms: Longs
    learned_habit: npt.NDArray[np.uint16]
    status: npt.NDArray[np.uint8]
    in_directory: Bools
    site: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    set_habit: npt.NDArray[np.uint16]
    muted_until_ms: Longs
    retired: Bools

    def __init__(self) -> None:
        self._room = 0
        for name, dtype in (_FACTS | _DIRECTORY).items():
            setattr(self, name, np.zeros(0, dtype))

    def make_room(self, rows: int) -> None:
        """Have room for so many rows at least."""
        if rows <= self._room:
            return
        self._room = max(rows + rows // _GROWTH, _ROOM_MIN)
        for name in _FACTS | _DIRECTORY:
            old: npt.NDArray[Any] = getattr(self, name)
            new = np.zeros(self._room, old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)

    def without_facts(self) -> "Columns":
        """A copy of what operators said, with as much room and no facts."""
        other = Columns()
        other.make_room(self._room)
        for name in _DIRECTORY:
            getattr(other, name)[: self._room] = getattr(self, name)
        return other

    def size_bytes(self) -> int:
        """What all of it takes."""
        return sum(getattr(self, name).nbytes for name in _FACTS | _DIRECTORY)
