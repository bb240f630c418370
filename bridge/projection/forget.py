"""Forgets a bridge that is gone for good: merges what it may have left, and drops its id and its watermark.

Until then the projection is not complete, because nobody can know that, and every catch-up goes back to the
bridge's watermark, or to the first event where it has none.
"""

from collections.abc import Callable

from bridge.projection.replay import Replay
from pisync import limits
from pisync.errors import PiSyncError, Unavailable
from pisync.stores.interfaces.bridges import BridgeRecord, BridgeRegistry
from pisync.stores.interfaces.events import EventStore
from pisync.stores.interfaces.projection import Mark, Projection
from pisync.tasks import supervise


async def forget(
    bridge_id: str,
    *,
    events: EventStore,
    projection: Projection,
    registry: BridgeRegistry,
    progress: Callable[[int, int], None],
) -> int:
    """Forget one bridge; returns how many events were merged for it.

    Raises:
        PiSyncError: there is no such bridge, it is running, or a rebuild is pending; it is not forgotten.
    """
    records = {record.bridge_id: record for record in await registry.records()}
    record, mark = records.get(bridge_id), (await projection.marks()).get(bridge_id)
    if record is None and mark is None:
        known = ", ".join(sorted(records)) or "none"
        raise PiSyncError(f"there is no bridge {bridge_id!r}; there are: {known}")
    if mark is not None and is_running(mark):
        raise PiSyncError(f"{bridge_id} is running; to retire it, run it with --leave, or stop it first")
    try:
        attachment = await projection.attach(list(records))
        if attachment.pending:
            raise PiSyncError("the projection is being rebuilt; forget the bridge when it is complete")
        # Later lives of it received nothing before the watermark of an earlier one.
        start_ms = 0 if mark is None else mark.watermark_ms
        replay = Replay(events=events, projection=projection, start_ms=start_ms)
        # Where nothing is built, all events will be merged anyway.
        if attachment.built and not _has_left_nothing(record, mark):
            async with supervise({"events": _merge(replay, progress), "count": replay.count()}) as running:
                await running.ended("events")
        await projection.leave(bridge_id)
        await registry.forget(bridge_id)
    except Unavailable as error:
        raise PiSyncError(f"{error}; {bridge_id} is not forgotten, run this again") from error
    return replay.replayed


def is_running(mark: Mark) -> bool:
    """Whether the bridge wrote to the projection moments ago."""
    ago_ms = mark.merged_ms_ago
    return mark.catching_up or (ago_ms is not None and ago_ms <= limits.PROJECTION_YOUNG_S * 1000)


async def _merge(replay: Replay, progress: Callable[[int, int], None]) -> None:
    async for _ in replay.run():
        progress(replay.replayed, replay.to_replay)


def _has_left_nothing(record: BridgeRecord | None, mark: Mark | None) -> bool:
    return mark is not None and record is not None and mark.has_stopped(record.instance)
