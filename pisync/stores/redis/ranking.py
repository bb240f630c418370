"""The page of devices that fail repeatedly, put together from all shards in one round trip."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final

from pisync import limits
from pisync.stores.interfaces.ranking import FailingDevice, Position, ProjectionStatus, Ranking, RankingQuery
from pisync.stores.redis.connection import RedisConnection
from pisync.stores.redis.keys import PROGRESS, ROOTS
from pisync.stores.redis.scripts import Argument, Script

# What every shard is asked for beyond what chance would give it of a page.
SHARE_ROWS: Final = 4
# Values of one device in a reply of rank_devices.lua.
_ROW_LENGTH: Final = 8


class FailureRanking:
    """Ranks the failing devices, and tells how complete the projection is."""

    def __init__(self, connection: RedisConnection, known: Callable[[], Mapping[str, str] | None]) -> None:
        """`known` gives the bridges that there are, each with its instance; None where nobody can say."""
        self._known = known
        self._script = Script(connection, "rank_devices.lua")

    async def page(self, query: RankingQuery) -> Ranking:
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
        known = self._known()
        arguments: list[Argument] = [
            query.ranked_by.value,
            query.more_than,
            "" if query.since_ms is None else query.since_ms,
            share,
            limits.FAILURES_KEPT_MAX,
            *(("", "") if query.after is None else (query.after.score, query.after.device_id)),
            round(limits.PROJECTION_YOUNG_S * 1000),
            *chain.from_iterable((known or {}).items()),
        ]
        *replies, progress = await self._script.call(
            dict.fromkeys(ROOTS, arguments).items(),
            also=(PROGRESS, ("HMGET", PROGRESS, "replayed", "to_replay")),
        )
        built = all(reply[0] for reply in replies)
        behind = frozenset(chain.from_iterable(reply[1] for reply in replies)) if built else frozenset()
        complete = built and known is not None and not behind
        replayed, to_replay = (0, 0) if complete else (int(count or 0) for count in progress)
        projection = ProjectionStatus(
            complete=complete, behind=behind, replayed=replayed, to_replay=to_replay
        )
        shards = [list(_rows(reply)) for reply in replies]
        page = sorted(chain.from_iterable(shards), reverse=True)[: query.limit]
        if share < query.limit:
            for rows in shards:
                # The shard's next row, which was not asked for, may belong on the page.
                if len(rows) == share and (len(page) < query.limit or rows[-1] >= page[-1]):
                    return None, projection
        return [_failing_device(row) for row in page], projection


def _rows(reply: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """The rows in a shard's reply, each beginning with what it is ranked by: score and id."""
    ids, scores, *facts = (reply[place::_ROW_LENGTH] for place in range(2, _ROW_LENGTH + 2))
    return zip(map(int, scores), ids, *facts, strict=True)


def _number(text: Any) -> int | None:
    return None if text is None else int(text)


def _failing_device(row: tuple[Any, ...]) -> FailingDevice:
    score, device_id, failures, recent, streak, last_failure, last_success, last_seen = row
    return FailingDevice(
        device_id=device_id,
        failures=int(failures),
        failures_since=int(recent),
        streak=_number(streak),
        last_failure_ms=_number(last_failure),
        last_success_ms=_number(last_success),
        last_seen_ms=_number(last_seen),
        position=Position(score=score, device_id=device_id),
    )
