"""The api's way in: publishes a sync message over MQTT 5 and waits for the bridge's receipt."""

import asyncio
import secrets
from typing import Final, Protocol
from zlib import crc32

import msgspec

from pisync import sampled
from pisync.domain import receipts, topics
from pisync.domain.events import Reason
from pisync.domain.receipts import Receipt
from pisync.errors import BrokerUnavailable, PublishRefused, ReplyLost
from pisync.limits import BROKER_PING_S, REFUSAL_REMEMBERED_S
from pisync.mqtt.client import Client
from pisync.mqtt.several import staying
from pisync.settings import ApiSettings
from pisync.tasks import cancel, supervise

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

    def check_ready(self) -> None:
        """Return where we are connected, as far as is known; raises `BrokerUnavailable` where we are not."""

    async def ping(self) -> None:
        """Return when a broker has answered just now; `BrokerUnavailable`: we are not connected."""

    async def ping_way_in(self) -> None:
        """Return unless a publish was refused just now, for want of a bridge or a right; it raises that."""

    async def ping_every_broker(self) -> None:
        """Return when each broker has answered; `BrokerUnavailable` names those that are away or silent."""


class MqttSyncPublisher:
    """A `SyncPublisher` over one MQTT client a broker, which `run` keeps connected.

    A bridge at any broker takes an event in, and answers where it came: so what is published goes to one of
    the brokers that are there, the same for a device while they stay the same. One that does not take a
    message, for want of a bridge or a right, stores nothing: the next is asked. One from which no receipt
    came in time is asked after the others for a while.
    """

    def __init__(self, settings: ApiSettings) -> None:
        """Prepare the clients; `run` connects them.

        Raises:
            ConfigurationError: the CA file is of no use.
        """
        # Of this process alone: replicas with one PISYNC_API_ID would end one another's connections.
        client_id = topics.program_client_id(f"{settings.api_id}-{secrets.token_hex(4)}")
        self._clients = {
            str(address): Client(
                address=address,
                ca_file=settings.mqtt_ca_file,
                client_id=client_id,
                reply_topic=topics.api_receipts(settings.api_id),
            )
            for address in settings.brokers
        }
        self._log = sampled.get("api.publisher")
        self._refused: tuple[float, str] | None = None
        self._failed_at: dict[Client, float] = {}
        self._receipt_timeout_s = settings.receipt_timeout_s

    async def run(self) -> None:
        """Stay connected until cancelled.

        Raises:
            ConfigurationError: the broker refuses us, and has from the start.
        """
        async with supervise(staying(self._clients)) as running:
            await running.until(asyncio.Event())

    async def publish(self, device_id: str | None, payload: bytes) -> Receipt:
        """Publish to the device's sync topic and wait for the receipt."""
        topic = topics.SYNC_OF_NO_DEVICE if device_id is None else topics.sync(device_id)
        try:
            reply = await self._reply(topic, payload)
            self._refused = None
            return _taken(receipts.decode(reply))
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
            self._log.warning("receipt not readable", why=str(error))
            raise BrokerUnavailable(f"The receipt that came is not readable. {MAY_BE_STORED}") from None

    async def _reply(self, topic: str, payload: bytes) -> bytes:
        """The reply by way of the first broker that takes the message.

        Raises:
            TimeoutError: none came in time.
            BrokerUnavailable: no broker takes it, the last for this reason; or the reply is lost.
        """
        ends_at = asyncio.get_running_loop().time() + self._receipt_timeout_s
        *others, last = self._in_order(topic)
        for client in others:
            try:
                return await self._ask(client, topic, payload, ends_at)
            except ReplyLost:
                raise
            except BrokerUnavailable as error:
                self._log.warning("a broker did not take an event; another one is asked", why=str(error))
        return await self._ask(last, topic, payload, ends_at)

    async def _ask(self, client: Client, topic: str, payload: bytes, ends_at: float) -> bytes:
        try:
            async with asyncio.timeout_at(ends_at):
                return await client.request(topic, payload)
        except (BrokerUnavailable, TimeoutError):
            self._failed_at[client] = asyncio.get_running_loop().time()
            raise

    def check_ready(self) -> None:
        """Return where we are connected and subscribed."""
        self._client_for("").check_ready()

    async def ping(self) -> None:
        """Return when a broker has answered just now: the first that does.

        That we are connected is no proof: one whose machine is gone is missed after half a minute.
        """
        self.check_ready()
        asked = [
            asyncio.create_task(client.ping(), name="ping")
            for client in self._clients.values()
            if client.is_ready
        ]
        pending = set(asked)
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                faults = [task.exception() for task in done]
                if None in faults:
                    return
        finally:
            await cancel(asked)
        asked[0].result()

    async def ping_way_in(self) -> None:
        """Return unless a publish was refused just now.

        What was refused longer ago is forgotten: an api that is not ready gets no POST that could show
        that a bridge is back.
        """
        if self._refused is not None:
            since, refusal = self._refused
            if asyncio.get_running_loop().time() - since < REFUSAL_REMEMBERED_S:
                raise BrokerUnavailable(refusal)

    async def ping_every_broker(self) -> None:
        """Return when each broker has answered just now."""
        away = await asyncio.gather(*map(_why_away, self._clients.values()))
        told = [
            why if len(self._clients) == 1 else f"{name}: {why}"
            for name, why in zip(self._clients, away, strict=True)
            if why is not None
        ]
        if told:
            raise BrokerUnavailable(" ".join(told))

    def _client_for(self, topic: str) -> Client:
        """One that is connected, where one is."""
        return self._in_order(topic)[0]

    def _in_order(self, topic: str) -> list[Client]:
        """Those that are connected, where one is: who failed just now comes last."""
        every = list(self._clients.values())
        clients = [client for client in every if client.is_ready] or every
        first = crc32(topic.encode()) % len(clients)
        since = asyncio.get_running_loop().time() - REFUSAL_REMEMBERED_S
        return sorted(
            clients[first:] + clients[:first], key=lambda client: self._failed_at.get(client, since) > since
        )


async def _why_away(client: Client) -> str | None:
    """Why a broker does not answer; None: it does."""
    try:
        await client.ping(BROKER_PING_S)
    except BrokerUnavailable as error:
        return str(error)
    return None


def _taken(receipt: Receipt) -> Receipt:
    """The receipt, of a message that was looked at.

    Raises:
        BrokerUnavailable: its device sends more than is taken of one, so that it is to be sent again later.
    """
    for rejection in receipt.rejected:
        if rejection.reason is Reason.RATE_EXCEEDED:
            raise BrokerUnavailable(f"A bridge did not take this in: {rejection.detail}.")
    return receipt
