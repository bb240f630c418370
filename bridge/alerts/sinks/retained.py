"""What the broker retains about alerts, read on a connection of its own that lasts as long as that takes."""

import asyncio
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from pisync import limits
from pisync.domain import topics
from pisync.errors import BrokerUnavailable, ConfigurationError
from pisync.mqtt.address import MqttAddress
from pisync.mqtt.client import Client
from pisync.mqtt.messages import Message, Subscription
from pisync.tasks import supervise


@dataclass(frozen=True, kw_only=True, slots=True)
class Retained:
    """Digests of the payloads retained, by topic; of a part of the topics where not `whole`."""

    digests: dict[str, bytes]
    whole: bool


def digest(payload: bytes) -> bytes:
    """What stands for a payload: others may have put there what they like, of any size."""
    return blake2b(payload, digest_size=16).digest()


class RetainedReader:
    """Reads what is retained about alerts."""

    def __init__(self, *, address: MqttAddress, ca_file: Path | None, bridge_id: str) -> None:
        """Prepare; the broker, the certificate authorities and the bridge are those of the session."""
        self._address = address
        self._ca_file = ca_file
        self._client_id = topics.program_client_id(f"{bridge_id}@alerts")

    async def read(self) -> Retained:
        """Everything that is retained now.

        Raises:
            BrokerUnavailable: the broker does not let us read, or not in time.
        """
        digests: dict[str, bytes] = {}
        received = 0

        def take(message: Message) -> None:
            nonlocal received
            received += 1
            if message.payload and len(digests) < limits.ALERTS_RETAINED_MAX:
                digests[message.topic] = digest(message.payload)
            elif not message.payload:  # cleared while we read
                digests.pop(message.topic, None)

        connected, done = asyncio.Event(), asyncio.Event()
        client = Client(
            address=self._address,
            ca_file=self._ca_file,
            client_id=self._client_id,
            subscriptions=[Subscription(topics.ALERTS_FILTER, 0, take)],
            on_up=lambda _: connected.set(),
            beside=True,
        )

        async def look() -> None:
            await connected.wait()
            before = -1
            while received != before:  # a broker may answer a ping before it has sent all
                before = received
                await client.barrier()
            done.set()

        try:
            async with (
                asyncio.timeout(limits.ALERTS_CHECK_TIMEOUT_S),
                supervise({"client": client.run(), "look": look()}) as reading,
            ):
                await reading.until(done)
        except TimeoutError:
            raise BrokerUnavailable("what is retained about alerts could not be read in time") from None
        except ConfigurationError as error:
            raise BrokerUnavailable(str(error)) from None
        return Retained(digests=digests, whole=len(digests) < limits.ALERTS_RETAINED_MAX)
