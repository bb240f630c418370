"""When bridges listened, in MongoDB: a document for each interval of a bridge, which it makes longer."""

from typing import Final

from pymongo import ASCENDING, DESCENDING

from pisync import limits
from pisync.clock import from_ms, to_ms
from pisync.domain.calendars import ListeningGap, gaps_between
from pisync.stores.interfaces.listening import ListeningInterval
from pisync.stores.mongodb.connection import Document, MongoConnection, map_driver_errors

_UNTIL: Final = "until"


class MongoListeningRecord:
    """A `ListeningRecord` in a MongoDB database."""

    def __init__(self, connection: MongoConnection) -> None:
        self._intervals = connection.database.get_collection("listening")

    async def prepare(self) -> None:
        """Make the index that reads begin at."""
        with map_driver_errors():
            await self._intervals.create_index([(_UNTIL, ASCENDING)], name=_UNTIL)

    async def listened(self, bridge_id: str, start_ms: int, until_ms: int) -> int:
        """Write down that a bridge has listened from one moment until another."""
        longer: Document = {"$max": {_UNTIL: from_ms(until_ms)}}
        with map_driver_errors():
            done = await self._intervals.update_one(_interval(bridge_id, start_ms), longer)
            if not done.matched_count:
                start_ms = await self._continued(bridge_id, start_ms)
                await self._intervals.update_one(_interval(bridge_id, start_ms), longer, upsert=True)
        return start_ms

    async def _continued(self, bridge_id: str, start_ms: int) -> int:
        """When the interval began that one which begins now continues, or now."""
        of_bridge = {"$gte": {"bridge_id": bridge_id}, "$lt": _interval(bridge_id, start_ms)["_id"]}
        before = await self._intervals.find_one({"_id": of_bridge}, sort=[("_id", DESCENDING)])
        if before is None or start_ms - to_ms(before[_UNTIL]) > limits.LISTENING_GAP_MIN_S * 1000:
            return start_ms
        return to_ms(before["_id"]["start"])

    async def intervals_since(self, since_ms: int) -> list[ListeningInterval]:
        """Those that ended since a moment or go on, in one round trip."""
        with map_driver_errors():
            found = self._intervals.find(
                {_UNTIL: {"$gte": from_ms(since_ms)}},
                sort=[(_UNTIL, DESCENDING)],
                limit=limits.LISTENING_INTERVALS_MAX,
                batch_size=limits.LISTENING_INTERVALS_MAX,
            )
            return [
                ListeningInterval(each["_id"]["bridge_id"], to_ms(each["_id"]["start"]), to_ms(each[_UNTIL]))
                async for each in found
            ]

    async def gaps(self, since_ms: int, until_ms: int) -> list[ListeningGap]:
        """The times of a window in which no bridge listened."""
        found = await self.intervals_since(since_ms)
        return gaps_between([(each.start_ms, each.until_ms) for each in found], since_ms, until_ms)


def _interval(bridge_id: str, start_ms: int) -> Document:
    return {"_id": {"bridge_id": bridge_id, "start": from_ms(start_ms)}}
