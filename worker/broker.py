"""Hears what the broker says of itself, and writes it down every few seconds while it is connected.

It is heard on the connection of the duty of presence. Without a connection nothing is written, and what was
written grows old; whoever reads it says then that it is not known.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from pisync import limits, logs
from pisync.domain import broker
from pisync.domain.broker import BrokerFigures
from pisync.mqtt.messages import Message, Subscription
from pisync.stores.interfaces.broker import BrokerFiguresStore

log = logs.get(__name__)

_PAYLOAD_CHARS_TOLD: Final = 20


class BrokerListening:
    """The broker's figures of the present connection, and when they were told."""

    def __init__(self, store: BrokerFiguresStore) -> None:
        self._store = store
        self._figures = BrokerFigures()
        self._heard_at: float | None = None

    def subscriptions(self) -> list[Subscription]:
        """What is heard. A broker that refuses it tells nothing."""
        return [
            Subscription(topic, 0, self.on_message, required=False)
            for topic in (*broker.MEMBERS, broker.UPTIME)
        ]

    def on_message(self, message: Message) -> None:
        """Take in a figure, or that the figures are of now."""
        if message.topic == broker.UPTIME:
            self._heard_at = asyncio.get_running_loop().time()
            return
        value = broker.number(message.payload)
        if value is None:
            log.warning(
                "the broker tells no number",
                topic=message.topic,
                payload=message.payload[:_PAYLOAD_CHARS_TOLD],
            )
        self._figures = msgspec.structs.replace(self._figures, **{broker.MEMBERS[message.topic]: value})

    def forget(self) -> None:
        """Know nothing any more: the connection is lost, and the next may be to another broker."""
        self._figures, self._heard_at = BrokerFigures(), None

    async def run(self, is_connected: Callable[[], bool]) -> None:
        """Write the figures down every few seconds, until cancelled.

        Raises:
            MongodbUnavailable: they are written down no more.
        """
        while True:
            await asyncio.sleep(limits.BROKER_WRITTEN_INTERVAL_S)
            if is_connected():
                await self.write()

    async def write(self) -> None:
        """Write the figures down."""
        now = asyncio.get_running_loop().time()
        await self._store.tell(self._figures, None if self._heard_at is None else now - self._heard_at)
