"""Counts of failures past what the projection keeps of a device, for every route that tells them."""

import asyncio
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from pisync import limits
from pisync.clock import from_ms
from pisync.stores.interfaces.events import EventStore


class Kept(NamedTuple):
    """What the projection has of a device; counts go up to `limits.FAILURES_KEPT_MAX`."""

    device_id: str
    failures: int
    streak: int | None
    last_success_ms: int | None
    failures_since: int = 0


class Counts(NamedTuple):
    """Exact counts of a device; `streak` None: not known."""

    failures: int
    streak: int | None
    since: int


async def exact_counts(
    store: EventStore, kept: Iterable[Kept], since: datetime | None = None
) -> dict[str, Counts]:
    """Counts of the rare devices of which the projection does not keep every failure, and of no others.

    What it keeps are the newest, so that a count of fewer is exact, and it says since when the streak runs.
    """
    gate = asyncio.Semaphore(limits.EXACT_COUNTS_INFLIGHT_MAX)

    async def counts(row: Kept) -> Counts:
        success = None if row.last_success_ms is None else from_ms(row.last_success_ms)
        asked: list[datetime | None] = [None]
        if since is not None and row.failures_since >= limits.FAILURES_KEPT_MAX:
            asked.append(since)
        if success is not None and (row.streak or 0) >= limits.FAILURES_KEPT_MAX:
            asked.append(success)
        async with gate:
            counted = await store.count_failures(row.device_id, asked)
        exact = dict(zip(asked, counted, strict=True))
        failures, streak = exact[None], row.streak
        if streak is not None:
            streak = failures if success is None else exact.get(success, streak)
        recent = failures if since is None else exact.get(since, row.failures_since)
        return Counts(failures, streak, recent)

    capped = [row for row in kept if row.failures >= limits.FAILURES_KEPT_MAX]
    found = await asyncio.gather(*map(counts, capped))
    return {row.device_id: exact for row, exact in zip(capped, found, strict=True)}
