"""The honest fleet of a chaos run: it tells a ledger what it publishes, what receipts cover, and how soon."""

import asyncio
from dataclasses import replace
from random import Random
from typing import Final

from device_sim.connection import Ended
from device_sim.device import Action, Counters, Device, Options, Publish
from device_sim.dialing import TlsContextOf
from device_sim.fleet import Fleet
from device_sim.runner import Runner
from device_sim.scenario import Scenario, Story
from pisync.domain.events import SyncEvent
from pisync.domain.receipts import Receipt, rejected_places
from pisync.mqtt.address import MqttAddress
from tests.chaos.ledger import Ledger

CONNECTIONS: Final = 16
"""Few, so that a round's fleet is still publishing when its last fault strikes."""
TIMEOUT_S: Final = 2.0
"""How long a device waits for a PUBACK, and for a receipt: brokers lose here what they acknowledged."""


class RecordedDevice(Device):
    """A device that tells of every event and receipt."""

    def __init__(
        self, device_id: str, *, ledger: Ledger, random: Random, options: Options, counters: Counters
    ) -> None:
        super().__init__(device_id, random=random, options=options, counters=counters)
        self._ledger = ledger
        self._published_at: dict[bytes, float] = {}

    def record(self, event: SyncEvent) -> None:
        """Put an event on the spool."""
        super().record(event)
        self._ledger.sent(self._spool[self._key - 1])

    def receipt(self, correlation_data: bytes, receipt: Receipt, now_s: float) -> list[Action]:
        """A receipt came; what left the spool by it and was not rejected is confirmed."""
        message = self._inflight.get(correlation_data)
        events = [] if message is None else [(key, self._spool[key]) for key in message.keys]
        actions = super().receipt(correlation_data, receipt, now_s)
        if message is not None and correlation_data not in self._inflight:
            rejected = set(rejected_places(receipt))
            for place, (key, event) in enumerate(events):
                if key not in self._spool and place not in rejected and None not in rejected:
                    self._ledger.confirmed(event)
            self._ledger.receipt_after(now_s - self._published_at.pop(correlation_data))
        return actions

    def _advance(self, now_s: float) -> list[Action]:
        actions = super()._advance(now_s)
        for action in actions:
            if isinstance(action, Publish):
                self._published_at.setdefault(action.correlation_data, now_s)
        return actions


class RecordedFleet(Fleet):
    """A fleet of such devices."""

    def __init__(
        self, ledger: Ledger, scenario: Scenario, address: MqttAddress, tls_context: TlsContextOf
    ) -> None:
        super().__init__(
            scenario,
            address,
            tls_context=tls_context,
            connections=CONNECTIONS,
            puback_timeout_s=TIMEOUT_S,
            receipt_timeout_s=TIMEOUT_S,
        )
        self._ledger = ledger

    def _device(self, story: Story, random: Random) -> Device:
        return RecordedDevice(
            story.device_id,
            ledger=self._ledger,
            random=random,
            options=self._options(story),
            counters=self.tally.counters,
        )

    def hung_up(self, runner: Runner, ended: Ended) -> None:
        """A device that is refused tries again: its credentials may be given back, or be on their way."""
        super().hung_up(runner, replace(ended, for_good=False))

    async def moving(self, patience_s: float, done: asyncio.Task[None], share: float | None = None) -> bool:
        """Wait until the fleet is done, or this share of its events is covered, as long as it gets on.

        Returns whether that came about.
        """
        now_s = asyncio.get_running_loop().time
        covered, moved_at_s = self.covered, now_s()
        while not (done.done() or (share is not None and self.covered >= share * self.expected)):
            if self.covered != covered:
                covered, moved_at_s = self.covered, now_s()
            if now_s() - moved_at_s > patience_s:
                return False
            await asyncio.sleep(LOOK_S)
        return True


LOOK_S: Final = 0.02
