"""What waits to be sent, a lane for each device: packed into messages, in the order of the file.

Pure. A device has one message under way. The next is packed when that is answered, so that its order is kept
whichever bridge takes a message, and what came meanwhile shares a message.
"""

from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

from device_sim.replay.items import Entry
from pisync import limits

Owner = TypeVar("Owner")


class Message(msgspec.Struct, frozen=True):
    """Events of one device for one PUBLISH, or a message as it was recorded."""

    device_id: str
    entries: Sequence[Entry]

    @property
    def topic(self) -> str | None:
        """Where it was published when it was recorded; None: it is not of a recording."""
        return self.entries[0].topic

    @property
    def payload(self) -> bytes:
        """An object, or an array of several."""
        if len(self.entries) == 1:
            return self.entries[0].payload
        return b"[" + b",".join([entry.payload for entry in self.entries]) + b"]"

    def halves(self) -> list["Message"]:
        """The first and the second half of its events."""
        middle = len(self.entries) // 2
        return [Message(self.device_id, part) for part in (self.entries[:middle], self.entries[middle:])]


class Lanes(Generic[Owner]):
    """Entries with whom they belong to, by device; devices that may send are served in turn."""

    def __init__(self) -> None:
        self._lanes: dict[str, deque[tuple[Entry, Owner]]] = {}
        self._ready: deque[str] = deque()

    def __bool__(self) -> bool:
        """Whether a message may be sent now."""
        return bool(self._ready)

    def add(self, entry: Entry, owner: Owner) -> None:
        """Put an entry behind the others of its device."""
        lane = self._lanes.get(entry.device_id)
        if lane is None:
            lane = self._lanes[entry.device_id] = deque()
            self._ready.append(entry.device_id)
        lane.append((entry, owner))

    def next(self) -> tuple[Message, list[Owner]]:
        """The next message, and whom each of its entries belongs to; its device then waits for `done`."""
        device_id = self._ready.popleft()
        lane = self._lanes[device_id]
        entry, owner = lane.popleft()
        entries, owners = [entry], [owner]
        size = len(entry.payload) + 2  # and brackets
        while lane and len(entries) < limits.MESSAGE_EVENTS_MAX and entry.topic is None:
            following = lane[0][0]
            size += len(following.payload) + 1
            if following.topic is not None or size > limits.MESSAGE_BYTES_MAX:
                break
            following, owner = lane.popleft()
            entries.append(following)
            owners.append(owner)
        return Message(device_id, entries), owners

    def done(self, device_id: str) -> None:
        """The device's message is answered: it may send the next one."""
        if self._lanes[device_id]:
            self._ready.append(device_id)
        else:
            del self._lanes[device_id]
