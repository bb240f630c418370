"""Events of several devices: split by device, published as messages of each, answered by the caller's places.

What is held is bounded: some events that are gathered, so that those of a device share messages, and messages
that wait for their receipts, whose places all bodies share. Meanwhile no more of a body is read.
"""

import asyncio
from array import array
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import msgspec

from api.packing import Packed, packed
from api.publisher import SyncPublisher
from pisync import limits
from pisync.domain import receipts
from pisync.domain.decoding import Claimed
from pisync.domain.events import Reason, Rejection
from pisync.domain.receipts import Receipt
from pisync.errors import BrokerUnavailable
from pisync.tasks import cancel

_NOT_SENT: Final = "It was not sent, because of many before it no receipt came."


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What became of a body's events, by their places.

    `read` is the number of places that were looked at. `unknown` are those of events of which no receipt
    came, by the reason: each may be stored or not.
    """

    stored: int = 0
    duplicates: int = 0
    read: int = 0
    rejections: int = 0
    unknown: dict[str, "array[int]"] = field(default_factory=dict)
    _told: list[Rejection] = field(default_factory=list)
    _untold: dict[Reason, "array[int]"] = field(default_factory=dict)

    def reject(self, rejection: Rejection) -> None:
        """Count a rejection; beyond so many only their places and reasons are kept."""
        self.rejections += 1
        if rejection.index is None or len(self._told) < limits.BULK_REJECTIONS_TOLD_MAX:
            self._told.append(rejection)
        else:
            self._untold.setdefault(rejection.reason, array("I")).append(rejection.index)

    def lose(self, places: Iterable[int], why: str) -> None:
        """Say that of the events at these places no receipt came."""
        self.unknown.setdefault(why, array("I")).extend(places)

    def receipt(self) -> Receipt:
        """What is known, as one receipt."""
        groups = [
            msgspec.structs.replace(
                receipts.group(reason, sorted(places)), detail=f"one of {len(places)} more of this reason"
            )
            for reason, places in self._untold.items()
        ]
        return receipts.receipt(
            stored=self.stored, duplicates=self.duplicates, rejections=[*self._told, *groups]
        )


class Bulk:
    """Takes the events of one body in their order, and publishes them; those of a device keep theirs."""

    def __init__(self, publisher: SyncPublisher, places: asyncio.Semaphore) -> None:
        """Without an event yet; `places` are those of messages that wait for their receipts."""
        self.outcome = Outcome()
        self.has_given_up = False
        """Of so many messages in a row no receipt came that the others are not sent."""
        self.tasks: set[asyncio.Task[None]] = set()
        self._publisher = publisher
        self._places = places
        self._gathered: dict[str | None, list[tuple[int, bytes]]] = {}
        self._gathered_events = self._gathered_bytes = 0
        self._faults: dict[int, Rejection] = {}
        self._last: dict[str | None, asyncio.Task[None]] = {}
        self._failed_in_a_row = 0
        self._defect: BaseException | None = None

    def refuse(self, place: int, rejection: Rejection) -> None:
        """Note that there is something at this place that is not published."""
        self.outcome.read = place + 1
        self.outcome.reject(rejection)

    async def add(self, place: int, claimed: Claimed) -> None:
        """Take in the event at this place; waits while too much is not answered."""
        self.outcome.read = place + 1
        device_id = None
        if isinstance(claimed.device, str):
            device_id = claimed.device
        else:
            self._faults[place] = claimed.device
        self._gathered.setdefault(device_id, []).append((place, claimed.raw))
        self._gathered_events += 1
        self._gathered_bytes += len(claimed.raw)
        if (
            self._gathered_events >= limits.BULK_GATHERED_EVENTS
            or self._gathered_bytes >= limits.BULK_GATHERED_BYTES
        ):
            await self._publish()

    async def finish(self) -> Outcome:
        """Publish what is gathered, and wait for all receipts."""
        await self._publish()
        while self.tasks:
            await asyncio.wait(self.tasks)
        if self._defect is not None:
            raise self._defect
        return self.outcome

    async def _publish(self) -> None:
        gathered, self._gathered = self._gathered, {}
        self._gathered_events = self._gathered_bytes = 0
        for device_id, events in gathered.items():
            for message in packed(events):
                before = self._last.get(device_id)
                if before is not None:
                    await asyncio.wait({before})
                await self._places.acquire()
                task = asyncio.create_task(self._send(device_id, message), name="bulk")
                self._last[device_id] = task
                self.tasks.add(task)
                task.add_done_callback(partial(self._sent, device_id))

    def _sent(self, device_id: str | None, task: asyncio.Task[None]) -> None:
        self._places.release()
        self.tasks.discard(task)
        if self._last.get(device_id) is task:
            del self._last[device_id]
        if not task.cancelled() and task.exception() is not None:
            self._defect = self._defect or task.exception()

    async def _send(self, device_id: str | None, message: Packed) -> None:
        """Publish one message, and note what became of its events."""
        places = [place for place in message.indexes if place is not None]
        faults = [self._faults.pop(place) for place in places if device_id is None]
        if self.has_given_up:
            self.outcome.lose(places, _NOT_SENT)
            return
        try:
            answer = await self._publisher.publish(device_id, message.payload)
        except BrokerUnavailable as error:
            self._failed_in_a_row += 1
            self.has_given_up |= self._failed_in_a_row >= limits.BULK_FAILURES_MAX
            self.outcome.lose(places, str(error))
            return
        self._failed_in_a_row = 0
        if device_id is None:
            for fault in faults:  # the bridge kept them, and knows no more than that
                self.outcome.reject(fault)
            return
        self.outcome.stored += answer.stored
        self.outcome.duplicates += answer.duplicates
        for one in answer.rejected:
            for place in places if one.index is None else [places[one.index]]:
                self.outcome.reject(msgspec.structs.replace(one, index=place))


@asynccontextmanager
async def publishing(publisher: SyncPublisher, places: asyncio.Semaphore) -> AsyncIterator[Bulk]:
    """A bulk whose messages nobody waits for any more at the end."""
    bulk = Bulk(publisher, places)
    try:
        yield bulk
    finally:
        await cancel(list(bulk.tasks))
