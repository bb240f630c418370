"""Reads the projection in Redis: one device's state, pages of failing devices, records for a check."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, Self

import msgspec

from pisync import limits
from pisync.domain.device_state import DeviceState, LastEvent
from pisync.stores.interfaces.projection import DeviceRecord
from pisync.stores.interfaces.ranking import ProjectionStatus, RankedBy, Ranking, RankingQuery
from pisync.stores.redis.connection import RedisConnection, map_driver_errors
from pisync.stores.redis.keys import ALERTING, PATTERN, ROOTS, shard
from pisync.stores.redis.ranking import FailureRanking

# How much of the key space Redis looks through in one step; others wait meanwhile.
SCAN_KEYS: Final = 1000
_last_event_decoder = msgspec.json.Decoder(LastEvent)


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
        self._client = connection.client
        self._ranking = FailureRanking(connection.client, known_bridges)

    @classmethod
    def connect(cls, url: str) -> Self:
        """A store with a connection of its own.

        Raises:
            ConfigurationError: the URL cannot be understood.
        """
        return cls(RedisConnection(url))

    async def ping(self) -> None:
        """Return when Redis answers."""
        with map_driver_errors():
            await self._client.ping()

    async def state(self, device_id: str) -> DeviceState | None:
        """One device's state; None for a device never seen."""
        root = shard(device_id)
        async with self._client.pipeline(transaction=True) as pipeline:
            pipeline.hmget(f"{root}:device:{device_id}", "last_success", "last_event")
            pipeline.zrange(f"{root}:failures:{device_id}", 0, -1)
            with map_driver_errors():
                (last_success, last_event), failures = await pipeline.execute()
        if last_event is None:
            return None
        return DeviceState(
            last_success_ms=None if last_success is None else int(last_success),
            failures_ms=tuple(map(int, failures)),
            last_event=_last_event_decoder.decode(last_event),
        )

    async def states_of(self, device_ids: Sequence[str]) -> list[DeviceState | None]:
        """The same of several devices, in one round trip; each read while others may write."""
        return [
            None
            if record.last_event is None
            else DeviceState(
                last_success_ms=record.last_success_ms,
                failures_ms=record.failures_ms,
                last_event=record.last_event,
            )
            for record in await self.records(device_ids)
        ]

    async def repeated_failures(self, query: RankingQuery) -> Ranking:
        """One page of failing devices."""
        return await self._ranking.page(query)

    async def status(self) -> ProjectionStatus:
        """How true the answers are: a page of no devices says it."""
        nothing = RankingQuery(more_than=0, ranked_by=RankedBy.FAILURES, limit=0)
        return (await self._ranking.page(nothing)).projection

    async def heartbeats(self) -> dict[str, int]:
        """When each bridge gave its last sign; every shard has the same."""
        async with self._client.pipeline(transaction=False) as pipeline:
            pipeline.hgetall(f"{ROOTS[0]}:watermarks")
            pipeline.zrange(f"{ROOTS[0]}:catching_up", 0, -1, withscores=True)
            with map_driver_errors():
                watermarks, catching_up = await pipeline.execute()
        found = {bridge_id: int(watermark_ms) for bridge_id, watermark_ms in watermarks.items()}
        for bridge_id, dead_at in catching_up:
            said_ms = (int(dead_at) - limits.REBUILDER_SILENT_S) * 1000
            found[bridge_id] = max(said_ms, found.get(bridge_id, 0))
        return found

    async def records(self, device_ids: Sequence[str]) -> list[DeviceRecord]:
        """All that is kept of these devices, in their order; each read while others may write."""
        async with self._client.pipeline(transaction=False) as pipeline:
            for device_id in device_ids:
                root = shard(device_id)
                pipeline.hmget(f"{root}:device:{device_id}", "last_success", "last_event")
                pipeline.zrange(f"{root}:failures:{device_id}", 0, -1)
                pipeline.sismember(f"{root}:{ALERTING}", device_id)
                for order in RankedBy:
                    pipeline.zscore(f"{root}:by:{order}", device_id)
            with map_driver_errors():
                replies = iter(await pipeline.execute())
        return [_record(*facts) for facts in zip(*[replies] * (3 + len(RankedBy)), strict=True)]

    async def device_ids(self) -> AsyncIterator[list[str]]:
        """Every device of which anything is kept, in batches; some more than once."""
        async for keys in self._keys():
            found: list[str] = []
            for key in keys:
                _, _, kind, *rest = key.split(":", 3)
                with map_driver_errors():
                    if kind in {"device", "failures"}:
                        found += rest
                    elif kind == "by":
                        found += [member async for member, _ in self._client.zscan_iter(key, count=SCAN_KEYS)]
                    elif kind == "alerting":
                        found += [member async for member in self._client.sscan_iter(key, count=SCAN_KEYS)]
            yield found

    async def _keys(self) -> AsyncIterator[list[str]]:
        """Every key of every shard, in batches; those that come or go meanwhile may be missing."""
        cursor = -1
        while cursor != 0:
            with map_driver_errors():
                cursor, keys = await self._client.scan(max(cursor, 0), match=PATTERN, count=SCAN_KEYS)
            yield [str(key) for key in keys]

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.close()


def _record(
    facts: Sequence[Any], failures: Sequence[str], alerting: int, *ranks: float | None
) -> DeviceRecord:
    last_success, last_event = facts
    return DeviceRecord(
        last_success_ms=None if last_success is None else int(last_success),
        failures_ms=tuple(map(int, failures)),
        last_event=None if last_event is None else _last_event_decoder.decode(last_event),
        ranks={order: int(score) for order, score in zip(RankedBy, ranks, strict=True) if score is not None},
        alerting=bool(alerting),
    )
