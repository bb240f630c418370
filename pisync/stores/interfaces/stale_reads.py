"""Reads that may be older than what is acknowledged, and how old they may be."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pisync.stores.interfaces.events import EventStore


class Age(Protocol):
    """Tells how old what is read may be."""

    def as_of(self) -> datetime | None:
        """All that was acknowledged by then is in what is read from now on, by the primary's clock.

        None: not known.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class StaleReads:
    """Events as a secondary may have them: nothing is decided by them, and none is said to be absent."""

    events: EventStore
    age: Age
