"""The other brokers, where several share the devices: alerts are retained there, too, if they are there.

Whoever subscribes to alerts does so at any broker. What one misses, or has otherwise, its own bridges put
right when they connect to it, and when they compare what it retains with what should be there.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from pisync import limits, logs
from pisync.domain import topics
from pisync.errors import BrokerUnavailable, ConfigurationError
from pisync.mqtt.address import MqttAddress
from pisync.mqtt.client import Client
from pisync.tasks import supervise

log = logs.get(__name__)


class OtherBrokers:
    """Publishes what is retained, while `run` runs."""

    def __init__(self, *, addresses: Sequence[MqttAddress], ca_file: Path | None, bridge_id: str) -> None:
        """Prepare; the certificate authorities and the bridge are those of the session.

        Raises:
            ConfigurationError: the CA file is of no use.
        """
        client_id = topics.program_client_id(f"{bridge_id}@others")
        self._clients = {
            str(address): Client(address=address, ca_file=ca_file, client_id=client_id, beside=True)
            for address in addresses
        }

    async def run(self) -> None:
        """Stay connected until cancelled; a broker that refuses us is asked again."""
        async with supervise({name: self._stay(name) for name in self._clients}) as running:
            await running.until(asyncio.Event())

    async def _stay(self, name: str) -> None:
        while True:
            try:
                await self._clients[name].run()
            except ConfigurationError as error:
                log.warning("alerts are not published at another broker", broker=name, why=str(error))
            await asyncio.sleep(limits.BROKER_ACCESS_REFUSED_WAIT_S)

    async def retain(self, topic: str, payload: bytes) -> None:
        """Have those that are there retain a message; returns when they do, or are away."""
        results = await asyncio.gather(
            *(client.publish_acknowledged(topic, payload, retain=True) for client in self._clients.values()),
            return_exceptions=True,
        )
        for error in results:
            if error is not None and not isinstance(error, BrokerUnavailable):
                raise error
