"""Which HTTP connections there are, and which of them give way when they are too many.

A connection waits while its client has to send something: it is idle, or a head is not complete. Those give
way, the longest waiting first, so that a client cannot keep others out with connections that ask for nothing;
and where there are none of those, those whose bodies do not come to their end.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from pisync import limits


class Connection(Protocol):
    """What is asked of a connection."""

    address: str | None
    transport: asyncio.Transport

    def give_way(self) -> None:
        """Close, because others need the place."""


class Connections:
    """All connections of one server."""

    def __init__(self, *, is_proxy: Callable[[str], bool] = lambda _address: False) -> None:
        """`is_proxy` tells addresses behind which many clients stand: they have no limit of their own."""
        self._is_proxy = is_proxy
        self._open: dict[Connection, None] = {}
        self._of_address: Counter[str] = Counter()
        self._waiting: dict[Connection, None] = {}
        self._bringing: dict[Connection, None] = {}
        # Whose answers are not read, and what they have not taken; the longest unread first.
        self._unread: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection) -> None:
        """Take a new connection; one that waits makes room where there are too many."""
        self._open[connection] = None
        self._waiting[connection] = None
        address = connection.address
        if address is not None:
            self._of_address[address] += 1
            if self._has_too_many(address):
                self._give_way(lambda other: other.address == address)
        if len(self._open) > limits.HTTP_CONNECTIONS_MAX:
            self._give_way(lambda _other: True)

    def remove(self, connection: Connection) -> None:
        """Forget a connection that is closed, or is closing; again is no fault."""
        if connection not in self._open:
            return
        del self._open[connection]
        self._waiting.pop(connection, None)
        self._bringing.pop(connection, None)
        self._unread.pop(connection, None)
        if connection.address is not None:
            self._of_address[connection.address] -= 1
            if not self._of_address[connection.address]:
                del self._of_address[connection.address]

    def works(self, connection: Connection) -> None:
        """Its client waits for us."""
        self._waiting.pop(connection, None)
        self._bringing.pop(connection, None)

    def brings(self, connection: Connection) -> None:
        """Its client asked for something, and we wait for the rest of the body."""
        if connection in self._open:
            self._bringing.setdefault(connection, None)

    def waits(self, connection: Connection) -> None:
        """We wait for its client."""
        if connection in self._open:
            self._bringing.pop(connection, None)
            self._waiting[connection] = None

    def are_too_many(self, connection: Connection) -> bool:
        """Whether this one is beyond a limit, because none that waits could give way."""
        return len(self._open) > limits.HTTP_CONNECTIONS_MAX or (
            connection.address is not None and self._has_too_many(connection.address)
        )

    def is_not_read(self, connection: Connection) -> None:
        """Its client does not take its answer; where all of those are too much, the longest unread goes."""
        self._unread.setdefault(connection, None)
        while (
            sum(each.transport.get_write_buffer_size() for each in self._unread)
            > limits.HTTP_UNREAD_BYTES_MAX
        ):
            longest = next(iter(self._unread))
            self.remove(longest)
            longest.transport.abort()

    def is_read(self, connection: Connection) -> None:
        """Its client took what there was."""
        self._unread.pop(connection, None)

    def _has_too_many(self, address: str) -> bool:
        return self._of_address[address] > limits.HTTP_CONNECTIONS_OF_ADDRESS_MAX and not self._is_proxy(
            address
        )

    def _give_way(self, may: Callable[[Connection], bool]) -> None:
        """Close the longest waiting of those; the newest is the last, and has just come."""
        newest = next(reversed(self._open))
        for connection in (*self._waiting, *self._bringing):
            if connection is not newest and may(connection):
                self.remove(connection)
                connection.give_way()
                return
