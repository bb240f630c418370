"""Compares the rollups of closed times with the events in MongoDB, and changes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pisync.domain.rollups import Figures, Span, Unit, by_unit
from pisync.stores.interfaces.rollups import ReceivedEvents, RollupStore
from worker.counting import Count


@dataclass(kw_only=True, slots=True)
class RollupFindings:
    """How many events were counted, and which rollups differ from that: their units, and when they begin."""

    events: int = 0
    differing: list[tuple[Unit, int]] = field(default_factory=list)


async def check_rollups(received: ReceivedEvents, rollups: RollupStore) -> RollupFindings:
    """Count everything that is closed and not fixed, and compare.

    What is added to an event meanwhile may differ. Of what is fixed, also meanwhile, events may be deleted.

    Raises:
        MongodbUnavailable: MongoDB is unavailable.
    """
    findings = RollupFindings()
    progress = await rollups.progress()
    for covered in progress.within(Span(progress.fixed_ms, progress.closed_ms)):
        end_ms = covered.end_ms
        while end_ms > covered.start_ms:
            newest_ms = await received.newest_before(end_ms)
            # Without events there should be no rollups, however long that is.
            day_ms = covered.start_ms if newest_ms is None else Unit.DAY.floor(newest_ms)
            count = Count(received, max(covered.start_ms, day_ms))
            span, minutes = Span(count.until_ms, end_ms), dict[int, Figures]()
            while newest_ms is not None and count.until_ms <= newest_ms:
                minutes |= await count.step(end_ms)
            await _compare(rollups, covered, span, minutes, findings)
            findings.events += count.events
            end_ms = span.start_ms
    # A time is fixed before its first event goes.
    fixed_ms = (await rollups.progress()).fixed_ms
    findings.differing = [(unit, start_ms) for unit, start_ms in findings.differing if start_ms >= fixed_ms]
    return findings


async def _compare(
    rollups: RollupStore,
    closed: Span,
    span: Span,
    minutes: Mapping[int, Figures],
    findings: RollupFindings,
) -> None:
    expected = dict(minutes)
    found = await rollups.figures(Unit.MINUTE, span)
    for unit, below in ((Unit.MINUTE, None), (Unit.HOUR, Unit.MINUTE), (Unit.DAY, Unit.HOUR)):
        if below is not None:
            wide = Span(unit.floor(span.start_ms), unit.ceil(span.end_ms))
            expected = by_unit(unit, await rollups.figures(below, wide))
            found = await rollups.figures(unit, wide)
        # Others are written while they are looked at.
        whole = range(closed.start_ms, closed.end_ms - unit.ms + 1)
        findings.differing += (
            (unit, start)
            for start in sorted(expected.keys() | found)
            if start in whole and expected.get(start) != found.get(start)
        )
