"""The api's way in: publishes a sync message over MQTT 5 and waits for the bridge's receipt."""

import asyncio
import secrets
from typing import Final, Protocol

import msgspec

from pisync import logs
from pisync.domain import receipts, topics
from pisync.domain.receipts import Receipt
from pisync.errors import BrokerUnavailable, PublishRefused, ReplyLost
from pisync.limits import REFUSAL_REMEMBERED_S
from pisync.mqtt.client import Client
from pisync.settings import ApiSettings

log = logs.get("api.publisher")

MAY_BE_STORED: Final = (
    "The event may still be stored; repeating the request is safe, because a duplicate counts once."
)
# PUBACK reason codes (MQTT 5, 3.4.2.1) that say something; none of them means stored.
_REFUSED: Final = {
    0x10: "No bridge has subscribed at the MQTT broker, so the event was not stored.",
    0x87: "The MQTT broker does not let the api publish; see its access list.",
    0x97: "The MQTT broker's quota is exceeded.",
}


class SyncPublisher(Protocol):
    """Hands a sync message to the bridge and returns the bridge's receipt."""

    async def publish(self, device_id: str | None, payload: bytes) -> Receipt:
        """Publish to the device's sync topic and wait for the receipt; None: the payload names no device.

        Raises:
            BrokerUnavailable: the broker or the receipt is missing; the call may be repeated.
        """

    async def ping(self) -> None:
        """Return when publishing is possible; raises `BrokerUnavailable` where it is not."""

    async def ping_way_in(self) -> None:
        """Return unless a publish was refused just now, for want of a bridge or a right; it raises that."""


class MqttSyncPublisher:
    """A `SyncPublisher` over one MQTT client, which `run` keeps connected."""

    def __init__(self, settings: ApiSettings) -> None:
        """Prepare the client; `run` connects it.

        Raises:
            ConfigurationError: the CA file is of no use.
        """
        self._client = Client(
            address=settings.mqtt,
            ca_file=settings.mqtt_ca_file,
            # Of this process alone: replicas with one PISYNC_API_ID would end one another's connections.
            client_id=topics.program_client_id(f"{settings.api_id}-{secrets.token_hex(4)}"),
            reply_topic=topics.api_receipts(settings.api_id),
        )
        self._refused: tuple[float, str] | None = None
        self._receipt_timeout_s = settings.receipt_timeout_s

    async def run(self) -> None:
        """Stay connected until cancelled.

        Raises:
            ConfigurationError: the broker refuses us, and has from the start.
        """
        await self._client.run()

    async def publish(self, device_id: str | None, payload: bytes) -> Receipt:
        """Publish to the device's sync topic and wait for the receipt."""
        topic = topics.SYNC_OF_NO_DEVICE if device_id is None else topics.sync(device_id)
        try:
            async with asyncio.timeout(self._receipt_timeout_s):
                reply = await self._client.request(topic, payload)
            self._refused = None
            return receipts.decode(reply)
        except PublishRefused as error:
            refusal = _REFUSED.get(error.reason_code, str(error))
            self._refused = (asyncio.get_running_loop().time(), refusal)
            raise BrokerUnavailable(refusal) from None
        except ReplyLost as error:
            raise BrokerUnavailable(f"{error} {MAY_BE_STORED}") from None
        except TimeoutError:
            raise BrokerUnavailable(
                f"No receipt came within {self._receipt_timeout_s:g} s. {MAY_BE_STORED}"
            ) from None
        except msgspec.DecodeError as error:
            log.warning("receipt not readable", why=str(error))
            raise BrokerUnavailable(f"The receipt that came is not readable. {MAY_BE_STORED}") from None

    async def ping(self) -> None:
        """Return when connected and subscribed."""
        self._client.check_ready()

    async def ping_way_in(self) -> None:
        """Return unless a publish was refused just now.

        What was refused longer ago is forgotten: an api that is not ready gets no POST that could show
        that a bridge is back.
        """
        if self._refused is not None:
            since, refusal = self._refused
            if asyncio.get_running_loop().time() - since < REFUSAL_REMEMBERED_S:
                raise BrokerUnavailable(refusal)
