"""Streaks in Redis: the projection. Nothing else in PiSync speaks to Redis.

Keys of a shard (a hash tag, so one slot of a Redis Cluster), devices being spread by the CRC-32 of their id:

    pisync:{07}:device:ID      hash: last_success, last_seen, last_event, alerting
    pisync:{07}:failures:ID    sorted set of failure times, the newest `limits.FAILURES_KEPT_MAX`
    pisync:{07}:by:failures    sorted sets of the failing devices: by failures kept,
    pisync:{07}:by:streak      by streak,
    pisync:{07}:by:last_seen   by newest event
"""

import heapq
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from typing import Any, Final, Self

import msgspec
from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from pisync import limits
from pisync.errors import ConfigurationError, StreakStoreUnavailable
from pisync.stores.interfaces import AlertChange, FailingDevice, Position, RankingQuery
from pisync.streaks import DeviceState, LastEvent

SOCKET_TIMEOUT_S: Final = 5.0

Argument = str | bytes | int
_last_event_encoder = msgspec.json.Encoder()
_last_event_decoder = msgspec.json.Decoder(LastEvent)


class RedisStreakStore:
    """A `StreakStore` in Redis."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._apply = _Script(client, "apply.lua")
        self._confirm = _Script(client, "confirm.lua")
        self._ranking = _Script(client, "ranking.lua")

    @classmethod
    def connect(cls, url: str) -> Self:
        """A store at a `redis://` URL; connects on first use.

        Raises:
            ConfigurationError: the URL cannot be understood.
        """
        try:
            client = Redis.from_url(
                url,
                decode_responses=True,
                socket_timeout=SOCKET_TIMEOUT_S,
                socket_connect_timeout=SOCKET_TIMEOUT_S,
                client_name="pisync",
                # The callers retry: they know what must not be acknowledged meanwhile.
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError as error:
            raise ConfigurationError(f"PISYNC_REDIS_URL: {error}") from None
        return cls(client)

    async def ping(self) -> None:
        """Return when Redis answers."""
        with _mapped():
            await self._client.ping()

    async def apply(self, states: Mapping[str, DeviceState]) -> list[AlertChange]:
        """Join the states into the kept ones: one script call for each shard touched, in one round trip."""
        calls: dict[str, list[Argument]] = {}
        for device_id, state in states.items():
            arguments = calls.setdefault(shard(device_id), [limits.FAILURES_KEPT_MAX, limits.STREAK_ALERT])
            success = state.last_success_ms
            arguments += (
                device_id,
                "" if success is None else success,
                state.last_event.timestamp_ms,
                _last_event_encoder.encode(state.last_event),
                len(state.failures_ms),
                *state.failures_ms,
            )
        return _changes(await self._apply.call(calls))

    async def confirm(self, changes: Sequence[AlertChange]) -> list[AlertChange]:
        """Record that these alerts were opened or closed; returns those out of date again."""
        calls: dict[str, list[Argument]] = {}
        for change in changes:
            arguments = calls.setdefault(shard(change.device_id), [limits.STREAK_ALERT])
            arguments += (change.device_id, int(change.opens))
        return _changes(await self._confirm.call(calls))

    async def state(self, device_id: str) -> DeviceState | None:
        """One device's state; None for a device never seen."""
        root = shard(device_id)
        async with self._client.pipeline(transaction=True) as pipeline:
            pipeline.hmget(f"{root}:device:{device_id}", "last_success", "last_event")
            pipeline.zrange(f"{root}:failures:{device_id}", 0, -1)
            with _mapped():
                (last_success, last_event), failures = await pipeline.execute()
        if last_event is None:
            return None
        return DeviceState(
            last_success_ms=None if last_success is None else int(last_success),
            failures_ms=tuple(map(int, failures)),
            last_event=_last_event_decoder.decode(last_event),
        )

    async def repeated_failures(self, query: RankingQuery) -> list[FailingDevice]:
        """One page of failing devices: the best of every shard, then the details of the winners."""
        arguments: list[Argument] = [
            query.ranked_by.value,
            query.more_than,
            "" if query.since_ms is None else query.since_ms,
            query.limit,
            *(("", "") if query.after is None else (query.after.score, query.after.device_id)),
        ]
        replies = await self._ranking.call({root(number): arguments for number in range(limits.SHARDS)})
        ranked = heapq.merge(*map(_ranked, replies), key=lambda row: row[:2], reverse=True)
        page = [row for row, _ in zip(ranked, range(query.limit), strict=False)]
        async with self._client.pipeline(transaction=False) as pipeline:
            for _, device_id, _, _ in page:
                prefix = shard(device_id)
                pipeline.hmget(f"{prefix}:device:{device_id}", "last_success", "last_seen")
                pipeline.zrevrange(f"{prefix}:failures:{device_id}", 0, 0)
                pipeline.zscore(f"{prefix}:by:streak", device_id)
            with _mapped():
                details = await pipeline.execute()
        return [
            FailingDevice(
                device_id=device_id,
                failures=failures,
                failures_since=recent,
                streak=int(streak or 0),
                last_failure_ms=int(last_failure[0]) if last_failure else 0,
                last_success_ms=None if last_success is None else int(last_success),
                last_seen_ms=int(last_seen or 0),
                position=Position(score=score, device_id=device_id),
            )
            for (score, device_id, failures, recent), (last_success, last_seen), last_failure, streak in zip(
                page, details[::3], details[1::3], details[2::3], strict=True
            )
        ]

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()


def root(number: int) -> str:
    """What every key of a shard begins with."""
    return f"pisync:{{{number:02}}}"


_ROOTS: Final = tuple(root(number) for number in range(limits.SHARDS))


def shard(device_id: str) -> str:
    """The root of the shard that holds a device."""
    return _ROOTS[zlib.crc32(device_id.encode()) % limits.SHARDS]


class _Script:
    """A Lua script, called by its digest on several shards in one round trip."""

    def __init__(self, client: Redis, name: str) -> None:
        self._client = client
        self._source = resources.files(__package__).joinpath(name).read_text()
        self._digest = ""

    async def call(self, calls: Mapping[str, Sequence[Argument]]) -> list[list[Any]]:
        """The replies in the order of the shards. Repeating a call is harmless, and so is a partial one."""
        if not calls:
            return []
        with _mapped():
            if not self._digest:
                self._digest = await self._client.script_load(self._source)
            try:
                return await self._execute(calls)
            except exceptions.NoScriptError:  # Redis was restarted, or its scripts flushed
                await self._client.script_load(self._source)
                return await self._execute(calls)

    async def _execute(self, calls: Mapping[str, Sequence[Argument]]) -> list[list[Any]]:
        async with self._client.pipeline(transaction=False) as pipeline:
            for key, arguments in calls.items():
                pipeline.evalsha(self._digest, 1, key, *arguments)
            replies: list[list[Any]] = await pipeline.execute()
            return replies


@contextmanager
def _mapped() -> Iterator[None]:
    """Driver errors become ours; every one may pass, for Redis holds nothing that cannot be made again."""
    try:
        yield
    except (exceptions.RedisError, OSError) as error:
        raise StreakStoreUnavailable(f"Redis: {str(error)[:300]}") from error


def _changes(replies: Sequence[Sequence[Any]]) -> list[AlertChange]:
    return [
        AlertChange(device_id=device_id, streak=int(streak), opens=bool(opens))
        for reply in replies
        for device_id, streak, opens in zip(reply[::3], reply[1::3], reply[2::3], strict=True)
    ]


def _ranked(reply: Sequence[Any]) -> Iterator[tuple[int, str, int, int]]:
    for device_id, score, failures, recent in zip(
        reply[::4], reply[1::4], reply[2::4], reply[3::4], strict=True
    ):
        yield int(score), device_id, int(failures), int(recent)
