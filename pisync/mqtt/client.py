"""The MQTT 5 client of all programs: it keeps one connection to the broker for as long as it runs.

What outlives a connection is here: the session, publishes that the broker has not acknowledged, the pause,
the backoff. A program adds its policy with its subscriptions and the two hooks.
"""

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import mqtt5

from pisync import backoff, limits, logs
from pisync.errors import (
    BrokerUnavailable,
    ConfigurationError,
    PiSyncError,
    ProtocolError,
    PublishRefused,
    SessionTakenOver,
)
from pisync.mqtt.address import MqttAddress
from pisync.mqtt.connection import FAILURE, Connection, ConnectionState, OnPuback
from pisync.mqtt.messages import Subscription
from pisync.mqtt.requests import Requests
from pisync.mqtt.tls import tls_context

log = logs.get(__name__)


class Publisher(Protocol):
    """Sends messages over whichever connection there is; a `Client` is one."""

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        correlation_data: bytes | None = None,
        expiry_s: int | None = None,
        retain: bool = False,
    ) -> None:
        """Send a message if there is a connection."""


class Client:
    """Stays connected and subscribed while `run` runs; may be paused, and published through, at any time."""

    def __init__(
        self,
        *,
        address: MqttAddress,
        ca_file: Path | None,
        client_id: str,
        subscriptions: Sequence[Subscription] = (),
        session_expiry_s: int = 0,
        leaving: bool = False,
        former_filters: Sequence[str] = (),
        reply_topic: str | None = None,
        on_up: Callable[[bool], None] | None = None,
        on_down: Callable[[PiSyncError], Awaitable[None]] | None = None,
        on_refused: Callable[[int], None] | None = None,
        beside: bool = False,
    ) -> None:
        """Prepare; `run` connects.

        Args:
            address: the broker.
            ca_file: the certificate authorities to trust for `mqtts://`; None: those that the system trusts.
            client_id: names the session in the broker.
            subscriptions: what to subscribe to; a message goes to the handler of the first that matches it.
            session_expiry_s: how long the broker keeps the session without a connection, in seconds. 0: it
                ends with each connection, and a publish that is not acknowledged by then is not sent again.
            leaving: unsubscribe instead, and take in only what the session still holds.
            former_filters: what to unsubscribe from where the broker resumed our session: an earlier version
                of the program may have subscribed to it.
            reply_topic: where the replies to requests come; None: the client makes no requests.
            on_up: called when connected and subscribed, with whether the broker still has the session of
                the connection before.
            on_down: awaited when the connection is lost or could not be made, before the next attempt. What
                it raises ends the client.
            on_refused: called with the reason code of a PUBACK that is no success, for what `publish` sent.
            beside: it is another connection beside a program's own, and speaks of itself at level debug only.

        Raises:
            ConfigurationError: the CA file is of no use.
        """
        self._address = address
        self._tls = tls_context(address, ca_file)
        self._client_id = client_id
        self._session_expiry_s = session_expiry_s
        self._leaving = leaving
        self._former_filters = former_filters
        self._on_up = on_up
        self._on_down = on_down
        self._on_refused = on_refused
        self._log_up, self._log_down = (log.debug, log.debug) if beside else (log.info, log.warning)
        self._requests = None if reply_topic is None else Requests(reply_topic)
        self._subscriptions = list(subscriptions)
        if self._requests is not None:
            # At most once: a lost reply costs one caller a wait; PUBACKs would cost a packet for each reply.
            self._subscriptions.append(Subscription(self._requests.reply_topic, 0, self._requests.on_reply))
        self._unacknowledged: dict[int, bytes] | None = {} if session_expiry_s else None
        self._waiting: dict[int, OnPuback] = {}
        self._connection: Connection | None = None
        self._overdue: Connection | None = None
        self._reading = asyncio.Event()
        self._reading.set()
        self._was_up = False
        self._session_kept = True
        self._ended = False
        self._down_reason = "not connected yet"
        self._published_at_qos_0 = 0

    @property
    def is_ready(self) -> bool:
        """Whether we are connected and subscribed."""
        return self._connection is not None and self._connection.state is ConnectionState.READY

    @property
    def was_ready(self) -> bool:
        """Whether we are, or were at any time, connected and subscribed."""
        return self._was_up

    @property
    def send_quota(self) -> int:
        """How many publishes the broker takes now at QoS 1."""
        return 0 if self._connection is None else self._connection.send_quota

    @property
    def published_at_qos_0(self) -> int:
        """Publishes that were sent at QoS 0 because the broker's Receive Maximum was used up."""
        present = 0 if self._connection is None else self._connection.published_at_qos_0
        return self._published_at_qos_0 + present

    async def run(self) -> None:
        """Connect, and connect again whenever the connection is lost, until cancelled or the session ended.

        Raises:
            ConfigurationError: the broker refuses us, and has from the start.
        """
        delays = backoff.delays()
        loop = asyncio.get_running_loop()
        while not self._ended:
            # A connection that may not be read could not even read its CONNACK.
            await self._reading.wait()
            started_at = loop.time()
            try:
                await self._connect_once()
            except (BrokerUnavailable, ProtocolError, SessionTakenOver, ConfigurationError) as error:
                # Once we were in, a refusal is the broker's trouble (a reload, a plugin), not ours.
                if isinstance(error, ConfigurationError) and not self._was_up:
                    self._down_reason = str(error)
                    raise
                if loop.time() - started_at > limits.BACKOFF_CAP_S:
                    delays = backoff.delays()
                await self._went_down(error, next(delays))

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        correlation_data: bytes | None = None,
        expiry_s: int | None = None,
        retain: bool = False,
    ) -> None:
        """Send a message if there is a connection; nothing tells that it was not sent."""
        if self._connection is not None:
            self._connection.publish(
                topic, payload, correlation_data=correlation_data, expiry_s=expiry_s, retain=retain
            )

    async def publish_acknowledged(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        response_topic: str | None = None,
        correlation_data: bytes | None = None,
        expiry_s: int | None = None,
    ) -> None:
        """Send a message at QoS 1; returns when the broker has acknowledged it, within a limit of time.

        Raises:
            BrokerUnavailable: there is no connection, the broker's Receive Maximum is used up, or no PUBACK
                came in time, for this message, which may still be on its way, or for one before.
            PublishRefused: the broker did not take the message. That nobody had subscribed is no refusal.
        """
        connection = self._ready_connection()
        # One that hangs is waited for once, and not by each message that its connection takes until it ends.
        if not connection.send_quota or connection is self._overdue:
            raise BrokerUnavailable("The MQTT broker takes no more before it has acknowledged what it has.")
        acknowledged: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

        def on_puback(reason_code: int | None) -> None:
            self._overdue = None
            if not acknowledged.done():
                acknowledged.set_result(reason_code)

        connection.publish(
            topic,
            payload,
            retain=retain,
            response_topic=response_topic,
            correlation_data=correlation_data,
            expiry_s=expiry_s,
            on_puback=on_puback,
        )
        try:
            async with asyncio.timeout(limits.ALERTS_PUBACK_TIMEOUT_S):
                reason_code = await acknowledged
        except TimeoutError:
            self._overdue = connection
            raise BrokerUnavailable("The MQTT broker did not acknowledge a message in time.") from None
        if reason_code is None:
            raise BrokerUnavailable("The MQTT broker lost the session before it acknowledged a message.")
        if reason_code >= FAILURE:
            raise PublishRefused(reason_code)

    async def barrier(self) -> None:
        """Return when the broker has answered all that was sent so far, and we have handled the answers.

        Raises:
            BrokerUnavailable: there is no connection, or it ended first.
        """
        await self._ready_connection().barrier()

    async def ping(self, within_s: float | None = None) -> None:
        """Return when the broker has answered just now; None: it waits without a limit of time.

        Raises:
            BrokerUnavailable: there is no connection, it ended first, or no answer came in time.
        """
        connection = self._ready_connection()
        try:
            async with asyncio.timeout(within_s):
                await connection.ping()
        except BrokerUnavailable:
            raise
        except PiSyncError as error:  # of what ended the connection
            raise BrokerUnavailable(f"The MQTT broker does not answer: {error}.") from None
        except TimeoutError:
            raise BrokerUnavailable(
                f"The MQTT broker does not answer; it said nothing for {connection.silent_s:.0f} s."
            ) from None

    async def request(self, topic: str, payload: bytes) -> bytes:
        """Publish with the reply topic as Response Topic; returns the payload of the reply.

        It waits without a limit of time: a caller sets one, and cancels.

        Raises:
            BrokerUnavailable: there is no connection, too many requests wait for their replies, or the broker
                does not take in what it was sent before. This request was not sent.
            PublishRefused: the broker did not take the message.
            ReplyLost: the connection was lost before the reply came.
        """
        if self._requests is None:
            raise RuntimeError("a client without a reply topic makes no requests")
        return await self._requests.send(self._ready_connection(), topic, payload)

    def check_ready(self) -> None:
        """Return where we are connected and subscribed.

        Raises:
            BrokerUnavailable: we are not; the text says why.
        """
        self._ready_connection()

    def end_session(self) -> None:
        """End the session in the broker, with all that it holds, and with it `run`."""
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

    def _ready_connection(self) -> Connection:
        if self._connection is None or self._connection.state is not ConnectionState.READY:
            raise BrokerUnavailable(f"There is no connection to the MQTT broker: {self._down_reason}.")
        return self._connection

    async def _connect_once(self) -> None:
        """One connection, from its CONNECT to its end."""
        connection = self._new_connection()
        try:
            session_present = await self._open(connection)
            self._session_kept = self._session_kept and session_present
            self._connection = connection
            if not self._reading.is_set():
                connection.pause()
            await connection.ready
            self._went_up()
            await connection.closed
        finally:
            self._connection = None
            self._published_at_qos_0 += connection.published_at_qos_0
            connection.disconnect()
            if self._requests is not None:
                self._requests.connection_lost()

    def _went_up(self) -> None:
        session_kept, self._session_kept = self._session_kept, True
        self._was_up = True
        if self._on_up is not None:
            self._on_up(session_kept)
        self._log_up("connected", broker=str(self._address), session_resumed=session_kept)

    async def _went_down(self, error: PiSyncError, delay_s: float) -> None:
        self._down_reason = str(error)
        if self._on_down is not None:
            await self._on_down(error)
        self._log_down(
            "broker unavailable", broker=str(self._address), why=str(error), retry_in_s=round(delay_s, 2)
        )
        await asyncio.sleep(delay_s)

    async def _open(self, connection: Connection) -> bool:
        """Connect to the broker; returns whether it resumed a session of ours.

        Raises:
            ConfigurationError: the broker, or its certificate, says that only a person can help.
            BrokerUnavailable: there is no broker, or it did not answer in time.
        """
        loop = asyncio.get_running_loop()
        host, port = self._address.host, self._address.port
        try:
            async with asyncio.timeout(limits.CONNECT_TIMEOUT_S):
                transport, _ = await loop.create_connection(lambda: connection, host, port, ssl=self._tls)
                if hasattr(socket, "TCP_USER_TIMEOUT"):
                    line = transport.get_extra_info("socket")
                    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limits.LINE_SILENCE_S * 1000)
                return await connection.accepted
        except ssl.SSLCertVerificationError as error:
            raise ConfigurationError(
                f"MQTT: the broker's certificate is not to be trusted: {error}"
            ) from None
        except ConnectionError as error:  # whose text is the event loop's, and not the same in all of them
            raise BrokerUnavailable(os.strerror(error.errno or errno.ECONNABORTED)) from None
        except OSError as error:  # TimeoutError is one of them
            raise BrokerUnavailable(str(error) or "no answer in time") from None

    def _new_connection(self) -> Connection:
        return Connection(**self._options())

    def _options(self) -> dict[str, Any]:
        """What each connection is made with."""
        password = self._address.password
        return {
            "connect": mqtt5.ConnectPacket(
                self._client_id,
                username=self._address.username,
                password=None if password is None else password.encode(),
                clean_start=not self._session_expiry_s,
                keep_alive=limits.KEEP_ALIVE_S,
                session_expiry_interval=self._session_expiry_s,
                receive_max=limits.RECEIVE_MAXIMUM,
                max_packet_size=limits.BRIDGE_PACKET_BYTES_MAX,
            ),
            "subscriptions": self._subscriptions,
            "leaving": self._leaving,
            "former_filters": self._former_filters,
            "on_refused": self._on_refused,
            "unacknowledged": self._unacknowledged,
            "waiting": self._waiting if self._session_expiry_s else {},
        }
