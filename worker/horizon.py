"""Until when events can be counted: what is stored by now, and where nothing more is to come."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from pisync import limits
from pisync.clock import to_ms
from pisync.domain.rollups import Unit


@dataclass(frozen=True, kw_only=True, slots=True)
class Horizon:
    """Events received before `counted_ms` are there but for some; before `closed_ms` there are no others.

    A bridge stores late what it received before it stood still, and waiting for one that is gone would hold
    up everything: `counted_ms` leaves out who has been silent, `closed_ms` waits for every bridge.
    """

    counted_ms: int
    closed_ms: int

    @classmethod
    def of(cls, now: datetime, stored_until: Mapping[str, datetime]) -> Self:
        """By what every bridge stored, and the clock of MongoDB.

        A bridge that is not there yet may begin behind, by as much as its clock may be behind MongoDB's.
        """
        now_ms = to_ms(now)
        marks_ms = [to_ms(moment) for moment in stored_until.values()]
        living_ms = [mark for mark in marks_ms if mark >= now_ms - limits.ROLLUP_BRIDGE_SILENT_S * 1000]
        latest_ms = now_ms - round(limits.ROLLUP_CLOSE_AFTER_S * 1000)
        return cls(
            counted_ms=min(living_ms, default=now_ms - round(limits.ROLLUP_DELAY_S * 1000)),
            closed_ms=max(0, Unit.MINUTE.floor(min([latest_ms, *marks_ms]))),
        )
