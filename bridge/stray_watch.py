"""Messages under PiSync's prefix whose topic is none of PiSync's: counted, and the first of an hour logged.

A device with a typo in its topic vanishes otherwise. No topic filter means "all but the known ones", so this
looks at everything under the prefix, on a connection of its own, at QoS 0 and without a session: nothing
waits for it in the broker, and the connection that sync events come on is not touched. All bridges share the
subscription, so each message is looked at once.

What it costs is bounded, for all that is known comes here, too: beyond some messages or bytes within a second
it disconnects, and looks again some seconds later. So it sees all on a usual day, and samples while a backlog
drains.
"""

import asyncio
from pathlib import Path
from typing import Final

from bridge.metrics import Metrics
from pisync import limits, logs
from pisync.domain import topics
from pisync.domain.payloads import printable
from pisync.errors import ConfigurationError
from pisync.mqtt.address import MqttAddress
from pisync.mqtt.client import Client
from pisync.mqtt.messages import Message, Subscription
from pisync.tasks import supervise

log = logs.get(__name__)

_TOPIC_CHARS_MAX: Final = 200


class StrayWatch:
    """Looks for stray messages while `run` runs, from when the bridge is connected."""

    def __init__(
        self, *, address: MqttAddress, ca_file: Path | None, bridge_id: str, metrics: Metrics
    ) -> None:
        """Prepare; the broker, the certificate authorities and the bridge are those of the session."""
        self._address = address
        self._ca_file = ca_file
        self._client_id = topics.program_client_id(f"{bridge_id}@strays")
        self._begun = asyncio.Event()
        self._enough = asyncio.Event()
        self._looked_since = self._told_at = float("-inf")
        self._looked_at = self._looked_at_bytes = 0
        self.strays = 0
        metrics.stray_messages.set_function(lambda: self.strays)

    def begin(self) -> None:
        """Say that the bridge is connected."""
        self._begun.set()

    async def run(self) -> None:
        """Look until cancelled; where the broker refuses, the bridge goes on without."""
        await self._begun.wait()
        while True:
            self._enough.clear()
            try:
                async with supervise({"strays": self._client().run()}) as looking:
                    await looking.until(self._enough)
            except ConfigurationError as error:
                log.warning("messages with a wrong topic will not be seen", why=str(error))
                await asyncio.Event().wait()
            await asyncio.sleep(limits.STRAYS_REST_S)

    def on_message(self, message: Message) -> None:
        """Look at one message, as the handler of the subscriptions."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_since > 1:
            self._looked_since, self._looked_at, self._looked_at_bytes = now, 0, 0
        self._looked_at += 1
        self._looked_at_bytes += len(message.payload)
        if (
            self._looked_at >= limits.STRAYS_LOOKED_AT_MAX
            or self._looked_at_bytes >= limits.STRAYS_LOOKED_AT_BYTES_MAX
        ):
            self._enough.set()
        if topics.is_known(message.topic):
            return
        self.strays += 1
        if now - self._told_at > limits.STRAYS_TOLD_INTERVAL_S:
            self._told_at = now
            log.warning(
                "a message came to a topic that PiSync does not have, and is not kept",
                topic=printable(message.topic[:_TOPIC_CHARS_MAX]),
                hint="a typo in a device's topic? docs/protocol.md lists all topics",
            )

    def _client(self) -> Client:
        return Client(
            address=self._address,
            ca_file=self._ca_file,
            client_id=self._client_id,
            subscriptions=[
                Subscription(each, 0, self.on_message, required=False, retained=False)
                for each in topics.EVERYTHING_FILTERS
            ],
            beside=True,
        )
