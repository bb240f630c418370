"""Builds the projection in Redis anew from MongoDB, wrong data and all, while bridges may be running.

Merging events cannot undo what is wrong, so all that is kept is removed first. Bridges that are attached
learn that the projection is lost, go on storing events, attach to the new one and replay what it lacks.
"""

import asyncio
import secrets
from collections.abc import Callable

from bridge.alerts.judge import Judge
from bridge.projection.replay import Replay
from pisync import limits, logs
from pisync.domain.alerts import Rule
from pisync.errors import PiSyncError, ProjectionLost, RebuildInProgress, Unavailable
from pisync.stores.interfaces.events import EventStore
from pisync.stores.interfaces.projection import Projection
from pisync.tasks import supervise

log = logs.get(__name__)


async def rebuild(
    *,
    events: EventStore,
    projection: Projection,
    alerts: Judge,
    progress: Callable[[int, int], None],
) -> int:
    """Replay every event into an empty projection, and bring the alerts in step with it.

    Args:
        events: the truth.
        projection: what to build anew.
        alerts: who opens and closes alerts.
        progress: called with how many events are merged, and of about how many.

    Returns:
        How many events were merged.

    Raises:
        RebuildInProgress: somebody else rebuilds it; nothing was changed.
        PiSyncError: a store became unavailable before it was complete.
    """
    # Of this run alone: should it stall, and another take its place, it must not take itself for that one.
    owner = f"rebuild-{secrets.token_hex(4)}"
    await projection.attach([])
    try:
        opened = await alerts.open_devices(Rule.STREAK)
        if not await projection.begin_rebuild(owner, opened, from_nothing=True):
            raise RebuildInProgress(
                "a bridge or another `pisync rebuild` rebuilds the projection, or did within the last"
                f" {limits.REBUILDER_SILENT_S} s; nothing was changed. /readyz says how far it is"
            )
        replayed = await _replay(owner, events, projection, progress)
        await projection.finish_rebuild(owner)
    except Unavailable as error:
        raise PiSyncError(
            f"{error}; the projection is not complete. A running bridge will rebuild it in about"
            f" {limits.REBUILDER_SILENT_S} s; without one, run this again"
        ) from error
    try:
        # Open alerts are read again: a bridge that was about to change one by the old projection has done so.
        await alerts.handle(await alerts.compare())
    except ProjectionLost:
        log.info("complete; a bridge that saw it incomplete rebuilds it once more, and sees to the alerts")
    return replayed


async def _replay(
    owner: str, events: EventStore, projection: Projection, progress: Callable[[int, int], None]
) -> int:
    replay = Replay(events=events, projection=projection, start_ms=0)

    async def merge() -> None:
        async for _ in replay.run():
            progress(replay.replayed, replay.to_replay)

    async def tell() -> None:
        while True:
            await projection.report_replay(owner, replay.replayed, replay.to_replay)
            await asyncio.sleep(limits.WATERMARK_INTERVAL_S)

    async with supervise({"events": merge(), "progress": tell(), "count": replay.count()}) as running:
        await running.until(asyncio.Event())  # the events are the first to end
    return replay.replayed
