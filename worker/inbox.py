"""Messages that wait for a duty: taken in without a wait, bounded, acknowledged once they are kept."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from pisync.mqtt.messages import Acknowledger, Message

T = TypeVar("T")


class Kept(NamedTuple, Generic[T]):
    """What a message said, and where its acknowledgement goes; None for one at QoS 0."""

    said: T
    came_on: tuple[Acknowledger, int] | None


class Pausable(Protocol):
    """The connection that messages come on."""

    def pause(self) -> None:
        """Stop taking messages in."""

    def resume(self) -> None:
        """Take messages in again."""


class Inbox(Generic[T]):
    """The messages of one subscription, each read when it comes, so that none keeps its payload in memory."""

    def __init__(self, read: Callable[[Message], T], *, waiting_max: int, at_once: int) -> None:
        """Without a message yet.

        Args:
            read: what a message says.
            waiting_max: at so many that wait, no more are read.
            at_once: so many are taken at once, at most.
        """
        self._read = read
        self._waiting_max = waiting_max
        self._at_once = at_once
        self._sources: tuple[Pausable, ...] = ()
        self._waiting: deque[Kept[T]] = deque()
        self._came = asyncio.Event()

    def comes_from(self, *sources: Pausable) -> None:
        """Say what is paused while too many wait."""
        self._sources = sources

    def on_message(self, message: Message) -> None:
        """Take a message in, as the handler of a subscription."""
        came_on = None if message.packet_id is None else (message.connection, message.packet_id)
        self._waiting.append(Kept(self._read(message), came_on))
        self._came.set()
        if len(self._waiting) >= self._waiting_max:
            for source in self._sources:
                source.pause()

    async def take(self) -> list[Kept[T]]:
        """The oldest that wait, once there are any; each is to be given to `acknowledge`."""
        await self._came.wait()
        found = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._at_once))]
        if not self._waiting:
            self._came.clear()
            for source in self._sources:
                source.resume()
        return found


def acknowledge(kept: Sequence[Kept[T]]) -> None:
    """Send the PUBACKs; what came on a connection that is closed, the broker sends again."""
    on: dict[Acknowledger, list[int]] = {}
    for each in kept:
        if each.came_on is not None:
            connection, packet_id = each.came_on
            on.setdefault(connection, []).append(packet_id)
    for connection, packet_ids in on.items():
        connection.acknowledge(packet_ids)
