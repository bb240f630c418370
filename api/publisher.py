"""The api's way in: publishes a sync message over MQTT 5 and waits for the bridge's receipt."""

import asyncio
import secrets
import ssl
from typing import Final, Protocol

import mqtt5
import msgspec

from pisync import backoff, limits, logs
from pisync.domain import receipts, topics
from pisync.domain.receipts import Receipt
from pisync.errors import BrokerUnavailable, ConfigurationError, ProtocolError, SessionTakenOver
from pisync.limits import WAITING_MAX
from pisync.mqtt.connection import Connection, Message, Subscription, connected
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


class Publisher(Protocol):
    """Hands a sync message to the bridge and returns what became of it."""

    async def publish(self, device_id: str, payload: bytes) -> Receipt:
        """Publish to the device's sync topic and wait for the receipt.

        Raises:
            BrokerUnavailable: the broker or the receipt is missing; the call may be repeated.
        """

    async def ping(self) -> None:
        """Return when publishing is possible; raises `BrokerUnavailable` where it is not."""


class MqttPublisher:
    """A `Publisher` over one MQTT connection, which `run` keeps up."""

    def __init__(self, settings: ApiSettings) -> None:
        """Prepare the connection; `run` makes it.

        Raises:
            ConfigurationError: the CA file holds no certificates.
        """
        self._address = settings.mqtt
        self._tls = _tls_context(settings)
        self._client_id = settings.api_id
        self._receipts_topic = topics.api_receipts(settings.api_id)
        self._receipt_timeout_s = settings.receipt_timeout_s
        self._waiting: dict[bytes, asyncio.Future[Receipt]] = {}
        # The same by packet id, until the broker has taken the message.
        self._published: dict[int, asyncio.Future[Receipt]] = {}
        self._connection: Connection | None = None
        self._was_connected = False
        self._away = "not connected yet"

    async def run(self) -> None:
        """Connect, and connect again whenever the connection is lost, until cancelled.

        Raises:
            ConfigurationError: the broker refuses us, and has from the start.
        """
        loop = asyncio.get_running_loop()
        delays = backoff.delays()
        while True:
            began_s = loop.time()
            try:
                await self._connect_once()
            except (BrokerUnavailable, ProtocolError, SessionTakenOver) as error:
                self._away = str(error)
            except ConfigurationError as error:
                # Once we were in, a refusal is the broker's trouble (a reload, a plugin), not ours.
                if not self._was_connected:
                    raise
                self._away = str(error)
            if loop.time() - began_s > limits.BACKOFF_CAP_S:
                delays = backoff.delays()
            delay_s = next(delays)
            log.warning(
                "broker unavailable",
                broker=str(self._address),
                reason=self._away,
                retry_in_s=round(delay_s, 2),
            )
            await asyncio.sleep(delay_s)

    async def publish(self, device_id: str, payload: bytes) -> Receipt:
        """Publish to the device's sync topic and wait for the receipt."""
        connection = self._connected()
        if len(self._waiting) >= WAITING_MAX:
            raise BrokerUnavailable(f"{WAITING_MAX} requests are waiting for their receipts already.")
        if connection.unsent_bytes > limits.UNSENT_BYTES_MAX:
            raise BrokerUnavailable("The MQTT broker does not take in what it was sent before.")
        correlation = secrets.token_bytes(16)
        receipt: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._waiting[correlation] = receipt
        packet_id = connection.publish(
            topics.sync(device_id), payload, response_topic=self._receipts_topic, correlation_data=correlation
        )
        if packet_id is not None:
            self._published[packet_id] = receipt
        try:
            async with asyncio.timeout(self._receipt_timeout_s):
                return await receipt
        except TimeoutError:
            raise BrokerUnavailable(
                f"No receipt came within {self._receipt_timeout_s:g} s. {MAY_BE_STORED}"
            ) from None
        finally:
            del self._waiting[correlation]

    async def ping(self) -> None:
        """Return when connected and subscribed."""
        self._connected()

    def _connected(self) -> Connection:
        if self._connection is None:
            raise BrokerUnavailable(f"The api is not connected to the MQTT broker: {self._away}.")
        return self._connection

    async def _connect_once(self) -> None:
        """One connection, from its CONNECT to its end."""
        connection = Connection(
            connect=mqtt5.ConnectPacket(
                f"{self._client_id}-{secrets.token_hex(4)}",
                username=self._address.username,
                password=None if self._address.password is None else self._address.password.encode(),
                clean_start=True,
                keep_alive=limits.KEEP_ALIVE_S,
                max_packet_size=limits.BRIDGE_PACKET_BYTES_MAX,
            ),
            # At most once: a lost receipt costs one client a 503; PUBACKs would cost a packet for each.
            subscriptions=[Subscription(self._receipts_topic, 0)],
            on_message=self._settle,
            on_message_at_qos_0=self._settle,
            on_puback=self._taken,
        )
        try:
            await connected(connection, self._address, self._tls)
            async with asyncio.timeout(limits.CONNECT_TIMEOUT_S):
                await connection.ready
            self._connection, self._was_connected = connection, True
            log.info("broker connected", broker=str(self._address), receipts=self._receipts_topic)
            await connection.closed
        except TimeoutError:
            raise BrokerUnavailable("no answer to the subscription in time") from None
        finally:
            self._connection = None
            connection.disconnect()
            self._published.clear()
            for receipt in self._waiting.values():
                _fail(receipt, f"The connection to the MQTT broker was lost. {MAY_BE_STORED}")

    def _taken(self, packet_id: int, reason_code: int) -> None:
        """Take note that the broker has a message, or will not have it."""
        receipt = self._published.pop(packet_id, None)
        if receipt is not None and reason_code != 0:
            _fail(receipt, _REFUSED.get(reason_code, f"The MQTT broker refused it: 0x{reason_code:02X}."))

    def _settle(self, message: Message) -> None:
        correlation = message.correlation_data
        receipt = None if correlation is None else self._waiting.get(correlation)
        if receipt is None or receipt.done():
            log.debug("receipt ignored", reason="its correlation data is not awaited here")
            return
        try:
            receipt.set_result(receipts.decode(message.payload))
        except msgspec.DecodeError as error:
            log.warning("receipt ignored", reason=str(error))


def _fail(receipt: asyncio.Future[Receipt], why: str) -> None:
    if not receipt.done():
        receipt.set_exception(BrokerUnavailable(why))


def _tls_context(settings: ApiSettings) -> ssl.SSLContext | None:
    if not settings.mqtt.tls:
        return None
    try:
        return ssl.create_default_context(cafile=settings.mqtt_ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(f"PISYNC_MQTT_CA_FILE: {settings.mqtt_ca_file}: {error}") from None
