"""What PiSync asks of the projection: each device's state, and how complete it is."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, Self

from pisync.domain.alerts import AlertChange
from pisync.domain.device_state import DeviceState
from pisync.stores.interfaces.feed import Changes, FeedPosition
from pisync.stores.interfaces.ranking import ProjectionStatus, Ranking, RankingQuery


class Rank(StrEnum):
    """What devices with failures are ranked by."""

    FAILURES = "failures"
    STREAK = "streak"
    LAST_SEEN = "last_seen"


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What pages are told of a device's failures, without looking at each."""

    failures: int
    streak: int
    last_failure_ms: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceRecord:
    """All that the projection holds of one device, right or wrong: its state and what follows from it.

    `state` is None where nothing is kept; `stray_ms` are failures that are there all the same. `ranks` are
    its scores; `alerting`: its alert of the rule `streak` is open and confirmed; `numbered`: its newest
    change has a number, so that whoever reads changes is told of it.
    """

    state: DeviceState | None
    told: Told | None
    ranks: Mapping[Rank, int]
    alerting: bool
    numbered: bool = True
    stray_ms: tuple[int, ...] = ()

    @classmethod
    def of(cls, state: DeviceState | None) -> Self:
        """What the projection should hold for a state; None: a device without events."""
        if state is None:
            return cls(state=None, told=None, ranks={}, alerting=False, numbered=False)
        streak = state.streak
        ranks: dict[Rank, int] = {}
        if state.failures:
            ranks[Rank.FAILURES] = state.failures
            ranks[Rank.STREAK] = streak
            ranks[Rank.LAST_SEEN] = state.last_event.timestamp_ms
        told = Told(failures=state.failures, streak=streak, last_failure_ms=state.last_failure_ms)
        return cls(state=state, told=told, ranks=ranks, alerting=state.alerting)

    @property
    def failures_ms(self) -> tuple[int, ...]:
        """The failures that are kept, ascending."""
        return self.stray_ms if self.state is None else self.state.failures_ms


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """What a bridge last said of itself: its watermark, 0 where it has none, and how long ago all was merged.

    `merged_ms_ago` is None where it never said so in this life, or where it stopped: then `stopped` is the
    instance that did. `catching_up`: it said so within the last half minute. `sign_ms`: when it last said
    anything, as `heartbeats` tells it.
    """

    watermark_ms: int = 0
    merged_ms_ago: int | None = None
    stopped: str | None = None
    catching_up: bool = False
    sign_ms: int = 0

    def has_stopped(self, instance: str | None) -> bool:
        """Whether the bridge, whose last life is this instance, ended with nothing left to merge."""
        return self.stopped is not None and self.stopped == instance


class ProjectionReader(Protocol):
    """Reads each device's state.

    Each method raises `RedisUnavailable` where Redis is unavailable; the call may then be repeated.
    """

    async def ping(self) -> None:
        """Return when the store answers."""

    async def state(self, device_id: str) -> DeviceState | None:
        """One device's state; None for a device never seen."""

    async def states_of(self, device_ids: Sequence[str]) -> list[DeviceState | None]:
        """The same of several devices, in their order, in one round trip."""

    async def repeated_failures(self, query: RankingQuery) -> Ranking:
        """One page of failing devices."""

    async def status(self) -> ProjectionStatus:
        """How true the answers are."""

    async def heartbeats(self) -> dict[str, int]:
        """When each bridge gave its last sign, in epoch ms: a watermark, or word that it catches up."""

    async def marks(self) -> Mapping[str, Mark]:
        """What every bridge last said of itself, in one round trip."""

    async def records(self, device_ids: Sequence[str]) -> list[DeviceRecord]:
        """All that is kept of these devices, in their order."""

    async def changes(self, after: FeedPosition | None) -> Changes:
        """What changed after a position, about `limits.CHANGES_AT_ONCE` devices at most, in one round trip.

        None begins anew: every device is told once, part by part, and then what changed since the beginning.
        A change after the position is never missed: where numbers may have been lost, or be those of another
        history, because Redis was restarted, emptied, or went back, the answer has no position.
        """

    def device_ids(self) -> AsyncIterator[list[str]]:
        """Every device of which anything is kept, in batches; some more than once."""

    async def close(self) -> None:
        """Close the connections."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attachment:
    """What a bridge finds when it attaches: whether there is a projection, and how complete it may be.

    `pending`: a rebuild of it is under way. `watermarked`: the bridges with a watermark. `watermark_ms`: the
    lowest watermark of any bridge, 0 where a known one has none; what any bridge received before it is
    merged.
    """

    built: bool
    pending: bool
    watermarked: frozenset[str]
    watermark_ms: int


class Projection(ProjectionReader, Protocol):
    """Keeps each device's state by merging what it is given, and knows how complete it is.

    This is the bridge's side. Of alerts it knows those of the rule `streak`: it reports which may have to
    change, so that not every batch has to be judged by MongoDB. A bridge attaches first. Every writing
    method raises `ProjectionLost` once the projection is not the one that was attached to: it is not
    written to then.
    """

    async def attach(self, known: Collection[str]) -> Attachment:
        """Find the projection and stick to it; these bridges have stored events, with a watermark or not."""

    async def apply(self, states: Mapping[str, DeviceState], *, anew: bool = False) -> list[AlertChange]:
        """Merge the states into the kept ones.

        Args:
            states: by device.
            anew: write what follows from them though nothing changed, because keys may be lost.

        Returns:
            Every touched device whose alert is out of date, of those whose streak is long enough for an alert
            or was before; others are found by comparing everything. None while any bridge catches up,
            because half a history says much that the whole one does not. After some minutes it says it all
            the same: the alerts are judged by MongoDB, and one bridge that is stuck must not silence those
            of the others.
        """

    async def confirm(self, changes: Sequence[AlertChange]) -> list[AlertChange]:
        """Record that these alerts were opened or closed, so that `apply` stops reporting them.

        Returns those that are out of date again, because another bridge moved the streak meanwhile.
        """

    async def set_watermark(
        self,
        bridge_id: str,
        watermark_ms: int,
        *,
        catching_up: bool,
        unmerged_ms: int = 0,
        stopped: str | None = None,
    ) -> bool:
        """Record that all this bridge's events received before `watermark_ms` are merged.

        While it catches up, the projection is not complete. Otherwise it is, as far as this bridge goes,
        while this record is a few seconds old at most, by the clock of the store.

        Args:
            bridge_id: whose watermark it is.
            watermark_ms: by the bridge's clock.
            catching_up: a replay is under way.
            unmerged_ms: for how long MongoDB may have had an event of this bridge that is not merged.
            stopped: the instance that merged everything and stores nothing more. The projection may be
                complete until another instance claims the bridge.

        Returns:
            Whether a rebuild is pending.
        """

    async def finish_catch_up(self, bridge_id: str) -> None:
        """Record that this bridge has caught up; it compares the alerts next, for it may be the last."""

    async def compare_alerts(self, open_alerts: Collection[str]) -> list[AlertChange]:
        """Compare all streaks with all alerts; these devices have an open one.

        Returns every device whose streak, whose open alert and whose confirmed alert do not all agree; none
        while any bridge catches up, which will compare in its turn.
        """

    async def begin_rebuild(
        self, bridge_id: str, alerting: Sequence[str], *, from_nothing: bool = False
    ) -> bool:
        """Start a new projection, in which these devices are alerting; False where another bridge does.

        What is kept stays and is merged with, unless `from_nothing`: then all but the watermarks is removed
        first, because merging cannot undo what is wrong.
        """

    async def claim_comparison(self, bridge_id: str) -> bool:
        """Compare everything, or go on with it; False where another bridge does, and is alive."""

    async def report_replay(self, bridge_id: str, replayed: int, to_replay: int) -> None:
        """Say how far a replay is, and that its bridge is alive."""

    async def finish_rebuild(self, bridge_id: str) -> None:
        """Declare the projection complete."""

    async def leave(self, bridge_id: str) -> None:
        """Forget this bridge's watermark."""
