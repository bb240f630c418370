"""The bridge's MQTT session: one connection after another, for as long as the bridge runs.

The session itself lives in the broker, under the bridge's client id, and outlives every connection: what is
not acknowledged there is sent again on the next one.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import mqtt5

from bridge.broker_watch import STATUS_PREFIX
from bridge.metrics import Metrics
from pisync import backoff, limits, logs
from pisync.errors import BrokerUnavailable, ConfigurationError, ProtocolError, SessionTakenOver
from pisync.mqtt.address import MqttAddress
from pisync.mqtt.connection import Connection, Message, State, Subscription, connected

log = logs.get(__name__)


class Session:
    """Keeps the bridge connected and subscribed; hands every message to `on_message`."""

    def __init__(
        self,
        *,
        address: MqttAddress,
        ca_file: Path | None,
        client_id: str,
        topic_filter: str,
        status_filter: str,
        on_message: Callable[[Message], None],
        on_status: Callable[[str, bytes], None],
        on_connected: Callable[[], None],
        is_ours: Callable[[], Awaitable[bool]],
        known_before: bool,
        metrics: Metrics,
        leaving: bool = False,
    ) -> None:
        """Prepare; `run` connects.

        Args:
            address: the broker.
            ca_file: whom to trust for `mqtts://`; None: whom the system trusts.
            client_id: names the session in the broker.
            topic_filter: what to subscribe to.
            status_filter: what the broker says about itself, subscribed to beside it.
            on_message: takes each message in.
            on_connected: is told of every connection that is subscribed.
            on_status: takes the topic and payload of what the broker says about itself.
            is_ours: whether the client id is still ours; asked when the broker hangs up without a word,
                because Mosquitto 2.0 does so to the one of two clients with one id that came first.
            known_before: whether a bridge of this id ran before, so that the broker should have its session.
            metrics: where connections are counted.
            leaving: unsubscribe instead, and take only what the session still holds.
        """
        self._address = address
        self._tls = ssl.create_default_context(cafile=ca_file) if address.tls else None
        self._client_id = client_id
        self._topic_filter = topic_filter
        self._status_filter = status_filter
        self._on_message = on_message
        self._on_status = on_status
        self._on_connected = on_connected
        self._is_ours = is_ours
        self._has_session = known_before
        self._metrics = metrics
        self._leaving = leaving
        self._unacknowledged: dict[int, bytes] = {}
        self._connection: Connection | None = None
        self._reading = asyncio.Event()
        self._reading.set()
        self._was_ready = False
        self._ended = False
        self._published_at_qos_0 = 0
        metrics.ready.set_function(lambda: self.is_ready)
        metrics.published_at_qos_0.set_function(self._count_at_qos_0)

    @property
    def is_ready(self) -> bool:
        """Whether we are connected and subscribed."""
        return self._connection is not None and self._connection.state is State.READY

    async def run(self) -> None:
        """Stay connected until cancelled, or until the session is ended.

        Raises:
            ConfigurationError: the broker refuses us, and has from the start.
            SessionTakenOver: another client uses our id.
        """
        delays = backoff.delays()
        loop = asyncio.get_running_loop()
        while not self._ended:
            # A connection that may not be read could not even read its CONNACK.
            await self._reading.wait()
            started_at = loop.time()
            try:
                await self._connect_once()
            except (BrokerUnavailable, ProtocolError) as error:
                if not await self._is_ours():
                    raise SessionTakenOver(
                        f"another bridge runs as {self._client_id!r}:"
                        " every bridge needs a PISYNC_BRIDGE_ID of its own"
                    ) from None
                if loop.time() - started_at > limits.BACKOFF_CAP_S:
                    delays = backoff.delays()
                await self._wait(str(error), next(delays))
            except ConfigurationError as error:
                # Once we were in, a refusal is the broker's trouble (a reload, a plugin), not ours.
                if not self._was_ready:
                    raise
                await self._wait(str(error), next(delays))

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        correlation_data: bytes | None = None,
        expiry_s: int | None = None,
        retain: bool = False,
    ) -> None:
        """Send a message if there is a connection; whoever waits for it in vain asks again."""
        if self._connection is not None:
            self._connection.publish(
                topic, payload, correlation_data=correlation_data, expiry_s=expiry_s, retain=retain
            )

    def end(self) -> None:
        """End the session in the broker, with all that it holds, for good."""
        self._ended = True
        if self._connection is not None:
            self._connection.disconnect(end_session=True)

    def pause(self) -> None:
        """Stop taking messages in."""
        self._reading.clear()
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """Take messages in again."""
        self._reading.set()
        if self._connection is not None:
            self._connection.resume()

    async def _wait(self, why: str, delay_s: float) -> None:
        log.warning("broker unavailable", broker=str(self._address), why=why, retry_in_s=round(delay_s, 2))
        await asyncio.sleep(delay_s)

    async def _connect_once(self) -> None:
        connection = self._new_connection()
        try:
            session_present = await connected(connection, self._address, self._tls)
            self._judge(session_present=session_present)
            self._connection = connection
            if not self._reading.is_set():
                connection.pause()
            await connection.ready
            self._was_ready = True
            self._on_connected()
            log.info("connected", broker=str(self._address), session_resumed=session_present)
            await connection.closed
        finally:
            self._connection = None
            self._published_at_qos_0 += connection.published_at_qos_0
            connection.disconnect()

    def _judge(self, *, session_present: bool) -> None:
        self._metrics.connected(resumed=session_present)
        if self._has_session and not session_present:
            self._metrics.sessions_lost.inc()
            log.warning(
                "the broker lost this bridge's session",
                client_id=self._client_id,
                meaning="what waited there is gone; devices that wait for a receipt will send theirs again",
            )
        self._has_session = True

    def _take_at_qos_0(self, message: Message) -> None:
        if message.topic.startswith(STATUS_PREFIX):
            self._on_status(message.topic, message.payload)
        else:
            self._on_message(message)

    def _count_at_qos_0(self) -> int:
        present = 0 if self._connection is None else self._connection.published_at_qos_0
        return self._published_at_qos_0 + present

    def _new_connection(self) -> Connection:
        password = self._address.password
        return Connection(
            connect=mqtt5.ConnectPacket(
                self._client_id,
                username=self._address.username,
                password=None if password is None else password.encode(),
                clean_start=False,
                keep_alive=limits.KEEP_ALIVE_S,
                session_expiry_interval=limits.SESSION_EXPIRY_S,
                receive_max=limits.RECEIVE_MAXIMUM,
                max_packet_size=limits.BRIDGE_PACKET_BYTES_MAX,
            ),
            subscriptions=[
                Subscription(self._topic_filter, 1),
                # What the broker drops will not be seen where this one is refused.
                Subscription(self._status_filter, 0, required=False),
            ],
            leaving=self._leaving,
            on_message=self._on_message,
            on_message_at_qos_0=self._take_at_qos_0,
            unacknowledged=self._unacknowledged,
        )
