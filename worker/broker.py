"""Hears what each broker says of itself, and writes the sums down every few seconds while all are connected.

It is heard on the connections of the duty of presence. Where one is lost nothing is written, and what was
written grows old; whoever reads it says then that it is not known.
"""

import asyncio
from collections.abc import Callable, Sequence
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
    """One broker's figures of the present connection, and when they were told."""

    def __init__(self) -> None:
        self.figures = BrokerFigures()
        self.heard_at: float | None = None

    def subscriptions(self) -> list[Subscription]:
        """What is heard. A broker that refuses it tells nothing."""
        return [
            Subscription(topic, 0, self.on_message, required=False)
            for topic in (*broker.MEMBERS, broker.UPTIME)
        ]

    def on_message(self, message: Message) -> None:
        """Take in a figure, or that the figures are of now."""
        if message.topic == broker.UPTIME:
            self.heard_at = asyncio.get_running_loop().time()
            return
        value = broker.number(message.payload)
        if value is None:
            log.warning(
                "the broker tells no number",
                topic=message.topic,
                payload=message.payload[:_PAYLOAD_CHARS_TOLD],
            )
        self.figures = msgspec.structs.replace(self.figures, **{broker.MEMBERS[message.topic]: value})

    def forget(self) -> None:
        """Know nothing any more: the connection is lost, and the next may be to another broker."""
        self.figures, self.heard_at = BrokerFigures(), None


class BrokersFigures:
    """Writes down what all brokers hold."""

    def __init__(self, store: BrokerFiguresStore, brokers: Sequence[BrokerListening]) -> None:
        self._store = store
        self._brokers = brokers

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
        """Write the sums down, as old as the oldest figures are."""
        now = asyncio.get_running_loop().time()
        moments = [each.heard_at for each in self._brokers if each.heard_at is not None]
        heard_s_ago = now - min(moments) if len(moments) == len(self._brokers) else None
        await self._store.tell(broker.total([each.figures for each in self._brokers]), heard_s_ago)
