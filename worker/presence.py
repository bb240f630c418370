"""The duty of presence: hears what devices say of their connections, and keeps what is new of it.

A shared subscription is not given what the broker retains, so one worker subscribes plainly, without a
session: with each connection it is told of all devices anew, and what was missed meanwhile is made up for.
What the broker says of itself is heard there, too.
"""

import asyncio
from collections.abc import Sequence
from functools import partial

from pisync import clock, limits
from pisync.domain import presence, topics
from pisync.domain.presence import Presence
from pisync.errors import PiSyncError
from pisync.mqtt.client import Client
from pisync.mqtt.messages import Message, Subscription
from pisync.mqtt.several import staying
from pisync.settings import CommonSettings
from pisync.stores.interfaces.broker import BrokerFiguresStore
from pisync.stores.interfaces.presence import PresenceStore
from pisync.tasks import supervise
from worker.broker import BrokerListening, BrokersFigures
from worker.inbox import Inbox, Kept, acknowledge


class PresenceWatch:
    """One term of the duty, in one worker."""

    def __init__(
        self, settings: CommonSettings, store: PresenceStore, broker_store: BrokerFiguresStore, holder: str
    ) -> None:
        """Prepare; `holder` is this worker's own name.

        Raises:
            ConfigurationError: the CA file is of no use.
        """
        self._store = store
        self._inbox: Inbox[Presence | None] = Inbox(
            _read,
            waiting_max=limits.STATUSES_WAITING_MAX,
            at_once=limits.STATUSES_AT_ONCE,
        )
        self._brokers = {str(address): BrokerListening() for address in settings.brokers}
        self._figures = BrokersFigures(broker_store, list(self._brokers.values()))
        self._clients = [
            Client(
                address=address,
                ca_file=settings.mqtt_ca_file,
                client_id=topics.program_client_id(f"worker@presence-{holder}"),
                subscriptions=[
                    Subscription(topics.STATUS_FILTER, 1, self._inbox.on_message, required=False),
                    *self._brokers[str(address)].subscriptions(),
                ],
                on_down=partial(self._on_down, self._brokers[str(address)]),
                beside=True,
            )
            for address in settings.brokers
        ]
        self._inbox.comes_from(*self._clients)
        self.ignored = 0

    async def run(self) -> None:
        """Do it until cancelled."""
        works = {
            "presence": self._keep(),
            "broker": self._figures.run(lambda: all(client.is_ready for client in self._clients)),
        }
        works |= staying(
            {f"statuses of {name}": client for name, client in zip(self._brokers, self._clients, strict=True)}
        )
        async with supervise(works) as running:
            await running.until(asyncio.Event())

    async def _on_down(self, listening: BrokerListening, _error: PiSyncError) -> None:
        listening.forget()

    async def _keep(self) -> None:
        while True:
            kept = await self._inbox.take()
            await self.keep(kept)
            acknowledge(kept)

    async def keep(self, kept: Sequence[Kept[Presence | None]]) -> None:
        """Write down what is new in these."""
        told: dict[str, Presence] = {}
        for each in kept:
            if each.said is None:
                self.ignored += 1
            else:
                told[each.said.device_id] = presence.join(each.said, told.get(each.said.device_id))
        known = await self._store.of(told)
        joined = [presence.join(each, known.get(each.device_id)) for each in told.values()]
        await self._store.join([each for each in joined if each.says_more_than(known.get(each.device_id))])


def _read(message: Message) -> Presence | None:
    device_id = topics.device(message.topic)
    said = presence.read_status(message.payload)
    return None if device_id is None or said is None else presence.presence_of(device_id, said, clock.now())
