"""Counts events in the order of their receipt, minute after minute, some at a time."""

from collections.abc import Mapping

from pisync import limits
from pisync.domain.rollups import MINUTE_MS, Figures, Span, Unit, total, with_codes
from pisync.stores.interfaces.rollups import ReceivedEvents


class Count:
    """One count: how far it is, the events it counted, and the figures of the minute that is not whole."""

    def __init__(self, received: ReceivedEvents, start_ms: int) -> None:
        """Begin at a whole minute."""
        self._received = received
        self.until_ms = start_ms
        self.events = 0
        self._open: Figures | None = None

    @property
    def minute_ms(self) -> int:
        """The minute that is being counted, and not whole yet."""
        return Unit.MINUTE.floor(self.until_ms)

    def begin_minute_anew(self) -> None:
        """Count all of that minute again: its events are not what they were."""
        self.until_ms, self._open = self.minute_ms, None

    async def step(self, end_ms: int) -> Mapping[int, Figures]:
        """Count on, some events and no further than the end; the minutes that have any, as they are now."""
        counted = await self._received.counted(Span(self.until_ms, end_ms))
        minutes = dict(counted.minutes)
        self.events += sum(figures.events for figures in minutes.values())
        if self._open is not None:
            parts = [self._open, *filter(None, [minutes.get(self.minute_ms)])]
            minutes[self.minute_ms] = with_codes(total(parts), limits.ROLLUP_CODES_COUNTED_MAX)
        self.until_ms = counted.span.end_ms
        self._open = minutes.get(self.minute_ms)
        return {minute: with_codes(figures, limits.ROLLUP_CODES_MAX) for minute, figures in minutes.items()}


async def count_minute(received: ReceivedEvents, minute_ms: int) -> Mapping[int, Figures]:
    """The figures of one minute by its beginning; none where it has no events."""
    count, minutes = Count(received, minute_ms), dict[int, Figures]()
    while count.until_ms < minute_ms + MINUTE_MS:
        minutes |= await count.step(minute_ms + MINUTE_MS)
    return minutes
