"""The times of a file as moments: with an offset, by the clocks of a zone, or as the user says.

By a zone's clocks some times come twice, and some never do. One that comes twice is the first one, until the
times of its device fall back in the file, as they do in a log that is in the order of time; then it is the
second. One that never comes is taken as by a clock that was not put forward. Both are counted.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from pisync.clock import read_rfc3339

UNIX: Final = "unix"
UNIX_MS: Final = "unix_ms"
_MOMENT: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ]+(\d\d:\d\d)(:\d\d)?(?:[.,](\d+))? *([Zz]|[+-]\d\d:?\d\d)?", re.ASCII
)
_SHAPE: Final = "such as 2026-05-08T12:00:00Z or 2026-05-08 12:00"


class NoZoneError(ValueError):
    """A time has no offset, and nothing says what it means."""


class Times:
    """Reads the times of one replay; what it remembers of the hours that come twice is its `state`."""

    def __init__(self, *, zone: ZoneInfo | None = None, time_format: str | None = None) -> None:
        self._zone = zone
        self._format = time_format
        self._repeated: dict[str, tuple[str, int, bool]] = {}
        self.twice = 0
        self.never = 0

    @property
    def is_told(self) -> bool:
        """Whether the user says how times are to be read, beyond those with an offset."""
        return self._zone is not None or self._format is not None

    @property
    def state(self) -> dict[str, Any]:
        """What goes into a checkpoint."""
        return {"repeated": self._repeated, "twice": self.twice, "never": self.never}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what a checkpoint held."""
        self._repeated = {
            name: (text, mark, bool(later)) for name, (text, mark, later) in state["repeated"].items()
        }
        self.twice, self.never = state["twice"], state["never"]

    def read(self, text: str, device_id: str, mark: int) -> datetime:
        """The moment that a text of this device tells, in UTC; `mark` tells its line from others.

        Raises:
            NoZoneError: it has no offset, and there is no zone.
            ValueError: it is no time; the text says why.
        """
        text = text.strip()
        if self._format is not None:
            moment = self._formatted(text)
        else:
            match = _MOMENT.fullmatch(text)
            if match is None:
                raise ValueError(f"{text[:60]!r} is no time, {_SHAPE}; or give --time-format")
            day, minute, second, fraction, offset = match.groups()
            written = f"{day}T{minute}{second or ':00'}" + (f".{fraction}" if fraction else "")
            if offset is not None:
                return _checked(written + offset)
            moment = _checked(written + "Z").replace(tzinfo=None)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
        if self._zone is None:
            raise NoZoneError(
                f"the time {text[:60]!r} has no offset: say with --zone which clock it was read from"
            )
        return self._by_the_clock(moment, self._zone, device_id, mark)

    def _formatted(self, text: str) -> datetime:
        try:
            if self._format in {UNIX, UNIX_MS}:
                milliseconds = float(text) * (1000 if self._format == UNIX else 1)
                return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int(milliseconds))
            return datetime.strptime(text, self._format or "")  # noqa: DTZ007 - the zone comes next
        except (ValueError, OverflowError):
            raise ValueError(f"{text[:60]!r} is no time of the format {self._format}") from None

    def _by_the_clock(self, naive: datetime, zone: ZoneInfo, device_id: str, mark: int) -> datetime:
        try:
            earlier = naive.replace(tzinfo=zone, fold=0)
            later = naive.replace(tzinfo=zone, fold=1)
            offsets = earlier.utcoffset(), later.utcoffset()
            if offsets[0] == offsets[1]:
                return earlier.astimezone(UTC)
            if offsets[0] < offsets[1]:  # type: ignore[operator]
                self.never += 1
                return earlier.astimezone(UTC)
        except OverflowError:
            raise ValueError(f"{naive} is no time in {zone}") from None
        self.twice += 1
        is_later = self._is_second(naive, device_id, mark)
        return (later if is_later else earlier).astimezone(UTC)

    def _is_second(self, naive: datetime, device_id: str, mark: int) -> bool:
        """Whether a time that comes twice is the second one, by what the device's times were before."""
        written = naive.isoformat()
        day = written[:10]
        before = self._repeated.get(device_id)
        if before is None or before[0][:10] != day:
            if before is None and any(other[0][:10] != day for other in self._repeated.values()):
                self._repeated.clear()  # those of another year
            is_later = False
        else:
            same_line = written == before[0] and mark == before[1]
            is_later = before[2] or (written <= before[0] and not same_line)
        self._repeated[device_id] = (written, mark, is_later)
        return is_later


def _checked(text: str) -> datetime:
    try:
        return read_rfc3339(text)[0].astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        raise ValueError(f"{text[:60]!r} is no time that there is") from None
