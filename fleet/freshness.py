"""How fresh the fleet in memory is: what a page may claim of it."""

import asyncio
from datetime import datetime
from enum import StrEnum

import msgspec

from pisync.clock import now
from pisync.stores.interfaces.ranking import ProjectionStatus


class Moment(msgspec.Struct, frozen=True):
    """A moment by the wall clock, and by the event loop's, which nobody sets."""

    wall: datetime
    loop_s: float

    @classmethod
    def now(cls) -> "Moment":
        """The present one."""
        return cls(now(), asyncio.get_running_loop().time())


class FleetState(StrEnum):
    """What the fleet in memory is as of.

    `LOADING`: not everything was read yet. `CURRENT`: all of it is. `BEHIND`: devices changed more quickly
    than they are read. `STALE`: it is what it was, and something keeps it from being read anew.
    """

    LOADING = "loading"
    CURRENT = "current"
    BEHIND = "behind"
    STALE = "stale"


class Freshness(msgspec.Struct, frozen=True, kw_only=True):
    """How true answers from the fleet are.

    `as_of`: everything until then is in it; None while it is loaded for the first time. `read` of `of`
    devices are read, where it is loaded, or loaded anew. `behind`: so many devices changed since `as_of`.
    `why` it is stale, in words for everybody. `projection`: how true that is from which it was read; None
    where that is not known.
    """

    state: FleetState
    as_of: datetime | None
    read: int = 0
    of: int = 0
    behind: int = 0
    why: str | None = None
    projection: ProjectionStatus | None = None

    @property
    def complete(self) -> bool:
        """Whether answers are all that is known: it is current, and so is the projection."""
        return self.state is FleetState.CURRENT and self.projection is not None and self.projection.complete
