"""How frequent the codes that spread were before: what rollups know of them, asked now and then."""

import asyncio
from collections import Counter
from datetime import datetime

from fleet import incidents as gathering
from fleet.index import Fleet
from pisync import limits
from pisync.clock import to_ms
from pisync.domain.acknowledgements import NO_CODE
from pisync.domain.rollups import Unit
from pisync.domain.trends import TrendSpans
from pisync.stores.interfaces.rollups import RollupReader


class CodeRises:
    """The share that failures of a usual day have of those of the last 24 hours, by their code.

    The usual day is that with most of them of the 7 before: a mean would have weekends in it. Failures are
    compared with failures: how often a device tries again is in both.
    """

    def __init__(self, rollups: RollupReader) -> None:
        self._rollups = rollups
        self._shares: dict[str, float] = {}
        self._asked_at: float | None = None

    async def learn(self, fleet: Fleet, now: datetime) -> None:
        """Ask the rollups, where that is due and a code may be spreading.

        Raises:
            MongodbUnavailable: MongoDB is unavailable.
        """
        loop_s = asyncio.get_running_loop().time()
        if self._asked_at is not None and loop_s - self._asked_at < limits.INCIDENT_CODES_INTERVAL_S:
            return
        self._asked_at = loop_s
        self._shares = {}
        since_ms = to_ms(now) - limits.SPREADING_WINDOW_S * 1000
        codes = [
            code
            for code, at in gathering.codes_at_sites(fleet, since_ms, ()).items()
            if at.sites >= limits.SPREADING_SITES_MIN
        ]
        if codes:
            self._shares = await self._read(codes, now)

    def usual_share(self, code: str) -> float | None:
        """That share, 1 where the code is as frequent as before; None: it is not known."""
        return self._shares.get(code)

    async def _read(self, codes: list[str], now: datetime) -> dict[str, float]:
        progress = await self._rollups.progress()
        asked = TrendSpans.of(to_ms(now))
        spans = asked.known_by(progress)
        [hours] = await self._rollups.failures([(Unit.HOUR, asked.both)])
        if spans is None:
            return {}
        shares = {}
        begun_ms = spans.recent.start_ms
        part_of_day = (spans.recent.end_ms - begun_ms) / Unit.DAY.ms
        for code in codes:
            names = (code,) if code else ("", NO_CODE)
            if any(hour.other and not any(name in hour.codes for name in names) for hour in hours.values()):
                continue  # it may be among those that are not told apart
            # The last 24 hours are day -1, and the one before it is 0.
            days = Counter[int]()
            for start_ms, hour in hours.items():
                day = (begun_ms - start_ms - 1) // Unit.DAY.ms
                days[day] += sum(hour.codes.get(name, 0) for name in names)
            recent = days.pop(-1, 0)
            if recent:
                shares[code] = max(days.values(), default=0) * part_of_day / recent
        return shares
