"""Streaks in Redis: the projection. Nothing else in PiSync speaks to Redis.

Keys of a shard (a hash tag, so one slot of a Redis Cluster), devices being spread by the CRC-32 of their id:

| key | what |
|---|---|
| `pisync:{07}:device:ID` | hash: `last_success`, `last_seen`, `last_event` |
| `pisync:{07}:failures:ID` | sorted set of failure times, the newest `limits.FAILURES_KEPT_MAX` |
| `pisync:{07}:by:failures`, `by:streak`, `by:last_seen` | sorted sets of the failing devices |
| `pisync:{07}:alerting:streak` | set of the devices whose alert of that rule is open and confirmed |
| `pisync:{07}:epoch` | which projection this is; without it there is none |
| `pisync:{07}:watermarks` | hash: bridge → all its events received before this are merged |
| `pisync:{07}:catching_up` | sorted set: bridges that catch up, by when they count as dead |
| `pisync:{07}:pending` | there while a rebuild is not complete |
"""

import math
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final, Self

import msgspec
from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from pisync import limits
from pisync.domain.alerts import AlertChange, Rule
from pisync.domain.device_state import DeviceState, LastEvent
from pisync.errors import ConfigurationError, ProjectionLost
from pisync.stores.interfaces.projection import Attachment, DeviceRecord
from pisync.stores.interfaces.ranking import (
    FailingDevice,
    Position,
    ProjectionStatus,
    RankedBy,
    Ranking,
    RankingQuery,
)
from pisync.stores.redis.keys import _ROOTS, PROGRESS, REBUILDER, shard
from pisync.stores.redis.scripts import Argument, Script, map_driver_errors

SOCKET_TIMEOUT_S: Final = 5.0
# The scripts name this key too.
_ALERTING: Final = f"alerting:{Rule.STREAK}"


_messagepack = msgspec.msgpack.Encoder()


_last_event_encoder = msgspec.json.Encoder()


_last_event_decoder = msgspec.json.Decoder(LastEvent)


class RedisProjection:
    """A `ProjectionReader`, and for bridges a `Projection`, in Redis."""

    def __init__(self, url: str) -> None:
        self._client = Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=SOCKET_TIMEOUT_S,
            client_name="pisync",
            # The callers retry: they know what must not be acknowledged meanwhile.
            retry=Retry(NoBackoff(), 0),
            redis_connect_func=self._on_connect,
        )
        self._apply = Script(self._client, "merge_states.lua")
        self._confirm = Script(self._client, "confirm_alerts.lua")
        self._compare = Script(self._client, "compare_alerts.lua")
        self._set_watermark = Script(self._client, "set_watermark.lua")
        self._finish_catch_up = Script(self._client, "finish_catch_up.lua")
        self._finish = Script(self._client, "finish_rebuild.lua")
        self._ranking = Script(self._client, "rank_devices.lua")
        self._clear = Script(self._client, "delete_keys.lua")
        self._epoch = ""
        self._attached = False
        self._run_id = ""

    @classmethod
    def connect(cls, url: str) -> Self:
        """A store at a `redis://` URL; connects on first use.

        Raises:
            ConfigurationError: the URL cannot be understood.
        """
        try:
            return cls(url)
        except ValueError as error:
            raise ConfigurationError(f"PISYNC_REDIS_URL: {error}") from None

    async def _on_connect(self, connection: Any) -> None:
        """Refuse a Redis that is not the process we attached to: it may have lost what we gave it."""
        await connection.on_connect()
        if not self._attached:
            return
        await connection.send_command("INFO", "server")
        facts = dict(
            line.split(":", 1) for line in (await connection.read_response()).splitlines() if ":" in line
        )
        self._run_id = self._run_id or facts["run_id"]
        if facts["run_id"] != self._run_id:
            raise exceptions.ConnectionError("it was restarted")

    async def ping(self) -> None:
        """Return when Redis answers."""
        with map_driver_errors():
            await self._client.ping()

    async def attach(self, known: Collection[str]) -> Attachment:
        """Find the projection and stick to it, and to the Redis process that holds it."""
        self._attached, self._run_id = True, ""
        with map_driver_errors():
            await self._client.connection_pool.disconnect()
            async with self._client.pipeline(transaction=False) as pipeline:
                for each in _ROOTS:
                    pipeline.get(f"{each}:epoch")
                    pipeline.exists(f"{each}:pending")
                    pipeline.hgetall(f"{each}:watermarks")
                found = await pipeline.execute()
        epochs = set(found[::3])
        self._epoch = epochs.pop() or ""
        lows = [
            min((int(watermarks.get(each, 0)) for each in {*known, *watermarks}), default=0)
            for watermarks in found[2::3]
        ]
        return Attachment(
            built=not epochs and self._epoch != "",
            pending=any(found[1::3]),
            watermarked=frozenset().union(*found[2::3]),
            watermark_ms=min(lows),
        )

    async def apply(self, states: Mapping[str, DeviceState]) -> list[AlertChange]:
        """Merge the states into the kept ones: one script call for each shard touched, in one round trip."""
        # Of a shard: id, last success or None, time of the newest event, that event, failure times.
        rows: defaultdict[str, list[tuple[str, int | None, int, str, Sequence[int]]]] = defaultdict(list)
        for device_id, state in states.items():
            last = state.last_event
            newest = _last_event_encoder.encode(last).decode()  # Redis's MessagePack has no bytes, only text
            rows[shard(device_id)].append(
                (device_id, state.last_success_ms, last.timestamp_ms, newest, state.failures_ms)
            )
        calls = {
            each: (self._epoch, limits.FAILURES_KEPT_MAX, limits.STREAK_ALERT, _messagepack.encode(devices))
            for each, devices in rows.items()
        }
        return _changes(await self._apply.call(calls))

    async def confirm(self, changes: Sequence[AlertChange]) -> list[AlertChange]:
        """Record that these alerts were opened or closed; returns those out of date again."""
        calls: dict[str, list[Argument]] = {}
        for change in changes:
            arguments = calls.setdefault(shard(change.device_id), [self._epoch, limits.STREAK_ALERT])
            arguments += (change.device_id, int(change.opens))
        return _changes(await self._confirm.call(calls))

    async def set_watermark(self, bridge_id: str, watermark_ms: int, *, catching_up: bool) -> bool:
        """Record in every shard how far this bridge's events are merged."""
        catching_s = limits.REBUILDER_SILENT_S if catching_up else 0
        return any(
            await self._set_watermark.call(_everywhere(self._epoch, bridge_id, watermark_ms, catching_s))
        )

    async def finish_catch_up(self, bridge_id: str) -> None:
        """Record in every shard that this bridge has caught up."""
        await self._finish_catch_up.call(_everywhere(self._epoch, bridge_id))

    async def compare_alerts(self, open_alerts: Collection[str]) -> list[AlertChange]:
        """Compare everything; returns every alert that is out of date."""
        calls: dict[str, list[Argument]] = {root: [self._epoch, limits.STREAK_ALERT] for root in _ROOTS}
        for device_id in open_alerts:
            calls[shard(device_id)].append(device_id)
        return _changes(await self._compare.call(calls))

    async def begin_rebuild(
        self, bridge_id: str, alerting: Sequence[str], *, from_nothing: bool = False
    ) -> bool:
        """Start a new projection under a new epoch, unless another bridge, still alive, does."""
        with map_driver_errors():
            if not await self._client.set(REBUILDER, bridge_id, nx=True, ex=limits.REBUILDER_SILENT_S):
                # Our own former life, killed in the middle, does not count as another bridge.
                if await self._client.get(REBUILDER) != bridge_id:
                    return False
                await self._client.set(REBUILDER, bridge_id, ex=limits.REBUILDER_SILENT_S)
            epochs = [f"{each}:epoch" for each in _ROOTS]
            if from_nothing:
                # From here on nobody writes: whoever is attached learns that the projection is lost.
                await self._client.delete(*epochs)
            if await self._client.exists(*epochs) < len(epochs):
                await self._remove_leftovers(bridge_id)
            epoch = secrets.token_hex(8)
            async with self._client.pipeline(transaction=False) as pipeline:
                for each in _ROOTS:
                    pipeline.set(f"{each}:pending", bridge_id)
                for device_id in alerting:
                    pipeline.sadd(f"{shard(device_id)}:{_ALERTING}", device_id)
                for each in _ROOTS:
                    pipeline.set(f"{each}:epoch", epoch)
                await pipeline.execute()
        self._epoch = epoch
        return True

    async def _remove_leftovers(self, bridge_id: str) -> None:
        """Empty the shards that have no epoch: what they hold may be wrong, and a removal unfinished."""
        async for keys in self._keys():
            calls: dict[str, list[Argument]] = {}
            for key in keys:
                # What a watermark promises was stored before, and so will be merged when this is complete.
                if not key.endswith(":watermarks"):
                    calls.setdefault(key[: len(_ROOTS[0])], []).append(key)
            await self._clear.call(calls)
            await self._client.expire(REBUILDER, limits.REBUILDER_SILENT_S)
            if await self._client.get(REBUILDER) != bridge_id:
                raise ProjectionLost("another bridge began to rebuild the projection meanwhile")

    async def _keys(self) -> AsyncIterator[list[str]]:
        """Every key of every shard, in batches; those that come or go meanwhile may be missing."""
        cursor = -1
        while cursor != 0:
            cursor, keys = await self._client.scan(
                max(cursor, 0), match="pisync:{[0-9][0-9]}:*", count=SCAN_KEYS
            )
            yield [str(key) for key in keys]

    async def report_replay(self, bridge_id: str, replayed: int, to_replay: int) -> None:
        """Say how far a replay is, and that whoever does it is alive."""
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
            for each in _ROOTS:
                pipeline.hdel(f"{each}:watermarks", bridge_id)
                pipeline.zrem(f"{each}:catching_up", bridge_id)
            with map_driver_errors():
                await pipeline.execute()

    async def status(self) -> ProjectionStatus:
        """How true the answers are: a page of no devices says it."""
        nothing = RankingQuery(more_than=0, ranked_by=RankedBy.FAILURES, limit=0)
        return (await self.repeated_failures(nothing)).projection

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

    async def records(self, device_ids: Sequence[str]) -> list[DeviceRecord]:
        """All that is kept of these devices, in their order; each read while others may write."""
        async with self._client.pipeline(transaction=False) as pipeline:
            for device_id in device_ids:
                root = shard(device_id)
                pipeline.hmget(f"{root}:device:{device_id}", "last_success", "last_event")
                pipeline.zrange(f"{root}:failures:{device_id}", 0, -1)
                pipeline.sismember(f"{root}:{_ALERTING}", device_id)
                for order in RankedBy:
                    pipeline.zscore(f"{root}:by:{order}", device_id)
            with map_driver_errors():
                replies = iter(await pipeline.execute())
        return [_record(*each) for each in zip(*[replies] * (3 + len(RankedBy)), strict=True)]

    async def device_ids(self) -> AsyncIterator[list[str]]:
        """Every device of which anything is kept, in batches; some more than once."""
        with map_driver_errors():
            async for keys in self._keys():
                found: list[str] = []
                for key in keys:
                    _, _, kind, *rest = key.split(":", 3)
                    if kind in {"device", "failures"}:
                        found += rest
                    elif kind == "by":
                        found += [member async for member, _ in self._client.zscan_iter(key, count=SCAN_KEYS)]
                    elif kind == "alerting":
                        found += [member async for member in self._client.sscan_iter(key, count=SCAN_KEYS)]
                yield found

    async def repeated_failures(self, query: RankingQuery) -> Ranking:
        """One page of failing devices, in one round trip: the best of every shard.

        Devices are spread evenly, so each shard is asked for its share of the page and some more: four times
        the standard deviation, and a few rows for small pages. Only where one turns out to hold still more
        of the page, less than once in a thousand times, is every shard asked for a whole page.
        """
        mean = query.limit / limits.SHARDS
        share = min(query.limit, math.ceil(mean + 4 * math.sqrt(mean)) + SHARE_ROWS)
        page, projection = await self._ranked(query, share)
        if page is None:
            page, projection = await self._ranked(query, query.limit)
        return Ranking(devices=[] if page is None else page, projection=projection)

    async def _ranked(
        self, query: RankingQuery, share: int
    ) -> tuple[list[FailingDevice] | None, ProjectionStatus]:
        """The page from so many rows of every shard; None where they cannot be all that belong on it."""
        arguments: list[Argument] = [
            query.ranked_by.value,
            query.more_than,
            "" if query.since_ms is None else query.since_ms,
            share,
            *(("", "") if query.after is None else (query.after.score, query.after.device_id)),
        ]
        *replies, progress = await self._ranking.call(
            _everywhere(*arguments), also=("HMGET", PROGRESS, "replayed", "to_replay")
        )
        complete = all(reply[0] for reply in replies)
        replayed, to_replay = (0, 0) if complete else (int(count or 0) for count in progress)
        projection = ProjectionStatus(complete=complete, replayed=replayed, to_replay=to_replay)
        shards = [list(_rows(reply)) for reply in replies]
        page = sorted(chain.from_iterable(shards), reverse=True)[: query.limit]
        if share < query.limit:
            for rows in shards:
                # Its next row, which we do not have, may belong on the page.
                if len(rows) == share and (len(page) < query.limit or rows[-1] >= page[-1]):
                    return None, projection
        return [_failing_device(row) for row in page], projection

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()


# What every shard is asked for beyond what chance would give it of a page.
SHARE_ROWS: Final = 4


# Values of one device in a reply of rank_devices.lua.
_ROW_LENGTH: Final = 8


# How much of the key space Redis looks through in one step; others wait meanwhile.
SCAN_KEYS: Final = 1000


def _everywhere(*arguments: Argument) -> dict[str, Sequence[Argument]]:
    return dict.fromkeys(_ROOTS, arguments)


def _changes(replies: Sequence[Sequence[Any]]) -> list[AlertChange]:
    return [
        AlertChange(device_id=device_id, rule=Rule.STREAK, streak=int(streak), opens=bool(opens))
        for reply in replies
        for device_id, streak, opens in zip(reply[::3], reply[1::3], reply[2::3], strict=True)
    ]


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


def _rows(reply: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """The rows in a shard's reply, each beginning with what it is ranked by: score and id."""
    ids, scores, *facts = (reply[place::_ROW_LENGTH] for place in range(1, _ROW_LENGTH + 1))
    return zip(map(int, scores), ids, *facts, strict=True)


def _failing_device(row: tuple[Any, ...]) -> FailingDevice:
    score, device_id, failures, recent, streak, last_failure, last_success, last_seen = row
    return FailingDevice(
        device_id=device_id,
        failures=int(failures),
        failures_since=int(recent),
        streak=int(streak or 0),
        last_failure_ms=int(last_failure or 0),
        last_success_ms=None if last_success is None else int(last_success),
        last_seen_ms=int(last_seen or 0),
        position=Position(score=score, device_id=device_id),
    )
