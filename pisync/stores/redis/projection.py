"""The bridge's side of the projection in Redis: merges states, keeps watermarks, rebuilds."""

import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from pisync import limits
from pisync.domain.alerts import AlertChange, Rule
from pisync.domain.device_state import DeviceState
from pisync.errors import ProjectionLost, RedisUnavailable
from pisync.stores.interfaces.projection import Attachment
from pisync.stores.redis.connection import Node, RedisConnection, map_driver_errors
from pisync.stores.redis.eviction import Evictions, Infos
from pisync.stores.redis.keys import (
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
        self._apply = Script(connection, "merge_states.lua")
        self._confirm = Script(connection, "confirm_alerts.lua")
        self._compare = Script(connection, "compare_alerts.lua")
        self._set_watermark = Script(connection, "set_watermark.lua")
        self._finish_catch_up = Script(connection, "finish_catch_up.lua")
        self._finish = Script(connection, "finish_rebuild.lua")
        self._clear = Script(connection, "delete_keys.lua")
        self._begin = Script(connection, "begin_rebuild.lua")
        self._evictions = Evictions(connection)
        self._clocks: defaultdict[Node, ServerClock] = defaultdict(ServerClock)
        self._histories: dict[Node, str] = {}
        self._epoch = ""

    async def attach(self, known: Collection[str]) -> Attachment:
        """Find the projection and stick to it, and to the Redis processes that hold it."""
        await self._connection.pin()
        infos = await self._evictions.infos()
        self._refuse_replicas(infos)
        self._clocks.clear()
        for node, info in infos.items():
            self._clocks[node].read(info)
        self._histories = {node: info.get("master_replid", "") for node, info in infos.items()}
        has_evicted = await self._evictions.look(infos)
        commands = await self._connection.fan_out()
        for root in ROOTS:
            commands.at(root).get(epoch(root))
            commands.at(root).exists(f"{root}:pending")
            commands.at(root).hgetall(f"{root}:watermarks")
        with map_driver_errors():
            found = await commands.execute()
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
        await self._connection.check()
        catching_s = limits.REBUILDER_SILENT_S if catching_up else 0
        mark = (watermark_ms, catching_s, unmerged_ms, stopped or "", limits.QUIET_S_MAX)
        sent_ms = {node: clock.now_ms() for node, clock in self._clocks.items()}
        calls: list[tuple[str, Sequence[Argument]]] = []
        for root in ROOTS:
            node = self._connection.node(root)
            sent = sent_ms.get(node)
            calls.append(
                (root, (self._epoch, self._history(node), bridge_id, *mark, "" if sent is None else sent))
            )
        pending = await self._set_watermark.call(calls, info=True)
        for node, info in pending.infos.items():
            self._clocks[node].read(info)
        self._evictions.check(pending.infos)
        return any(pending)

    async def finish_catch_up(self, bridge_id: str) -> None:
        """Record in every shard that this bridge has caught up."""
        await self._finish_catch_up.call(self._declared(bridge_id))

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
        await self._drop_epochs(everywhere=from_nothing)
        if not all(await self._there(epoch)):
            await self._remove_leftovers(bridge_id)
        is_another_try = any(await self._there("{}:pending".format))
        begun = secrets.token_hex(8)
        quiet_s = 0 if is_another_try else limits.QUIET_S_MAX
        calls: dict[str, list[Argument]] = {
            root: [begun, self._history(self._connection.node(root)), bridge_id, quiet_s] for root in ROOTS
        }
        for device_id in alerting:
            calls[shard(device_id)].append(device_id)
        await self._begin.call(calls.items())
        self._epoch = begun
        await self._evictions.begin()
        return True

    async def _drop_epochs(self, *, everywhere: bool) -> None:
        """Take the epoch from every shard that may be of another projection: nobody writes there now.

        Shards may go back apart from each other, to before a rebuild that took out what was wrong: where two
        epochs are found, none is trusted, and neither is one that few have. That is written down before the
        first of them goes: whoever takes over might find but one left.
        """
        reading = await self._connection.fan_out()
        for root in ROOTS:
            reading.at(root).get(epoch(root))
            reading.at(root).exists(_dropped(root))
        with map_driver_errors():
            replies = await reading.execute()
            found = replies[::2]
            [(common, count)] = Counter(found).most_common(1)
            is_trusted = set(found) <= {common, None} and count * 2 > len(found) and not any(replies[1::2])
            if everywhere or not is_trusted:
                dropping = await self._connection.fan_out()
                for root in ROOTS:
                    dropping.at(root).set(_dropped(root), 1)
                await dropping.execute()
                dropping = await self._connection.fan_out()
                for root in ROOTS:
                    dropping.at(root).delete(epoch(root))
                await dropping.execute()

    async def _there(self, key_of: Callable[[str], str]) -> list[bool]:
        """Whether a key of each shard exists."""
        commands = await self._connection.fan_out()
        for root in ROOTS:
            commands.at(root).exists(key_of(root))
        with map_driver_errors():
            return [bool(count) for count in await commands.execute()]

    async def _claim_rebuild(self, bridge_id: str) -> bool:
        """Take the lock on rebuilding; False where another bridge, still alive, has it."""
        return await self._claim(REBUILDER, bridge_id)

    async def _claim(self, key: str, bridge_id: str) -> bool:
        """Take a lock, or hold it longer; False where another bridge, still alive, has it.

        Our own former life, killed in the middle, does not count as another bridge.
        """
        client = await self._connection.at(key)
        with map_driver_errors():
            if await client.set(key, bridge_id, nx=True, ex=limits.REBUILDER_SILENT_S):
                return True
            if await client.get(key) != bridge_id:
                return False
            await client.set(key, bridge_id, ex=limits.REBUILDER_SILENT_S)
            return True

    async def _remove_leftovers(self, bridge_id: str) -> None:
        """Empty the shards that have no epoch: what they hold may be wrong, and a removal unfinished.

        Nothing of a former layout stays either.
        """
        for pattern in FORMER_PATTERNS:
            async for keys in self._keys(pattern):
                removing = await self._connection.fan_out()
                for key in keys:
                    removing.at(key).unlink(key)
                with map_driver_errors():
                    await removing.execute()
        async for keys in self._keys():
            calls: dict[str, list[Argument]] = {}
            for key in keys:
                # What a watermark promises was stored before, and so will be merged when this is complete.
                if not key.endswith((":watermarks", ":merged_until", ":dropped")):
                    calls.setdefault(root_of(key), []).append(key)
            await self._clear.call(calls.items())
            client = await self._connection.at(REBUILDER)
            with map_driver_errors():
                await client.expire(REBUILDER, limits.REBUILDER_SILENT_S)
                rebuilder = await client.get(REBUILDER)
            if rebuilder != bridge_id:
                raise ProjectionLost("another bridge began to rebuild the projection meanwhile")

    async def claim_comparison(self, bridge_id: str) -> bool:
        """Compare everything, or go on with it, unless another bridge, still alive, does."""
        return await self._claim(COMPARER, bridge_id)

    async def report_replay(self, bridge_id: str, replayed: int, to_replay: int) -> None:
        """Say how far a replay is, and that its bridge is alive."""
        commands = await self._connection.fan_out()
        commands.at(PROGRESS).hset(PROGRESS, mapping={"replayed": replayed, "to_replay": to_replay})
        commands.at(PROGRESS).expire(PROGRESS, limits.REBUILDER_SILENT_S)
        commands.at(REBUILDER).get(REBUILDER)
        with map_driver_errors():
            *_, rebuilder = await commands.execute()
            if rebuilder == bridge_id:
                client = await self._connection.at(REBUILDER)
                await client.expire(REBUILDER, limits.REBUILDER_SILENT_S)

    async def finish_rebuild(self, bridge_id: str) -> None:
        """Declare the projection complete."""
        await self._finish.call(self._declared())
        client = await self._connection.at(REBUILDER)
        with map_driver_errors():
            if await client.get(REBUILDER) == bridge_id:
                await client.delete(REBUILDER)

    async def leave(self, bridge_id: str) -> None:
        """Forget this bridge's watermark."""
        commands = await self._connection.fan_out()
        for root in ROOTS:
            commands.at(root).hdel(f"{root}:watermarks", bridge_id)
            commands.at(root).hdel(f"{root}:merged_until", bridge_id)
            commands.at(root).hdel(f"{root}:catching_up_since", bridge_id)
            commands.at(root).zrem(f"{root}:catching_up", bridge_id)
        with map_driver_errors():
            await commands.execute()

    def _declared(self, *arguments: Argument) -> Calls:
        """The calls in every shard of what says that something is merged, in the history in which it was.

        A primary that was replaced for a while by a replica that lacked something is the same process with
        the same epoch, over the same connection, and has lost that.
        """
        return [
            (root, (self._epoch, self._history(self._connection.node(root)), *arguments)) for root in ROOTS
        ]

    def _history(self, node: Node) -> str:
        return self._histories.get(node, "")

    @staticmethod
    def _refuse_replicas(infos: Infos) -> None:
        if any(info.get("role", "master") != "master" for info in infos.values()):
            raise RedisUnavailable("it is a replica")


def _dropped(root: str) -> str:
    return f"{root}:dropped"


def _changes(replies: Sequence[Sequence[Any]]) -> list[AlertChange]:
    return [
        AlertChange(device_id=device_id, rule=Rule.STREAK, streak=int(streak), opens=bool(opens))
        for reply in replies
        for device_id, streak, opens in zip(reply[::3], reply[1::3], reply[2::3], strict=True)
    ]
