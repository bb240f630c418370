"""Reads the projection in Redis: devices' states, pages of failing ones, changes, records for a check."""

import math
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final, Self

from redis.asyncio import Redis
from redis.client import NEVER_DECODE

from pisync import limits
from pisync.domain.device_state import DeviceState
from pisync.stores.interfaces.feed import Changes, FeedPosition
from pisync.stores.interfaces.projection import DeviceRecord, Mark, Rank, Told
from pisync.stores.interfaces.ranking import ProjectionStatus, RankedBy, Ranking, RankingQuery
from pisync.stores.redis.connection import RedisConnection, map_driver_errors
from pisync.stores.redis.feed import ChangeFeed
from pisync.stores.redis.keys import PATTERN, ROOTS, shard
from pisync.stores.redis.packing import unpack_failures, unpack_head
from pisync.stores.redis.ranking import FailureRanking
from pisync.stores.redis.scripts import Script

# How much of the key space Redis looks through in one step; others wait meanwhile.
SCAN_KEYS: Final = 1000


class RedisProjectionReader:
    """A `ProjectionReader` in Redis."""

    def __init__(
        self,
        connection: RedisConnection,
        known_bridges: Callable[[], Mapping[str, str] | None] = dict,
    ) -> None:
        """Prepare; nothing is asked of Redis yet.

        Args:
            connection: the one that the stores in Redis share.
            known_bridges: which bridges there are by MongoDB, each with its instance, and None where that is
                not known, so that nothing can be called complete. By default those that Redis knows.
        """
        self._connection = connection
        self._ranking = FailureRanking(connection, known_bridges)
        self._feed = ChangeFeed(connection)
        self._read = Script(connection, "read_devices.lua")

    @classmethod
    def connect(cls, url: str) -> Self:
        """A store with a connection of its own.

        Raises:
            ConfigurationError: the URL cannot be understood.
        """
        return cls(RedisConnection(url))

    async def ping(self) -> None:
        """Return when every Redis answers."""
        commands = await self._connection.fan_out()
        for node in await self._connection.nodes():
            commands.on(node).ping()
        with map_driver_errors():
            await commands.execute()

    async def state(self, device_id: str) -> DeviceState | None:
        """One device's state; None for a device never seen."""
        [record] = await self.records([device_id])
        return record.state

    async def states_of(self, device_ids: Sequence[str]) -> list[DeviceState | None]:
        """The same of several devices, in one round trip; each read while others may write."""
        return [record.state for record in await self.records(device_ids)]

    async def repeated_failures(self, query: RankingQuery) -> Ranking:
        """One page of failing devices."""
        return await self._ranking.page(query)

    async def status(self) -> ProjectionStatus:
        """How true the answers are: a page of no devices says it."""
        nothing = RankingQuery(more_than=0, ranked_by=RankedBy.FAILURES, limit=0)
        return (await self._ranking.page(nothing)).projection

    async def heartbeats(self) -> dict[str, int]:
        """When each bridge gave its last sign; every shard has the same."""
        commands = await self._connection.fan_out()
        root = ROOTS[0]
        commands.at(root).hgetall(f"{root}:watermarks")
        commands.at(root).zrange(f"{root}:catching_up", 0, -1, withscores=True)
        with map_driver_errors():
            watermarks, catching_up = await commands.execute()
        dead_at = dict(catching_up)
        return {
            bridge_id: _sign_ms(watermarks.get(bridge_id, 0), dead_at.get(bridge_id))
            for bridge_id in {*watermarks, *dead_at}
        }

    async def marks(self) -> dict[str, Mark]:
        """What every bridge last said of itself; of several shards, the one that is furthest behind."""
        commands = await self._connection.fan_out()
        for root in ROOTS:
            commands.at(root).time()
            commands.at(root).hgetall(f"{root}:watermarks")
            commands.at(root).hgetall(f"{root}:merged_until")
            commands.at(root).zrange(f"{root}:catching_up", 0, -1, withscores=True)
        with map_driver_errors():
            replies = iter(await commands.execute())
        found: dict[str, Mark] = {}
        for now, watermarks, merged_until, catching_up in zip(*[replies] * 4, strict=True):
            dead_at = dict(catching_up)
            alive = {bridge_id for bridge_id, until in dead_at.items() if until > now[0]}
            for bridge_id in {*watermarks, *merged_until, *alive}:
                mark = _mark(
                    now[0] * 1000 + now[1] // 1000,
                    watermarks.get(bridge_id, 0),
                    merged_until.get(bridge_id),
                    catching_up=bridge_id in alive,
                    sign_ms=_sign_ms(watermarks.get(bridge_id, 0), dead_at.get(bridge_id)),
                )
                found[bridge_id] = max(mark, found.get(bridge_id, mark), key=_behind)
        return found

    async def records(self, device_ids: Sequence[str]) -> list[DeviceRecord]:
        """All that is kept of these devices, in their order; each as it is at one moment."""
        shards: defaultdict[str, list[str]] = defaultdict(list)
        for device_id in device_ids:
            shards[shard(device_id)].append(device_id)
        replies = await self._read.call(shards.items(), raw=True)
        found = {
            device_id: _record(*facts)
            for asked, reply in zip(shards.values(), replies, strict=True)
            for device_id, *facts in zip(asked, *reply, strict=True)
        }
        return [found[device_id] for device_id in device_ids]

    async def changes(self, after: FeedPosition | None) -> Changes:
        """What changed after a position, in one round trip."""
        return await self._feed.changes(after)

    async def device_ids(self) -> AsyncIterator[list[str]]:
        """Every device of which anything is kept, in batches; some more than once."""
        async for keys in self._keys():
            found: list[str] = []
            for key in keys:
                client = await self._connection.at(key)
                _, _, _, kind, *rest = key.split(":", 4)
                with map_driver_errors():
                    if kind == "failures":
                        found += rest
                    elif kind == "heads":
                        found += [name async for name in _fields(client, key)]
                    elif kind == "by":
                        found += [member async for member, _ in client.zscan_iter(key, count=SCAN_KEYS)]
                    elif kind == "alerting":
                        found += [member async for member in client.sscan_iter(key, count=SCAN_KEYS)]
            yield found

    async def _keys(self, pattern: str = PATTERN) -> AsyncIterator[list[str]]:
        """Every key of every shard, in batches; those that come or go meanwhile may be missing."""
        for node in await self._connection.nodes():
            cursor = -1
            while cursor != 0:
                with map_driver_errors():
                    cursor, keys = await node.client.scan(max(cursor, 0), match=pattern, count=SCAN_KEYS)
                if keys:
                    yield [str(key) for key in keys]

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.close()


async def _fields(client: Redis, key: str) -> AsyncIterator[str]:
    """The fields of a hash whose values are no text."""
    cursor = -1
    while cursor != 0:
        scan = ("HSCAN", key, max(cursor, 0), "COUNT", SCAN_KEYS)
        found = client.execute_command(*scan, **{NEVER_DECODE: True})  # type: ignore[no-untyped-call]
        cursor, fields = await found
        for field in fields:
            yield field.decode()


def _record(
    packed: bytes | None, failures: bytes | None, alerting: int, number: bytes | None, *scores: bytes | None
) -> DeviceRecord:
    head = None if packed is None else unpack_head(packed)
    failures_ms = () if failures is None else unpack_failures(failures, head)
    ranks = {rank: int(float(score)) for rank, score in zip(Rank, scores, strict=True) if score is not None}
    if head is None:
        return DeviceRecord(
            state=None,
            told=None,
            ranks=ranks,
            alerting=bool(alerting),
            numbered=number is not None,
            stray_ms=failures_ms,
        )
    summary = head.summary
    state = DeviceState(
        last_success_ms=summary.last_success_ms,
        failures_ms=failures_ms,
        last_event=summary.last_event,
        received_ms=summary.received_ms,
        code=summary.code,
        ok=summary.ok,
        bad=summary.bad,
        heard=summary.heard,
    )
    told = Told(failures=summary.failures, streak=summary.streak, last_failure_ms=summary.last_failure_ms)
    return DeviceRecord(
        state=state, told=told, ranks=ranks, alerting=bool(alerting), numbered=number is not None
    )


def _mark(now_ms: int, watermark: str | int, said: str | None, *, catching_up: bool, sign_ms: int) -> Mark:
    stopped = said.removeprefix("stopped:") if said and said.startswith("stopped:") else None
    return Mark(
        watermark_ms=int(watermark),
        merged_ms_ago=now_ms - int(said) if said and stopped is None else None,
        stopped=stopped,
        catching_up=catching_up,
        sign_ms=sign_ms,
    )


def _behind(mark: Mark) -> tuple[int, float]:
    if mark.stopped is not None:
        return -mark.watermark_ms, 0
    return -mark.watermark_ms, math.inf if mark.merged_ms_ago is None else mark.merged_ms_ago


def _sign_ms(watermark: str | int, dead_at_s: float | None) -> int:
    """When a bridge gave its last sign: its watermark, or until when it counts as alive while catching up."""
    said_ms = 0 if dead_at_s is None else (int(dead_at_s) - limits.REBUILDER_SILENT_S) * 1000
    return max(said_ms, int(watermark))
