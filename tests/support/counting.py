"""What something costs, counted where no noise of the machine reaches: calls, steps, commands, packets."""

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)
from redis.asyncio.connection import AbstractConnection

from pisync.stores.mongodb import connection


class Commands(CommandListener):
    """Every command that the driver sends to MongoDB."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.sent.append(dict(event.command))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """It was counted when it started."""

    def failed(self, event: CommandFailedEvent) -> None:
        """It was counted when it started."""

    @property
    def names(self) -> list[str]:
        """The commands' names, in order."""
        return [next(iter(command)) for command in self.sent]


def commands_of_stores(monkeypatch: pytest.MonkeyPatch) -> Commands:
    """The commands of every client that a store makes from now on."""
    commands = Commands()
    listen_to_stores(monkeypatch, commands)
    return commands


def listen_to_stores(monkeypatch: pytest.MonkeyPatch, listener: CommandListener) -> None:
    """Tell a listener, too, of the commands of every client that a store makes from now on."""
    make = vars(connection)["AsyncMongoClient"]

    def client(*args: Any, event_listeners: Sequence[CommandListener] = (), **options: Any) -> Any:
        return make(*args, event_listeners=[listener, *event_listeners], **options)

    monkeypatch.setattr(connection, "AsyncMongoClient", client)


def packets_to_redis(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What is sent to Redis from now on, an element for each round trip."""
    packets: list[object] = []
    send = AbstractConnection.send_packed_command

    async def count(link: AbstractConnection, command: Any, *args: Any, **kwargs: Any) -> None:
        packets.append(command)
        await send(link, command, *args, **kwargs)

    monkeypatch.setattr(AbstractConnection, "send_packed_command", count)
    return packets


class Tally:
    """A number that grows."""

    def __init__(self) -> None:
        self.count = 0


@contextmanager
def calls() -> Iterator[Tally]:
    """Calls of functions, those written in C among them, while the context lasts."""
    tally = Tally()

    def look(_frame: object, event: str, _argument: object) -> None:
        if event in {"call", "c_call"}:
            tally.count += 1

    sys.setprofile(look)
    try:
        yield tally
    finally:
        sys.setprofile(None)


@contextmanager
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tally]:
    """Callbacks that the event loop is given to run, one for every time that a task goes on."""
    tally = Tally()
    loop = asyncio.get_running_loop()
    call_soon: Callable[..., asyncio.Handle] = loop.call_soon

    def count(*args: Any, **kwargs: Any) -> asyncio.Handle:
        tally.count += 1
        return call_soon(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "call_soon", count)
        yield tally
