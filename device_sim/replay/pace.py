"""When each entry is due: by its own time, compressed; at a rate; or at once. Pure."""

from dataclasses import dataclass, field

from device_sim.replay.items import Entry


@dataclass(kw_only=True, slots=True)
class Pace:
    """At most one of both is given.

    `speed` is how many seconds of the file pass in one; `rate` events a second. `fell_back` counts entries
    that are older than one before them, which are due at once.
    """

    speed: float | None = None
    rate: float | None = None
    fell_back: int = 0
    _started_s: float | None = None
    _first_ms: int = 0
    _newest_ms: int = field(default=-(1 << 62))
    _entries: int = 0

    @property
    def waits(self) -> bool:
        """Whether entries are due at some time."""
        return self.speed is not None or self.rate is not None

    def due_s(self, entry: Entry, now_s: float) -> float:
        """When the next entry is due."""
        if self._started_s is None:
            self._started_s, self._first_ms = now_s, entry.at_ms
        due_s = now_s
        if self.speed is not None:
            due_s = self._started_s + (entry.at_ms - self._first_ms) / 1000 / self.speed
            if entry.at_ms < self._newest_ms:
                self.fell_back += 1
        elif self.rate is not None:
            due_s = self._started_s + self._entries / self.rate
        self._entries += 1
        self._newest_ms = max(self._newest_ms, entry.at_ms)
        return due_s
