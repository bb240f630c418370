"""The clients that one program has at several brokers, of which one may refuse it while the others do not."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

from pisync import limits, logs
from pisync.errors import ConfigurationError
from pisync.mqtt.client import Client

log = logs.get(__name__)


def staying(clients: Mapping[str, Client]) -> dict[str, Coroutine[Any, Any, None]]:
    """What keeps each client connected, under its name.

    A broker that refuses us is asked again: that is no reason to leave the devices of the others. Only where
    every one does, from the start, it ends with the `ConfigurationError`, as with a single broker.
    """
    refusing: set[str] = set()
    return {name: _stay(name, clients, refusing) for name in clients}


async def _stay(name: str, clients: Mapping[str, Client], refusing: set[str]) -> None:
    while True:
        try:
            await clients[name].run()
        except ConfigurationError as error:
            refusing.add(name)
            was_in = any(client.was_ready for client in clients.values())
            if len(refusing) == len(clients) and not was_in:
                raise
            log.warning("a broker refuses us; it is asked again", connection=name, why=str(error))
        await asyncio.sleep(limits.BROKER_ACCESS_REFUSED_WAIT_S)
