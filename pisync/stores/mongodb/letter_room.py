"""How many dead letters of a device are kept: the oldest give way, and that is remembered."""

import random
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Final

from pymongo import DESCENDING
from pymongo.asynchronous.collection import AsyncCollection

from pisync import limits
from pisync.domain.dead_letters import DeadLetter
from pisync.stores.interfaces.dead_letters import DroppedLetters
from pisync.stores.mongodb.connection import Document

NEWEST: Final = [("received_at", DESCENDING), ("_id", DESCENDING)]


class LetterRoom:
    """Holds what is kept of each device to its limits, and knows whose letters gave way."""

    def __init__(self, dead_letters: AsyncCollection[Document], drops: AsyncCollection[Document]) -> None:
        self._dead_letters = dead_letters
        self._drops = drops
        self._unchecked = _Unchecked()

    async def prepare(self) -> None:
        """Create the index where it is absent."""
        await self._drops.create_index([("dropped_at", DESCENDING)], name="latest")

    async def make(self, new: Iterable[DeadLetter]) -> Counter[str | None]:
        """Make room where new letters may be too many; returns how many of each device gave way."""
        suspects = self._unchecked.add(new)
        return await self._make(suspects) if suspects else Counter()

    async def tell(self, dropped: Mapping[str | None, int], now: datetime) -> list[DroppedLetters]:
        """Write down whose letters gave way, and say so."""
        for device_id, count in dropped.items():
            await self._drops.update_one(
                {"_id": device_id},
                {"$inc": {"dropped": count}, "$max": {"dropped_at": now}},
                upsert=True,
            )
        return [
            DroppedLetters(device_id=device_id, dropped=count, dropped_at=now)
            for device_id, count in dropped.items()
        ]

    async def dropped(self, device_id: str | None) -> list[DroppedLetters]:
        """Whose letters gave way, the latest first; None: of all devices."""
        chosen: Document = {} if device_id is None else {"_id": device_id}
        found = self._drops.find(chosen).sort("dropped_at", DESCENDING).limit(limits.DROPS_LISTED_MAX)
        return [
            DroppedLetters(device_id=drop["_id"], dropped=drop["dropped"], dropped_at=drop["dropped_at"])
            async for drop in found
        ]

    async def _make(self, device_ids: Collection[str | None]) -> Counter[str | None]:
        """Delete the oldest letters of those of these devices that have too many, or too many bytes."""
        dropped = Counter[str | None]()
        sums = await self._dead_letters.aggregate(
            [
                {"$match": {"device_id": {"$in": list(device_ids)}}},
                {"$group": {"_id": "$device_id", "count": {"$sum": 1}, "size": {"$sum": "$kept_bytes"}}},
            ]
        )
        async for device in sums:
            own = {"device_id": device["_id"]}
            if device["count"] > limits.DEVICE_DEAD_LETTERS_MAX:
                dropped[device["_id"]] += await self._drop_beyond_count(own)
            if device["size"] > limits.DEVICE_DEAD_LETTER_BYTES_MAX:
                dropped[device["_id"]] += await self._drop_beyond_bytes(own)
        self._unchecked.checked(device_ids)
        return +dropped  # without those that another batch made room for meanwhile

    async def _drop_beyond_count(self, own: Document) -> int:
        by_age = self._dead_letters.find(own, {"received_at": 1}).sort(NEWEST)
        async for letter in by_age.skip(limits.DEVICE_DEAD_LETTERS_MAX).limit(1):
            return await self._drop_from(own, letter)
        return 0

    async def _drop_beyond_bytes(self, own: Document) -> int:
        size = 0
        by_age = self._dead_letters.find(own, {"received_at": 1, "kept_bytes": 1}).sort(NEWEST)
        async for letter in by_age:
            size += letter["kept_bytes"]
            if size > limits.DEVICE_DEAD_LETTER_BYTES_MAX:
                await by_age.close()
                return await self._drop_from(own, letter)
        return 0

    async def _drop_from(self, own: Document, letter: Document) -> int:
        """Delete a letter of a device, and all older ones."""
        older = {"received_at": {"$lt": letter["received_at"]}}
        as_old = {"received_at": letter["received_at"], "_id": {"$lte": letter["_id"]}}
        # The first bound keeps the range of the index, and so what is read, to these.
        chosen = own | {"received_at": {"$lte": letter["received_at"]}, "$or": [older, as_old]}
        return (await self._dead_letters.delete_many(chosen)).deleted_count


class _Unchecked:
    """Counts new letters of each device, so that what a device has is seldom summed up in MongoDB.

    A device that was not seen before, or is forgotten here, counts as if some of its letters, any number, had
    not been looked at: its first letters seldom cost a look, and as many between two looks as of any other
    may come, on average, however often it is forgotten.
    """

    def __init__(self) -> None:
        self._counts: OrderedDict[str | None, tuple[int, int]] = OrderedDict()

    def add(self, letters: Iterable[DeadLetter]) -> list[str | None]:
        """Count new letters; returns the devices that should be looked at."""
        suspects: dict[str | None, None] = {}
        for letter in letters:
            device_id = letter.device_id
            count, size = self._counts.get(device_id) or _any_number()
            count, size = count + 1, size + letter.kept_bytes
            self._counts[device_id] = (count, size)
            self._counts.move_to_end(device_id)
            if (
                count > limits.DEVICE_DEAD_LETTERS_UNCHECKED
                or size > limits.DEVICE_DEAD_LETTER_BYTES_UNCHECKED
            ):
                suspects[device_id] = None
        while len(self._counts) > limits.DEAD_LETTER_DEVICES_REMEMBERED:
            self._counts.popitem(last=False)
        return list(suspects)

    def checked(self, device_ids: Iterable[str | None]) -> None:
        """These were looked at, and have no more than they may."""
        for device_id in device_ids:
            if device_id in self._counts:
                self._counts[device_id] = (0, 0)


def _any_number() -> tuple[int, int]:
    """Letters and bytes that may not have been looked at."""
    share = random.random()  # noqa: S311 - spreads looks, guards nothing
    return (
        int(share * (limits.DEVICE_DEAD_LETTERS_UNCHECKED + 1)),
        int(share * (limits.DEVICE_DEAD_LETTER_BYTES_UNCHECKED + 1)),
    )
