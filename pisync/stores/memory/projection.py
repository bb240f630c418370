"""The projection in memory."""

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import islice, takewhile

from pisync import limits
from pisync.clock import now, to_ms
from pisync.domain.alerts import AlertChange, Rule
from pisync.domain.device_state import DeviceState
from pisync.stores.interfaces.feed import Changes, FeedPosition, StateSummary
from pisync.stores.interfaces.projection import Attachment, DeviceRecord, Mark
from pisync.stores.interfaces.ranking import (
    FailingDevice,
    Position,
    ProjectionStatus,
    RankedBy,
    Ranking,
    RankingQuery,
)


class MemoryProjection:
    """A `ProjectionReader` and `Projection` that forgets when the process ends."""

    def __init__(self, known_bridges: Callable[[], Mapping[str, str] | None] = dict) -> None:
        self._known = known_bridges
        self.states: dict[str, DeviceState] = {}
        self.alerting: set[str] = set()
        self.watermarks: dict[str, int] = {}
        # Until when, by the loop's clock, all of a bridge is merged; or the instance that stopped.
        self.merged_until: dict[str, float | str] = {}
        self.catching_up: set[str] = set()
        self.built = True
        self.pending = False
        # Which life of the projection this is, and the number of each device's newest change, ascending.
        self._epoch = 0
        self._numbers: dict[str, int] = {}
        self._newest = 0

    async def ping(self) -> None:
        """Always there."""

    async def attach(self, known: Collection[str]) -> Attachment:
        """Find what is kept."""
        lowest_ms = min(
            (self.watermarks.get(bridge_id, 0) for bridge_id in {*known, *self.watermarks}), default=0
        )
        return Attachment(
            built=self.built,
            pending=self.pending,
            watermarked=frozenset(self.watermarks),
            watermark_ms=lowest_ms,
        )

    async def set_watermark(
        self,
        bridge_id: str,
        watermark_ms: int,
        *,
        catching_up: bool,
        unmerged_ms: int = 0,
        stopped: str | None = None,
    ) -> bool:
        """Record how far the bridge's events are merged."""
        self.watermarks[bridge_id] = watermark_ms
        if catching_up:
            self.catching_up.add(bridge_id)
            self.merged_until.pop(bridge_id, None)
        else:
            self.merged_until[bridge_id] = stopped or asyncio.get_running_loop().time() - unmerged_ms / 1000
        return self.pending

    async def finish_catch_up(self, bridge_id: str) -> None:
        """Record that the bridge has caught up."""
        self.catching_up.discard(bridge_id)

    async def compare_alerts(self, open_alerts: Collection[str]) -> list[AlertChange]:
        """Compare everything."""
        if self.pending or self.catching_up:
            return []
        changes = []
        for device_id in dict.fromkeys([*self.states, *self.alerting, *open_alerts]):
            streak = self._streak(device_id)
            opens = streak >= limits.STREAK_ALERT
            if not opens == (device_id in self.alerting) == (device_id in open_alerts):
                changes.append(_change(device_id, streak, opens=opens))
        return changes

    async def begin_rebuild(
        self, bridge_id: str, alerting: Sequence[str], *, from_nothing: bool = False
    ) -> bool:
        """Start anew."""
        if from_nothing:
            for kept in (self.states, self.alerting, self.catching_up):
                kept.clear()
            self._numbers.clear()
        self._epoch += 1
        self.built = self.pending = True
        self.alerting.update(alerting)
        return True

    async def claim_comparison(self, bridge_id: str) -> bool:
        """Nobody else does."""
        return True

    async def report_replay(self, bridge_id: str, replayed: int, to_replay: int) -> None:
        """Nobody to tell."""

    async def finish_rebuild(self, bridge_id: str) -> None:
        """Declare it complete."""
        self.pending = False

    async def leave(self, bridge_id: str) -> None:
        """Forget the watermark."""
        self.watermarks.pop(bridge_id, None)
        self.merged_until.pop(bridge_id, None)
        self.catching_up.discard(bridge_id)

    async def marks(self) -> dict[str, Mark]:
        """What every bridge last said of itself."""
        signs = await self.heartbeats()
        return {
            bridge_id: replace(
                _mark(watermark_ms, self.merged_until.get(bridge_id)),
                catching_up=bridge_id in self.catching_up,
                sign_ms=signs[bridge_id],
            )
            for bridge_id, watermark_ms in self.watermarks.items()
        }

    async def status(self) -> ProjectionStatus:
        """How true the answers are."""
        if not self.built or self.pending:
            return ProjectionStatus(complete=False)
        known = self._known()
        behind = frozenset(
            each for each in {*self.watermarks, *(known or ())} if self._is_behind(each, known)
        )
        return ProjectionStatus(complete=known is not None and not behind, behind=behind)

    def _is_behind(self, bridge_id: str, known: Mapping[str, str] | None) -> bool:
        said = self.merged_until.get(bridge_id)
        if isinstance(said, float):
            return abs(asyncio.get_running_loop().time() - said) > limits.PROJECTION_YOUNG_S
        return said is None or said != (known or {}).get(bridge_id)

    async def heartbeats(self) -> dict[str, int]:
        """When each bridge gave its last sign."""
        now_ms = to_ms(now())
        return self.watermarks | dict.fromkeys(self.catching_up, now_ms)

    async def apply(self, states: Mapping[str, DeviceState], *, anew: bool = False) -> list[AlertChange]:
        """Merge the states; nothing can be lost here."""
        changes: list[AlertChange] = []
        for device_id, state in states.items():
            kept = self.states.get(device_id)
            self.states[device_id] = merged = state if kept is None else kept.merge(state)
            if merged != kept:
                self._newest += 1
                self._numbers.pop(device_id, None)
                self._numbers[device_id] = self._newest
            if merged.alerting or (kept is not None and kept.alerting):
                changes += self._outdated(device_id)
        return changes

    async def confirm(self, changes: Sequence[AlertChange]) -> list[AlertChange]:
        """Record the alerts."""
        outdated: list[AlertChange] = []
        for change in changes:
            (self.alerting.add if change.opens else self.alerting.discard)(change.device_id)
            outdated += self._outdated(change.device_id)
        return outdated

    def _outdated(self, device_id: str) -> list[AlertChange]:
        streak = self._streak(device_id)
        opens = streak >= limits.STREAK_ALERT
        if self.pending or self.catching_up or opens == (device_id in self.alerting):
            return []
        return [_change(device_id, streak, opens=opens)]

    def _streak(self, device_id: str) -> int:
        return self.states[device_id].streak if device_id in self.states else 0

    async def state(self, device_id: str) -> DeviceState | None:
        """One device's state."""
        return self.states.get(device_id)

    async def states_of(self, device_ids: Sequence[str]) -> list[DeviceState | None]:
        """The same of several devices."""
        return [self.states.get(device_id) for device_id in device_ids]

    async def records(self, device_ids: Sequence[str]) -> list[DeviceRecord]:
        """All that is kept of these devices."""
        return [
            replace(DeviceRecord.of(self.states.get(device_id)), alerting=device_id in self.alerting)
            for device_id in device_ids
        ]

    async def changes(self, after: FeedPosition | None) -> Changes:
        """What changed after a position; everything is read in the order of the first merges."""
        life = str(self._epoch)
        if not self.built or (after is not None and after.projection != life):
            return Changes(position=None, devices=[])
        number, cursor = (self._newest, 0) if after is None else (after.numbers[0], after.cursors[0])
        newer = takewhile(lambda each: self._numbers[each] > number, reversed(self._numbers))
        changed = list(newer)[::-1]
        if cursor is not None:
            ids = list(islice(self.states, cursor, cursor + limits.CHANGES_AT_ONCE))
            cursor = cursor + len(ids) if cursor + len(ids) < len(self.states) else None
        else:
            ids = changed[: limits.CHANGES_AT_ONCE]
            changed = changed[limits.CHANGES_AT_ONCE :]
            number = self._numbers[ids[-1]] if ids else number
        return Changes(
            position=FeedPosition(projection=life, numbers=(number,), cursors=(cursor,), unnumbered=(0,)),
            devices=[(device_id, StateSummary.of(self.states[device_id])) for device_id in ids],
            behind=len(changed),
            of=len(self.states),
            rebuilding=self.pending,
        )

    async def device_ids(self) -> AsyncIterator[list[str]]:
        """Every device of which anything is kept, one batch."""
        yield [*self.states, *self.alerting]

    async def repeated_failures(self, query: RankingQuery) -> Ranking:
        """One page of failing devices."""
        rows = []
        for device_id, state in self.states.items():
            since = 0
            if query.since_ms is not None:
                since = bisect_right(state.failures_ms, query.since_ms - 1)
            row = FailingDevice(
                device_id=device_id,
                failures=state.failures,
                failures_since=state.failures - since,
                streak=state.streak,
                last_failure_ms=state.failures_ms[-1] if state.failures_ms else None,
                last_success_ms=state.last_success_ms,
                last_seen_ms=state.last_event.timestamp_ms,
                position=Position(score=_score(state, query.ranked_by), device_id=device_id),
            )
            if row.failures_since > query.more_than:
                rows.append(row)
        rows.sort(key=lambda row: (row.position.score, row.device_id), reverse=True)
        if query.after is not None:
            end = (query.after.score, query.after.device_id)
            rows = [row for row in rows if (row.position.score, row.device_id) < end]
        return Ranking(devices=rows[: query.limit], projection=await self.status())

    async def close(self) -> None:
        """Nothing to close."""


def _mark(watermark_ms: int, said: float | str | None) -> Mark:
    """What was said, as a mark."""
    if isinstance(said, float):
        ago_ms = round((asyncio.get_running_loop().time() - said) * 1000)
        return Mark(watermark_ms=watermark_ms, merged_ms_ago=ago_ms)
    return Mark(watermark_ms=watermark_ms, stopped=said)


def _change(device_id: str, streak: int, *, opens: bool) -> AlertChange:
    return AlertChange(device_id=device_id, rule=Rule.STREAK, streak=streak, opens=opens)


def _score(state: DeviceState, ranked_by: RankedBy) -> int:
    match ranked_by:
        case RankedBy.FAILURES:
            return min(state.failures, limits.FAILURES_KEPT_MAX)
        case RankedBy.STREAK:
            return state.streak
        case RankedBy.LAST_SEEN:
            return state.last_event.timestamp_ms
