"""The api's way in: publishes a sync message over MQTT 5 and waits for the bridge's receipt."""

import asyncio
import copy
import secrets
import socket
import ssl
from functools import partial
from typing import Final, Protocol

import aiomqtt
import msgspec
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from pisync import backoff, limits, logs, receipts, topics
from pisync.errors import BrokerUnavailable, ConfigurationError
from pisync.limits import WAITING_MAX
from pisync.receipts import Receipt
from pisync.settings import Settings

log = logs.get("api.publisher")

MAY_BE_STORED: Final = (
    "The event may still be stored; repeating the request is safe, because a duplicate counts once."
)
# CONNACK and SUBACK reason codes that only a person can mend (MQTT 5, table 2-6): unsupported protocol
# version, client identifier not valid, bad user name or password, not authorized, banned, bad
# authentication method, topic filter invalid.
_HOPELESS: Final = frozenset({0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C, 0x8F})
_SUBACK_FAILURE: Final = 0x80  # this and all codes above


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

    def __init__(self, settings: Settings) -> None:
        """Prepare the connection; `run` makes it.

        Raises:
            ConfigurationError: the CA file holds no certificates.
        """
        self._address = settings.mqtt
        self._tls = _tls_context(settings)
        self._client_id = settings.api_id
        self._receipts_topic = topics.api_receipts(settings.api_id)
        # Copied for each message: making one anew costs more than all else here but the sending.
        self._properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        self._properties.ResponseTopic = self._receipts_topic
        self._receipt_timeout_s = settings.receipt_timeout_s
        self._waiting: dict[bytes, asyncio.Future[Receipt]] = {}
        self._client: aiomqtt.Client | None = None
        self._away = "not connected yet"

    async def run(self) -> None:
        """Connect, and connect again whenever the connection is lost, until cancelled.

        Raises:
            ConfigurationError: the broker refuses us for a reason that trying again cannot mend.
        """
        loop = asyncio.get_running_loop()
        delays = backoff.delays()
        while True:
            began_s = loop.time()
            try:
                await self._connection()
            except aiomqtt.MqttError as error:
                self._away = str(error)
            if loop.time() - began_s > limits.BACKOFF_CAP_S:
                delays = backoff.delays()
            delay_s = next(delays)
            log.warning(
                "broker away", broker=str(self._address), reason=self._away, retry_in_s=round(delay_s, 2)
            )
            await asyncio.sleep(delay_s)

    async def publish(self, device_id: str, payload: bytes) -> Receipt:
        """Publish to the device's sync topic and wait for the receipt."""
        client = self._connected()
        if len(self._waiting) >= WAITING_MAX:
            raise BrokerUnavailable(f"{WAITING_MAX} requests are waiting for their receipts already.")
        correlation = secrets.token_bytes(16)
        receipt: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._waiting[correlation] = receipt
        properties = copy.copy(self._properties)
        properties.CorrelationData = correlation
        publishing = asyncio.create_task(
            client.publish(topics.sync(device_id), payload, qos=1, properties=properties),
            name=f"publish for {device_id}",
        )
        publishing.add_done_callback(partial(_give_up, receipt))
        try:
            async with asyncio.timeout(self._receipt_timeout_s):
                return await receipt
        except TimeoutError:
            raise BrokerUnavailable(
                f"No receipt came within {self._receipt_timeout_s:g} s. {MAY_BE_STORED}"
            ) from None
        finally:
            publishing.cancel()
            del self._waiting[correlation]

    async def ping(self) -> None:
        """Return when connected and subscribed."""
        self._connected()

    def _connected(self) -> aiomqtt.Client:
        if self._client is None:
            raise BrokerUnavailable(f"The api is not connected to the MQTT broker: {self._away}.")
        return self._client

    async def _connection(self) -> None:
        """One connection, from its CONNECT to its end."""
        client = aiomqtt.Client(
            self._address.host,
            self._address.port,
            username=self._address.username,
            password=self._address.password,
            tls_context=self._tls,
            identifier=f"{self._client_id}-{secrets.token_hex(4)}",
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=True,
            keepalive=limits.KEEP_ALIVE_S,
            timeout=limits.CONNECT_TIMEOUT_S,
            # A PUBACK followed by a PUBLISH would wait for the broker's delayed TCP acknowledgement.
            socket_options=((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),),
            max_queued_incoming_messages=2 * WAITING_MAX,
            max_queued_outgoing_messages=2 * WAITING_MAX,
        )
        client.pending_calls_threshold = WAITING_MAX
        try:
            async with client:
                await self._subscribe(client)
                self._client = client
                log.info("broker connected", broker=str(self._address), receipts=self._receipts_topic)
                async for message in client.messages:
                    self._settle(message)
        except aiomqtt.MqttCodeError as error:
            self._refuse_hopeless(_code(error.rc), str(error))
            raise
        finally:
            self._client = None
            for receipt in self._waiting.values():
                if not receipt.done():
                    receipt.set_exception(
                        BrokerUnavailable(f"The connection to the MQTT broker was lost. {MAY_BE_STORED}")
                    )

    async def _subscribe(self, client: aiomqtt.Client) -> None:
        # At most once: a lost receipt costs one client a 503; PUBACKs would cost a packet and a write each.
        for granted in await client.subscribe(self._receipts_topic, qos=0):
            code = _code(granted)
            if code >= _SUBACK_FAILURE:
                self._refuse_hopeless(code, f"[code:{code}] {granted!s}, subscribing {self._receipts_topic}")
                raise aiomqtt.MqttError(f"the broker refused the subscription: {granted!s}")

    def _refuse_hopeless(self, code: int, reason: str) -> None:
        if code in _HOPELESS:
            raise ConfigurationError(
                f"the MQTT broker {self._address} refuses the api: {reason};"
                " check PISYNC_MQTT_URL and the broker's access list"
            )

    def _settle(self, message: aiomqtt.Message) -> None:
        correlation = getattr(message.properties, "CorrelationData", None)
        receipt = self._waiting.get(correlation) if isinstance(correlation, bytes) else None
        if receipt is None or receipt.done():
            log.debug("receipt ignored", reason="its correlation data is not awaited here")
            return
        try:
            receipt.set_result(receipts.decode(bytes(message.payload)))
        except msgspec.DecodeError as error:
            log.warning("receipt ignored", reason=str(error))


def _give_up(receipt: asyncio.Future[Receipt], publishing: asyncio.Task[None]) -> None:
    """Fail the waiting request at once where its message could not be published."""
    if publishing.cancelled():
        return
    error = publishing.exception()
    if error is not None and not receipt.done():
        receipt.set_exception(
            BrokerUnavailable(f"Publishing to the MQTT broker failed: {error}. {MAY_BE_STORED}")
        )


def _code(reason: int | ReasonCode | None) -> int:
    return reason.value if isinstance(reason, ReasonCode) else reason or 0


def _tls_context(settings: Settings) -> ssl.SSLContext | None:
    if not settings.mqtt.tls:
        return None
    try:
        return ssl.create_default_context(cafile=settings.mqtt_ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(f"PISYNC_MQTT_CA_FILE: {settings.mqtt_ca_file}: {error}") from None
