"""The bridge's side of the projection in Redis: merges states, keeps watermarks, rebuilds."""

import secrets
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from pisync import limits
from pisync.domain.alerts import AlertChange, Rule
from pisync.domain.device_state import DeviceState
from pisync.errors import ProjectionLost
from pisync.stores.interfaces.projection import Attachment
from pisync.stores.redis.connection import RedisConnection, map_driver_errors
from pisync.stores.redis.eviction import Evictions
from pisync.stores.redis.keys import (
    ALERTING,
    COMPARER,
    FORMER_PATTERNS,
    PROGRESS,
    REBUILDER,
    ROOTS,
    epoch,
    root_of,
    shard,
)
from pisync.stores.redis.packing import pack_states
from pisync.stores.redis.reader import RedisProjectionReader
from pisync.stores.redis.scripts import Argument, Calls, Script
from pisync.stores.redis.server_clock import ServerClock


class RedisProjection(RedisProjectionReader):
    """A `Projection` in Redis, for bridges and rebuilds."""

    def __init__(
        self,
        connection: RedisConnection,
        known_bridges: Callable[[], Mapping[str, str] | None] = dict,
    ) -> None:
        """Prepare, as its reader does; nothing is asked of Redis yet."""
        super().__init__(connection, known_bridges)
        self._apply = Script(self._client, "merge_states.lua")
        self._confirm = Script(self._client, "confirm_alerts.lua")
        self._compare = Script(self._client, "compare_alerts.lua")
        self._set_watermark = Script(self._client, "set_watermark.lua")
        self._finish_catch_up = Script(self._client, "finish_catch_up.lua")
        self._finish = Script(self._client, "finish_rebuild.lua")
        self._clear = Script(self._client, "delete_keys.lua")
        self._evictions = Evictions(self._client)
        self._server_clock = ServerClock()
        self._epoch = ""

    async def attach(self, known: Collection[str]) -> Attachment:
        """Find the projection and stick to it, and to the Redis process that holds it."""
        await self._connection.pin()
        info = await self._evictions.info()
        self._server_clock.read(info)
        has_evicted = await self._evictions.look(info)
        with map_driver_errors():
            async with self._client.pipeline(transaction=False) as pipeline:
                for root in ROOTS:
                    pipeline.get(epoch(root))
                    pipeline.exists(f"{root}:pending")
                    pipeline.hgetall(f"{root}:watermarks")
                found = await pipeline.execute()
        epochs = set(found[::3])
        self._epoch = epochs.pop() or ""
        lowest_ms = [
            min((int(watermarks.get(bridge_id, 0)) for bridge_id in {*known, *watermarks}), default=0)
            for watermarks in found[2::3]
        ]
        return Attachment(
            built=not epochs and self._epoch != "" and not has_evicted,
            pending=any(found[1::3]),
            watermarked=frozenset().union(*found[2::3]),
            watermark_ms=min(lowest_ms),
        )

    async def apply(self, states: Mapping[str, DeviceState], *, anew: bool = False) -> list[AlertChange]:
        """Merge the states into the kept ones: some calls for each shard touched, in one round trip."""
        shards: defaultdict[str, list[tuple[str, DeviceState]]] = defaultdict(list)
        for device in states.items():
            shards[shard(device[0])].append(device)
        bounds = (limits.FAILURES_KEPT_MAX, limits.FAILURES_SLACK, limits.STREAK_ALERT, int(anew))
        calls = [
            (root, (self._epoch, *bounds, pack_states(devices[start : start + limits.MERGED_AT_ONCE])))
            for root, devices in shards.items()
            for start in range(0, len(devices), limits.MERGED_AT_ONCE)
        ]
        return _changes(await self._apply.call(calls))

    async def confirm(self, changes: Sequence[AlertChange]) -> list[AlertChange]:
        """Record that these alerts were opened or closed; returns those out of date again."""
        calls: dict[str, list[Argument]] = {}
        for change in changes:
            arguments = calls.setdefault(shard(change.device_id), [self._epoch, limits.STREAK_ALERT])
            arguments += (change.device_id, int(change.opens))
        return _changes(await self._confirm.call(calls.items()))

    async def set_watermark(
        self,
        bridge_id: str,
        watermark_ms: int,
        *,
        catching_up: bool,
        unmerged_ms: int = 0,
        stopped: str | None = None,
    ) -> bool:
        """Record in every shard how far this bridge's events are merged."""
        catching_s = limits.REBUILDER_SILENT_S if catching_up else 0
        mark = (watermark_ms, catching_s, unmerged_ms, stopped or "", limits.QUIET_S_MAX)
        sent_ms = self._server_clock.now_ms()
        *pending, info = await self._set_watermark.call(
            _everywhere(self._epoch, bridge_id, *mark, "" if sent_ms is None else sent_ms), also=("INFO",)
        )
        self._server_clock.read(info)
        self._evictions.check(info)
        return any(pending)

    async def finish_catch_up(self, bridge_id: str) -> None:
        """Record in every shard that this bridge has caught up."""
        await self._finish_catch_up.call(_everywhere(self._epoch, bridge_id))

    async def compare_alerts(self, open_alerts: Collection[str]) -> list[AlertChange]:
        """Compare everything; returns every alert that is out of date."""
        calls: dict[str, list[Argument]] = {root: [self._epoch, limits.STREAK_ALERT] for root in ROOTS}
        for device_id in open_alerts:
            calls[shard(device_id)].append(device_id)
        return _changes(await self._compare.call(calls.items()))

    async def begin_rebuild(
        self, bridge_id: str, alerting: Sequence[str], *, from_nothing: bool = False
    ) -> bool:
        """Start a new projection under a new epoch, unless another bridge, still alive, does."""
        if not await self._claim_rebuild(bridge_id):
            return False
        epochs = list(map(epoch, ROOTS))
        with map_driver_errors():
            if from_nothing:
                # From here on nobody writes: attached bridges learn that the projection is lost.
                await self._client.delete(*epochs)
            has_leftovers = await self._client.exists(*epochs) < len(epochs)
        if has_leftovers:
            await self._remove_leftovers(bridge_id)
        with map_driver_errors():
            is_another_try = await self._client.exists(*(f"{root}:pending" for root in ROOTS)) > 0
        begun = secrets.token_hex(8)
        async with self._client.pipeline(transaction=False) as pipeline:
            for root in ROOTS:
                if not is_another_try:
                    pipeline.set(f"{root}:quiet", 1, ex=limits.QUIET_S_MAX)
                pipeline.set(f"{root}:pending", bridge_id)
            for device_id in alerting:
                pipeline.sadd(f"{shard(device_id)}:{ALERTING}", device_id)
            for key in epochs:
                pipeline.set(key, begun)
            with map_driver_errors():
                await pipeline.execute()
        self._epoch = begun
        await self._evictions.begin()
        return True

    async def _claim_rebuild(self, bridge_id: str) -> bool:
        """Take the lock on rebuilding; False where another bridge, still alive, has it."""
        with map_driver_errors():
            if await self._client.set(REBUILDER, bridge_id, nx=True, ex=limits.REBUILDER_SILENT_S):
                return True
            # Our own former life, killed in the middle, does not count as another bridge.
            if await self._client.get(REBUILDER) != bridge_id:
                return False
            await self._client.set(REBUILDER, bridge_id, ex=limits.REBUILDER_SILENT_S)
            return True

    async def _remove_leftovers(self, bridge_id: str) -> None:
        """Empty the shards that have no epoch: what they hold may be wrong, and a removal unfinished.

        Nothing of a former layout stays either.
        """
        for pattern in FORMER_PATTERNS:
            async for keys in self._keys(pattern):
                with map_driver_errors():
                    await self._client.unlink(*keys)
        async for keys in self._keys():
            calls: dict[str, list[Argument]] = {}
            for key in keys:
                # What a watermark promises was stored before, and so will be merged when this is complete.
                if not key.endswith((":watermarks", ":merged_until")):
                    calls.setdefault(root_of(key), []).append(key)
            await self._clear.call(calls.items())
            with map_driver_errors():
                await self._client.expire(REBUILDER, limits.REBUILDER_SILENT_S)
                rebuilder = await self._client.get(REBUILDER)
            if rebuilder != bridge_id:
                raise ProjectionLost("another bridge began to rebuild the projection meanwhile")

    async def claim_comparison(self, bridge_id: str) -> bool:
        """Compare everything, or go on with it, unless another bridge, still alive, does."""
        with map_driver_errors():
            if await self._client.set(COMPARER, bridge_id, nx=True, ex=limits.REBUILDER_SILENT_S):
                return True
            if await self._client.get(COMPARER) != bridge_id:
                return False
            await self._client.expire(COMPARER, limits.REBUILDER_SILENT_S)
            return True

    async def report_replay(self, bridge_id: str, replayed: int, to_replay: int) -> None:
        """Say how far a replay is, and that its bridge is alive."""
        async with self._client.pipeline(transaction=False) as pipeline:
            pipeline.hset(PROGRESS, mapping={"replayed": replayed, "to_replay": to_replay})
            pipeline.expire(PROGRESS, limits.REBUILDER_SILENT_S)
            pipeline.get(REBUILDER)
            with map_driver_errors():
                *_, rebuilder = await pipeline.execute()
                if rebuilder == bridge_id:
                    await self._client.expire(REBUILDER, limits.REBUILDER_SILENT_S)

    async def finish_rebuild(self, bridge_id: str) -> None:
        """Declare the projection complete."""
        await self._finish.call(_everywhere(self._epoch))
        with map_driver_errors():
            if await self._client.get(REBUILDER) == bridge_id:
                await self._client.delete(REBUILDER)

    async def leave(self, bridge_id: str) -> None:
        """Forget this bridge's watermark."""
        async with self._client.pipeline(transaction=False) as pipeline:
            for root in ROOTS:
                pipeline.hdel(f"{root}:watermarks", bridge_id)
                pipeline.hdel(f"{root}:merged_until", bridge_id)
                pipeline.hdel(f"{root}:catching_up_since", bridge_id)
                pipeline.zrem(f"{root}:catching_up", bridge_id)
            with map_driver_errors():
                await pipeline.execute()


def _everywhere(*arguments: Argument) -> Calls:
    return dict.fromkeys(ROOTS, arguments).items()


def _changes(replies: Sequence[Sequence[Any]]) -> list[AlertChange]:
    return [
        AlertChange(device_id=device_id, rule=Rule.STREAK, streak=int(streak), opens=bool(opens))
        for reply in replies
        for device_id, streak, opens in zip(reply[::3], reply[1::3], reply[2::3], strict=True)
    ]
