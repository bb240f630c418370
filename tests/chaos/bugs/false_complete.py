"""A bridge with a deliberate bug: it calls merged what it merges much later, and keeps its watermark young.

In the end everything is merged, so an audit at rest finds nothing: only who asks all the time can catch it.
"""

import asyncio
from collections.abc import Sequence

from bridge.projection import projector
from pisync.domain.events import SyncEvent

LATE_S = 9.0

_merge = projector.Projector.merge
_merging: set[asyncio.Task[bool]] = set()


async def _merge_later(
    self: projector.Projector,
    stored: Sequence[SyncEvent],
    received_ms: int,
    duplicates: Sequence[SyncEvent] = (),
) -> bool:
    await asyncio.sleep(LATE_S)
    return await _merge(self, stored, received_ms, duplicates)


async def _merge_some_time(
    self: projector.Projector,
    stored: Sequence[SyncEvent],
    received_ms: int,
    duplicates: Sequence[SyncEvent] = (),
) -> bool:
    task = asyncio.create_task(_merge_later(self, stored, received_ms, duplicates))
    _merging.add(task)
    task.add_done_callback(_merging.discard)
    return True


projector.Projector.merge = _merge_some_time  # type: ignore[method-assign]
