"""The duty of the rollups: counts what was received, and keeps that in step with the events.

What is stored was counted from events and replaces what was there, so that a worker that is killed, or has
lost its lease without knowing it yet, leaves nothing that is counted twice or half. How far it is, is written
down after the rollups: whoever goes on counts some again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final, TypeVar

import msgspec

from pisync import limits, logs
from pisync.clock import from_ms, rfc3339, to_ms
from pisync.domain.rollups import MINUTE_MS, NO_EVENTS, Figures, Progress, Span, Unit, by_unit, total
from pisync.stores.interfaces.bridges import BridgeRegistry
from pisync.stores.interfaces.rollups import Part, ReceivedEvents, RollupStore
from worker.counting import Count, count_minute
from worker.horizon import Horizon

log = logs.get(__name__)
T = TypeVar("T")

DUTY: Final = "rollups"


class Rolling:
    """One term of the duty, in one worker."""

    def __init__(
        self, *, received: ReceivedEvents, rollups: RollupStore, registry: BridgeRegistry, term: int
    ) -> None:
        self._received = received
        self._rollups = rollups
        self._registry = registry
        self._term = term
        self.progress = Progress()
        # Of the newest events, and of those of a gap before them: its end, too.
        self._newest: Count | None = None
        self._gap: tuple[Count, int] | None = None
        # How far behind MongoDB's clock that was, and when it was so.
        self._behind: tuple[float, float] | None = None
        self.events_counted = 0
        self.minutes_recounted = 0
        # Events of minutes that this term closed, by how late they were received, as `Figures` has it.
        self.lateness = NO_EVENTS.lateness

    async def run(self) -> None:
        """Count until cancelled.

        Raises:
            MongodbUnavailable: what was counted since the last progress is to be counted again.
            LeaseLost: another worker has the duty.
        """
        loop = asyncio.get_running_loop()
        told_at = loop.time()
        await self.begin()
        while True:
            began = loop.time()
            due = began + limits.ROLLUP_INTERVAL_S
            await self.follow()
            # What is old has its share, however long it took to follow.
            until = max(due, loop.time() + (loop.time() - began) * limits.ROLLUP_FILL_SHARE)
            while loop.time() < until and await self._rested(self.fill):
                if loop.time() - told_at > limits.ROLLUP_TOLD_INTERVAL_S:
                    told_at = loop.time()
                    self._tell()
            await asyncio.sleep(due - loop.time())

    def _tell(self) -> None:
        gap = self.progress.newest_gap()
        if gap is not None:
            log.info("counting old events", before=rfc3339(from_ms(gap.end_ms)), counted=self.events_counted)

    def lag_s(self) -> float | None:
        """How long ago what is not counted yet was received; None before the first look."""
        if self._behind is None:
            return None
        behind_s, at = self._behind
        return behind_s + asyncio.get_running_loop().time() - at

    @property
    def minutes_open(self) -> int:
        """How many minutes are counted that are not closed."""
        return (
            -(-(self.progress.until_ms - self.progress.closed_ms) // MINUTE_MS)
            if self.progress.covered
            else 0
        )

    async def begin(self) -> None:
        """Find out how far the last term came, and where to go on."""
        self.progress = await self._rollups.begin(self._term)

    async def follow(self) -> None:
        """Count what came in, and again what may have changed."""
        # First of all: what was stored by then is seen by everything that follows.
        stored_until = await self._registry.stored_until()
        now = await self._registry.server_time()
        horizon = Horizon.of(now, stored_until)
        if not self.progress.closed_ms:
            first_ms = horizon.closed_ms
            await self._save(closed_ms=first_ms, confirmed_ms=first_ms, enriched_ms=first_ms)
        await self._count_newest(horizon.counted_ms)
        behind_s = (to_ms(now) - self.progress.until_ms) / 1000
        self._behind = max(0.0, behind_s), asyncio.get_running_loop().time()
        closed_ms = min(horizon.closed_ms, Unit.MINUTE.floor(self.progress.until_ms))
        await self._count_enriched(horizon.closed_ms)
        await self._close("closed_ms", closed_ms)
        await self._close("confirmed_ms", closed_ms - round(limits.ROLLUP_CONFIRM_AFTER_S * 1000))

    async def _count_newest(self, until_ms: int) -> None:
        if self._newest is None:
            covered_ms = self.progress.until_ms
            is_recent = until_ms - covered_ms <= limits.ROLLUP_RESUME_S * 1000
            self._newest = Count(self._received, Unit.MINUTE.floor(covered_ms if is_recent else until_ms - 1))
        count = self._newest
        # As far as it was counted before, at least: a minute must not lose what it had.
        while count.until_ms < max(until_ms, self.progress.until_ms):
            start_ms = count.minute_ms
            minutes = await self._step(count, max(until_ms, self.progress.until_ms))
            await self._keep(Span(start_ms, count.until_ms), minutes)
            await self._cover(Span(start_ms, count.until_ms))

    async def _step(self, count: Count, end_ms: int) -> Mapping[int, Figures]:
        before = count.events
        minutes = await count.step(end_ms)
        self.events_counted += count.events - before
        return minutes

    async def fill(self) -> bool:
        """Count some events of the newest time that was not counted yet; False where there is none."""
        if self._gap is None:
            gap = self.progress.newest_gap()
            if gap is None:
                return False
            newest_ms = await self._received.newest_before(gap.end_ms)
            if newest_ms is None or newest_ms < gap.start_ms:
                await self._keep(gap, {})
                await self._cover(gap)
                return True
            # Day after day, the newest first.
            self._gap = Count(self._received, max(gap.start_ms, Unit.DAY.floor(newest_ms))), gap.end_ms
        count, end_ms = self._gap
        start_ms = count.minute_ms
        minutes = await self._step(count, end_ms)
        # A minute that is not whole is not stored: what is added to it until then would be missed.
        whole = Span(start_ms, end_ms if count.until_ms == end_ms else count.minute_ms)
        if whole.start_ms < whole.end_ms:
            await self._keep(whole, {minute: minutes[minute] for minute in minutes if minute < whole.end_ms})
            await self._cover(whole)
        if count.until_ms == end_ms:
            self._gap = None
        return True

    async def _count_enriched(self, until_ms: int) -> None:
        """Count the minutes again whose events something was added to."""
        if until_ms > self.progress.enriched_ms:
            span = Span(self.progress.enriched_ms, until_ms)
            await self._count_again(await self._received.enriched_minutes(span))
            await self._save(enriched_ms=until_ms)

    async def _close(self, name: str, until_ms: int) -> None:
        """Look whether all events were counted of the minutes until then, and count others again."""
        since_ms: int = getattr(self.progress, name)
        if until_ms <= since_ms:
            return
        for covered in self.progress.within(Span(since_ms, until_ms)):
            for start_ms in range(covered.start_ms, covered.end_ms, Unit.HOUR.ms):
                span = Span(start_ms, min(start_ms + Unit.HOUR.ms, covered.end_ms))
                stored = await self._rollups.figures(Unit.MINUTE, span)
                if await self._received.count(span) != _events(stored, span):
                    await self._count_again(await self._differing(span, stored))
                    stored = await self._rollups.figures(Unit.MINUTE, span)
                await self._save(**{name: span.end_ms})
                if name == "closed_ms":
                    # Once that is written down no other worker closes them, and counts them here, again.
                    closed = (stored[minute] for minute in stored if span.start_ms <= minute < span.end_ms)
                    self.lateness = total([Figures(lateness=self.lateness), *closed]).lateness
        await self._save(**{name: until_ms})

    async def _differing(self, span: Span, stored: Mapping[int, Figures]) -> list[int]:
        minutes = [Span(start, start + MINUTE_MS) for start in range(span.start_ms, span.end_ms, MINUTE_MS)]
        return [
            minute.start_ms
            for minute in minutes
            if await self._received.count(minute) != _events(stored, minute)
        ]

    async def _count_again(self, minutes: list[int]) -> None:
        for minute_ms in minutes:
            span = Span(minute_ms, minute_ms + MINUTE_MS)
            # The minute of the newest events is not closed, and so none of these.
            if self._gap is not None and self._gap[0].minute_ms == minute_ms:
                self._gap[0].begin_minute_anew()
            if self.progress.within(span) == [span]:
                await self._rested(partial(self._replace_minute, span))

    async def _replace_minute(self, span: Span) -> None:
        await self._keep(span, await count_minute(self._received, span.start_ms))
        self.minutes_recounted += 1

    async def _keep(self, span: Span, minutes: Mapping[int, Figures]) -> None:
        """Have these minutes in a span, and the hours and days that follow from them.

        What became fixed by now stays as it is: some of its events may have been deleted before they were
        counted here. Nothing else was, because a time is fixed before its first event goes.
        """
        fixed_ms = (await self._rollups.progress()).fixed_ms
        if span.start_ms < fixed_ms:
            span = Span(fixed_ms, span.end_ms)
            minutes = {minute: figures for minute, figures in minutes.items() if minute >= fixed_ms}
            if span.start_ms >= span.end_ms:
                return
        parts = [Part(Unit.MINUTE, span, minutes)]
        for unit in (Unit.HOUR, Unit.DAY):
            below, replaced, figures = parts[-1]
            wide = Span(unit.floor(span.start_ms), unit.ceil(span.end_ms))
            others = {
                start_ms: there
                for start_ms, there in (await self._rollups.figures(below, wide)).items()
                if not replaced.start_ms <= start_ms < replaced.end_ms
            }
            parts.append(Part(unit, wide, by_unit(unit, {**others, **figures})))
        await self._rollups.replace(parts, self._term)
        days = parts[-1].figures
        codes: dict[str, Span] = {}
        for minute_ms, counted in sorted(minutes.items()):
            # Those that its day tells apart: a device that makes up codes fills no disk.
            for code in counted.codes.keys() & days[Unit.DAY.floor(minute_ms)].codes.keys():
                if code:
                    codes[code] = Span(codes.get(code, Span(minute_ms, 0)).start_ms, minute_ms)
        if codes:
            await self._rollups.add_codes(codes)

    async def _cover(self, span: Span) -> None:
        self.progress = self.progress.with_covered(span)
        await self._rollups.save(self.progress, self._term)

    async def _save(self, **changes: int) -> None:
        self.progress = msgspec.structs.replace(self.progress, **changes)
        await self._rollups.save(self.progress, self._term)

    async def _rested(self, work: Callable[[], Awaitable[T]]) -> T:
        """Work on what is old, and then rest, so that what is new goes before."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        result = await work()
        await asyncio.sleep((loop.time() - began) * (1 / limits.ROLLUP_OLD_SHARE - 1))
        return result


def _events(stored: Mapping[int, Figures], span: Span) -> int:
    return sum(figures.events for minute, figures in stored.items() if span.start_ms <= minute < span.end_ms)
