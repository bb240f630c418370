"""A page of the devices that fail repeatedly: what is asked, and what is answered."""

from dataclasses import dataclass
from enum import StrEnum


class RankedBy(StrEnum):
    """The orders in which failing devices are listed, each descending."""

    FAILURES = "failures"
    STREAK = "streak"
    LAST_SEEN = "last_seen"


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """Where a page ended: the last row's score and device id. Rows are ordered by both, descending."""

    score: int
    device_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RankingQuery:
    """A page of the devices with more than `more_than` failures (since `since`, where given)."""

    more_than: int
    ranked_by: RankedBy
    limit: int
    since_ms: int | None = None
    after: Position | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FailingDevice:
    """One row; counts go up to `limits.FAILURES_KEPT_MAX`, times are epoch milliseconds.

    What the projection lost, and no comparison has put right yet, is None.
    """

    device_id: str
    failures: int
    failures_since: int
    streak: int | None
    last_failure_ms: int | None
    last_success_ms: int | None
    last_seen_ms: int | None
    position: Position


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectionStatus:
    """How true the projection is: `complete`, or how far the replay is that makes it so.

    Complete: no rebuild is pending, and every bridge merged all that it stored until a few seconds ago, or
    did so and stopped. `behind` has the ids of the bridges that did not; it is empty where a rebuild is
    pending, or where MongoDB does not say which bridges there are. `replayed` of `to_replay` events are
    merged again; both are 0 where no replay has begun.
    """

    complete: bool
    behind: frozenset[str] = frozenset()
    replayed: int = 0
    to_replay: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """A page of failing devices, and how true it is."""

    devices: list[FailingDevice]
    projection: ProjectionStatus
