"""What changed in the projection since a position, read from all shards in one round trip."""

from typing import Any, Final

from pisync import limits
from pisync.stores.interfaces.feed import Changes, FeedPosition, StateSummary
from pisync.stores.redis.connection import RedisConnection, run_ids
from pisync.stores.redis.keys import ROOTS
from pisync.stores.redis.packing import unpack_head
from pisync.stores.redis.scripts import Argument, Script

# Where the devices begin in a reply of read_changes.lua.
_DEVICES: Final = 8
_NO_POSITION: Final = Changes(position=None, devices=[])


class ChangeFeed:
    """Reads changes; it remembers nothing, so that any number may read."""

    def __init__(self, connection: RedisConnection) -> None:
        self._script = Script(connection, "read_changes.lua")

    async def changes(self, after: FeedPosition | None) -> Changes:
        """The next part after a position.

        Raises:
            RedisUnavailable: Redis cannot be reached, or refuses for now.
        """
        calls = [(root, _arguments(after, shard)) for shard, root in enumerate(ROOTS)]
        replies = await self._script.call(calls, info=True, raw=True)
        epoch = (replies[0][0] or b"").decode()
        # Another process may have gone back to what it once saved, as one that was a replica meanwhile.
        life = f"{run_ids(replies.infos)} {epoch}"
        if not epoch or any(reply[0] != replies[0][0] for reply in replies):
            return _NO_POSITION
        if after is not None and (after.projection != life or _has_lost_numbers(after, replies)):
            return _NO_POSITION
        devices: list[tuple[str, StateSummary]] = []
        for reply in replies:
            facts = iter(reply[_DEVICES:])
            devices += [
                (name.decode(), unpack_head(head).summary) for name, head in zip(facts, facts, strict=True)
            ]
        return Changes(
            position=FeedPosition(
                projection=life,
                numbers=tuple(int(reply[5]) for reply in replies),
                cursors=tuple(int(reply[7]) or None for reply in replies),
                unnumbered=tuple(map(_unnumbered, replies)),
            ),
            devices=devices,
            behind=sum(reply[6] for reply in replies),
            of=sum(reply[3] for reply in replies),
            rebuilding=any(reply[2] for reply in replies),
        )


def _arguments(after: FeedPosition | None, shard: int) -> tuple[Argument, ...]:
    at_once = max(1, limits.CHANGES_AT_ONCE // limits.SHARDS)
    if after is None:
        return ("", 0, at_once)
    cursor = after.cursors[shard]
    return (after.numbers[shard], "" if cursor is None else cursor, at_once)


def _has_lost_numbers(after: FeedPosition, replies: list[Any]) -> bool:
    """Whether a shard's numbers are lower than what was read, or more devices are without one than then."""
    return any(
        int(reply[1]) < number or _unnumbered(reply) > unnumbered
        for reply, number, unnumbered in zip(replies, after.numbers, after.unnumbered, strict=True)
    )


def _unnumbered(reply: list[Any]) -> int:
    devices, numbered = reply[3:5]
    return int(devices - numbered)
